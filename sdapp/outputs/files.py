"""Image files on disk: written whole or not at all, under names that nobody else has."""

import errno
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sdapp.errors import DiskFullError, OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)
HOST_PROCESSES = 0xEFFFFFFC  # PROC_PID_INIT_INO of Linux: the processes of the machine itself
NO_LINKS = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def check_folder(folder: Path) -> None:
    """Make the folder and see that it can be written, before anything is painted. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = unfinished(folder)
        probe.touch(exist_ok=False)
        probe.unlink()
    except FileExistsError as exc:
        raise OutputError(
            f"output.dir: cannot write to {folder}: it is a file, not a folder; choose another with --out"
        ) from exc
    except OSError as exc:
        error = DiskFullError if exc.errno in FULL else OutputError
        raise error(
            f"output.dir: cannot write to {folder}: {exc.strerror}; choose another with --out"
        ) from exc


def publish(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    """Write `data` to a new file `stem + suffix`, or `stem-2 …` where that is taken; it appears whole or not at all.

    The bytes are on the disk before the name is. Raises OutputError.
    """
    temporary = unfinished(folder)
    with disk_errors(folder / f"{stem}{suffix}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            for number in count(1):
                final = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
                if claim_name(temporary, final):
                    _sync_folder(folder)
                    return final
        finally:
            temporary.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def overwrite(path: Path, chunks: Iterable[bytes]) -> None:
    """Make or replace a file, whole or not at all. Raises OutputError."""
    temporary = unfinished(path.parent)
    with disk_errors(path):
        try:
            with temporary.open("xb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a disk into OutputError, or DiskFullError, with the place in it."""
    try:
        yield
    except OSError as exc:
        if exc.errno in FULL:
            raise DiskFullError(
                f"no room left for {path}; make some and run again: what is finished is safe"
            ) from exc
        raise OutputError(f"cannot write {path}: {exc.strerror}; what is finished is safe") from exc


def unfinished(folder: Path) -> Path:
    """The name of a file that is being written, with the host and the process that write it."""
    return folder / f".sdapp-{this_host()}-{os.getpid()}-{secrets.token_hex(8)}.part"


def this_host() -> str:
    """The name of this machine, as far as it fits into a file name; of a container, which may share it, with a number."""
    name, processes = re.sub(r"[^\w.]", "_", socket.gethostname())[:60], Path("/proc/self/ns/pid")
    number = processes.stat().st_ino if processes.exists() else HOST_PROCESSES
    return name if number == HOST_PROCESSES else f"{name}.{number}"


def claim_name(temporary: Path, final: Path) -> bool:
    """Give the file its name unless the name is taken. A hard link is the exclusive rename of POSIX.

    Where a file system has no links, such as exFAT, the name is taken first, and is an empty file for a moment.
    """
    try:
        if os.name == "nt":  # there, renaming is exclusive
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
    with suppress(OSError):  # the image is there; some network folders cannot promise more
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- reading back -------------------------------------------------------------------------------------------------
