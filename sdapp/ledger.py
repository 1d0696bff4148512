"""The folder of a batch: which pictures are done, what became of each job, and the base seed that it was begun with."""

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdapp.errors import DiskFullError, InputError, OutputError
from sdapp.outputs import FULL, Result, publish, read_header, this_host, unfinished

LEDGER = "ledger.jsonl"
STATE = "batch.json"
STALE_SECONDS = 3600.0  # writing a picture takes a fraction of a second


@dataclass(frozen=True)
class Line:
    """One line of the ledger: what became of one job."""

    id: str
    status: str  # done, failed
    file: str | None
    prompt_line: int
    seed: int
    seconds: float | None
    unet_calls: int | None
    error: str | None

    @classmethod
    def of(cls, result: Result, prompt_line: int, path: Path | None) -> "Line":
        """The line of a result; `path` is where its picture was published."""
        return cls(
            id=result.job.id,
            status="done" if path else "failed",
            file=path.name if path else None,
            prompt_line=prompt_line,
            seed=result.job.seed,
            seconds=result.record.seconds if result.record else None,
            unet_calls=result.record.unet_calls if result.record else None,
            error=result.error,
        )


def finished(folder: Path) -> dict[str, Path]:
    """Job id → picture, read from the pictures themselves: the ledger can be lost or lie, they cannot."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png")):
        try:
            content = read_header(path)
        except InputError:  # another tool's picture
            continue
        record = content.get("record")
        found.setdefault(str(record.get("job_id")) if isinstance(record, dict) else "", path)
    return found


def sweep(folder: Path) -> None:
    """Remove what killed runs left half-written: those of this host that are gone, and of other hosts what is old."""
    for part in folder.glob(".sdapp-*-[0-9]*-*.part"):
        host, process, _ = part.stem.removeprefix(".sdapp-").rsplit("-", 2)
        with suppress(FileNotFoundError):
            if (process.isdigit() and _is_gone(host, int(process))) or time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _is_gone(host: str, process: int) -> bool:
    """Whether a process of this host has ended; of others nobody knows."""
    if host != this_host() or os.name == "nt":  # where signal 0 is no question
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, and alive
        return False
    return False


def failed(folder: Path) -> set[str]:
    """The ids of jobs whose last line says that they failed."""
    last = {line.id: line.status for line in read(folder)}
    return {job for job, status in last.items() if status == "failed"}


def base_seed(folder: Path, asked: int | None, keep: bool = True) -> int:
    """The seed that a batch was begun with; drawn once and kept in the folder, so that the next run goes on with it.

    Raises OutputError where the folder was begun with another seed than the one asked for, or its state is broken.
    """
    state = folder / STATE
    if not state.exists():
        drawn = secrets.randbelow(2**32) if asked is None else asked
        if not keep:
            return drawn
        made = publish(json.dumps({"base_seed": drawn}).encode(), folder, state.stem, state.suffix)
        if made != state:  # another run was quicker
            made.unlink()
            return base_seed(folder, asked)
        return drawn
    try:
        kept = int(json.loads(state.read_bytes())["base_seed"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{state}: broken; delete it, or restore it, or say --seed") from exc
    if asked is not None and asked != kept:
        raise OutputError(f"{folder} was begun with --seed {kept}, not {asked}; leave --seed out, or choose another folder")
    return kept


def append(folder: Path, line: Line) -> None:
    """Add a line in one write, so that two runs do not mix theirs."""
    with _writing(folder / LEDGER):
        handle = os.open(folder / LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, _text(line))
        finally:
            os.close(handle)


def read(folder: Path) -> Iterator[Line]:
    """The lines of the ledger that can be read; a line that a crash cut off is passed over."""
    path = folder / LEDGER
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            values: dict[str, Any] = json.loads(text)
            yield Line(**values)
        except (ValueError, TypeError):
            continue


def rewrite(folder: Path, lines: Iterable[Line]) -> None:
    """Replace the ledger: one line a job, in the order given."""
    overwrite(folder / LEDGER, (_text(line) for line in lines))


def overwrite(path: Path, chunks: Iterable[bytes]) -> None:
    """Make or replace a file beside the pictures, whole or not at all. Raises OutputError."""
    temporary = unfinished(path.parent)
    with _writing(path):
        try:
            with temporary.open("xb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        error = DiskFullError if exc.errno in FULL else OutputError
        raise error(f"{path}: cannot be written: {exc.strerror}; the pictures are safe, run again") from exc


def _text(line: Line) -> bytes:
    return (json.dumps(asdict(line), ensure_ascii=False) + "\n").encode()
