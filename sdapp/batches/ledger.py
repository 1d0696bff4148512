"""The folder of a batch: which images are done, what became of each job, and the base seed that it was begun with."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdapp.metadata.record import read_header
from sdapp.outputs.files import disk_errors, overwrite
from sdapp.records import Result

LEDGER_FILE = "ledger.jsonl"


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
    def of(cls, result: Result, path: Path | None) -> "Line":
        """The line of a result; `path` is where its image was published."""
        return cls(
            id=result.job.id,
            status="done" if path else "failed",
            file=path.name if path else None,
            prompt_line=result.line,
            seed=result.job.seed,
            seconds=result.record.seconds if result.record else None,
            unet_calls=result.record.unet_calls if result.record else None,
            error=result.error,
        )

    @classmethod
    def found(cls, path: Path, prompt_line: int) -> "Line":
        """The line of an image that has none, by the record inside it. Raises InputError."""
        content = read_header(path)
        seed, record = content["job"].get("seed"), content["record"]
        what_ran = record.get("seconds"), record.get("unet_calls")
        return cls(record["job_id"], "done", path.name, prompt_line, seed, *what_ran, None)


def append_line(folder: Path, line: Line) -> None:
    """Add a line in one write, so that two runs do not mix theirs; one that a full disk cut off is ended before it."""
    with disk_errors(folder / LEDGER_FILE):
        handle = os.open(folder / LEDGER_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if end := os.fstat(handle).st_size:
                os.lseek(handle, end - 1, os.SEEK_SET)
            text = _encode_line(line) if os.read(handle, 1) in (b"", b"\n") else b"\n" + _encode_line(line)
            if os.write(handle, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def read_ledger(folder: Path) -> Iterator[Line]:
    """The lines of the ledger that can be read; a line that a crash cut off is passed over."""
    path = folder / LEDGER_FILE
    yield from parse_lines(path.read_bytes() if path.exists() else b"")


def rewrite_ledger(folder: Path, lines: Iterable[Line]) -> None:
    """Replace the ledger: one line a job, in the order given."""
    overwrite(folder / LEDGER_FILE, (_encode_line(line) for line in lines))


def parse_lines(text: bytes) -> Iterator[Line]:
    for row in text.decode(errors="replace").split("\n"):
        try:
            values: dict[str, Any] = json.loads(row)
            yield Line(**values)
        except (ValueError, TypeError):
            continue


def _encode_line(line: Line) -> bytes:
    return (json.dumps(asdict(line), ensure_ascii=False) + "\n").encode()
