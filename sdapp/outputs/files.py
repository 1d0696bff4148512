"""Files on disk: written whole or not at all, never over a file of another run."""

import errno
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from sdapp.errors import DiskFullError, OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)
HOST_PROCESSES = 0xEFFFFFFC  # Linux: inode of the host's own process namespace (PROC_PID_INIT_INO)
NO_LINKS = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def check_folder(folder: Path, key: str = "output.dir") -> None:
    """Make the folder of a setting and check that it can be written to. Raises OutputError, DiskFullError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = unfinished(folder)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as exc:
        error = DiskFullError if exc.errno in FULL else OutputError
        taken = isinstance(exc, FileExistsError | NotADirectoryError)
        reason = (taken and _what_blocks(folder)) or exc.strerror
        way = "choose another with --out" if key == "output.dir" else "choose another folder"
        raise error(f"{key}: cannot write to {folder}: {reason}; {way}") from exc


def _what_blocks(folder: Path) -> str | None:
    """Say which part of a path is neither a folder nor free to become one; None if there is no such part."""
    for part in (folder, *folder.parents):
        if part.is_symlink() and not part.exists():
            return f"{part} is a link to {part.readlink()}, which does not exist"
        if part.exists() and not part.is_dir():
            return f"{part} is a file, not a folder"
    return None


def publish(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    """Write a new file `stem + suffix`, or `stem-2 + suffix` … if that name is taken, and return its path.

    The file appears whole or not at all: its bytes are on the disk before it gets its name. Raises
    OutputError.
    """
    with _written(folder / f"{stem}{suffix}", [data]) as temporary:
        names = (folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}" for number in count(1))
        final = next(path for path in names if claim_name(temporary, path))
        _sync_folder(folder)
        return final


def create(path: Path, data: bytes) -> bool:
    """Write a new file whole or not at all; return False if its name is taken. Raises OutputError."""
    with _written(path, [data]) as temporary:
        return claim_name(temporary, path)


def overwrite(path: Path, chunks: Iterable[bytes], may: Callable[[], bool] = lambda: True) -> None:
    """Write a file, or replace it, whole or not at all. Raises OutputError.

    `may` is asked when all bytes are on the disk, which can take long; if it says no, nothing is replaced.
    """
    with _written(path, chunks) as temporary:
        if may():
            temporary.replace(path)


@contextmanager
def _written(path: Path, chunks: Iterable[bytes]) -> Iterator[Path]:
    """Make the folder of a path, and a temporary file in it whose bytes are on the disk."""
    temporary = unfinished(path.parent)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError or DiskFullError that names the path."""
    try:
        yield
    except OSError as exc:
        if exc.errno in FULL:
            way = "free some space and run again: finished files are safe"
            raise DiskFullError(f"the disk is full: cannot write {path}; {way}") from exc
        raise OutputError(f"cannot write {path}: {exc.strerror}; finished files are safe") from exc


def unfinished(folder: Path) -> Path:
    """A name for a file that is being written; it tells the host and the process that write it."""
    return folder / f".sdapp-{this_host()}-{os.getpid()}-{secrets.token_hex(8)}.part"


@cache
def this_host() -> str:
    """The name of this machine, fit for a file name; containers may share a name and get a number added."""
    name, processes = re.sub(r"[^\w.]", "_", socket.gethostname())[:60], Path("/proc/self/ns/pid")
    number = processes.stat().st_ino if processes.exists() else HOST_PROCESSES
    return name if number == HOST_PROCESSES else f"{name}.{number}"


def claim_name(temporary: Path, final: Path) -> bool:
    """Give a finished file its name, and return whether the name was free.

    A hard link fails if the name exists, which a rename of POSIX does not. File systems without links, such
    as exFAT: an empty file reserves the name first.
    """
    try:
        if os.name == "nt":  # renaming fails there if the name exists
            temporary.rename(final)
            return True
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        try:
            final.open("xb").close()
        except FileExistsError:
            return False
        temporary.replace(final)
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    with suppress(OSError):  # the file is there; some network folders offer no sync
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
