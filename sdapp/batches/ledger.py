"""The ledger of a batch: a file with one JSON line for each job that was painted or failed."""

import errno
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from sdapp.errors import OutputError
from sdapp.metadata.record import read_header
from sdapp.outputs.files import disk_errors
from sdapp.records import Result

LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Line:
    """What became of one job, or of a line that asks for none: its `id` is `prompts.csv:7`."""

    id: str
    # done, failed, flagged: kept out by the safety checker, or invalid: a line that was skipped
    status: str
    file: str | None = None
    prompt_line: int = 0
    seed: int | None = None
    seconds: float | None = None
    unet_calls: int | None = None
    error: str | None = None
    prompt: str | None = None  # of an image that failed
    clip_similarity: float | None = None  # of image and prompt, with `score: clip`
    prompt_files: tuple[str, ...] = ()  # that ask for it, relative to the folder of the images
    unknown: Mapping[str, Any] = field(default_factory=dict)  # fields of a later version, kept as they are

    @classmethod
    def of(cls, result: Result, path: Path | None, prompt_files: tuple[str, ...] = ()) -> "Line":
        """The line of a result; `path` is its image file, None if it failed."""
        job, record = result.job, result.record
        seconds, calls, likeness = (
            (record.seconds, record.unet_calls, record.clip_similarity) if record else (None, None, None)
        )
        missing = "flagged" if result.flagged else "failed"
        status, file = ("done", path.name) if path else (missing, None)
        return cls(
            id=job.id,
            status=status,
            file=file,
            prompt_line=result.line,
            seed=job.seed,
            seconds=seconds,
            unet_calls=calls,
            error=result.error,
            prompt=None if path else job.prompt,
            clip_similarity=likeness,
            prompt_files=prompt_files,
        )

    @classmethod
    def from_image(cls, path: Path) -> "Line":
        """The line of an image, from the record inside it. Raises InputError."""
        content = read_header(path)
        seed, record = content["job"].get("seed"), content["record"]
        seconds, calls = record.get("seconds"), record.get("unet_calls")
        likeness = record.get("clip_similarity")
        return cls(record["job_id"], "done", path.name, 0, seed, seconds, calls, clip_similarity=likeness)

    @classmethod
    def parse(cls, row: bytes) -> "Line | None":
        """A line from its JSON; None if it is not one, such as a line that a crash cut off."""
        try:
            values = json.loads(row)
        except ValueError:
            return None
        if not isinstance(values, dict) or {type(values.get(key)) for key in ("id", "status")} != {str}:
            return None
        known = {key: values.pop(key) for key in LINE_FIELDS if key in values}
        files, file = known.pop("prompt_files", None), known.pop("file", None)
        if isinstance(file, str) and Path(file).name == file:
            known["file"] = file
        return cls(**known, prompt_files=tuple(files) if isinstance(files, list) else (), unknown=values)

    def encode(self) -> bytes:
        """The line as JSON, with a line feed."""
        values = {**vars(self), **self.unknown}
        del values["unknown"]
        return (json.dumps(values, ensure_ascii=False) + "\n").encode()


LINE_FIELDS = [each.name for each in fields(Line) if each.name != "unknown"]


def append_line(folder: Path, line: Line) -> None:
    """Add a line in one write, so that the lines of two runs do not mix. Raises OutputError."""
    with disk_errors(folder / LEDGER_FILE):
        handle = os.open(folder / LEDGER_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if end := os.fstat(handle).st_size:
                os.lseek(handle, end - 1, os.SEEK_SET)
            is_whole = os.read(handle, 1) in (b"", b"\n")  # a full disk may have cut off the last line
            text = line.encode() if is_whole else b"\n" + line.encode()
            if os.write(handle, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


class Position(NamedTuple):
    """Where the reading of a ledger continues: in the file with this number (its inode), at a byte."""

    file: int = 0
    byte: int = 0


BEGINNING = Position()


class Ledger:
    """Reads the ledger of a folder, one line at a time; `lines` continues where it ended before."""

    def __init__(self, folder: Path) -> None:
        self.path, self.position = folder / LEDGER_FILE, BEGINNING
        self.is_rewritten = False  # since it was read before: it may have lost a line

    def lines(self) -> Iterator[tuple[int, Line]]:
        """Yield what is new, each line with the byte at which it begins. Broken lines are left out.

        A ledger that was rewritten is read from its start. Raises OutputError.
        """
        before, self.position = self.position, BEGINNING
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                is_same = before.file == found.st_ino and before.byte <= found.st_size
                self.is_rewritten = BEGINNING.file != before.file != found.st_ino
                self.position = Position(found.st_ino, file.seek(before.byte if is_same else 0))
                for row in file:
                    if line := Line.parse(row):
                        yield self.position.byte, line
                    if not row.endswith(b"\n"):  # it is being written, or a crash cut it off
                        return
                    self.position = Position(found.st_ino, self.position.byte + len(row))
        except (FileNotFoundError, NotADirectoryError):  # `check_folder` reports the second one
            self.is_rewritten = before != BEGINNING
        except OSError as exc:
            raise OutputError(f"cannot read {self.path}: {exc.strerror}; you can delete it") from exc

    def has_more(self) -> bool:
        """Whether it was added to or rewritten since it was read; reads the rest. Raises OutputError."""
        before = self.position
        for _ in self.lines():
            pass
        return self.position != before


class LastLines:
    """The last line of each job in a ledger, read when it is needed: in memory are only their places.

    `place_of` numbers the `count` jobs that are asked for. Use it in a `with`.
    """

    def __init__(self, ledger: Ledger, place_of: Callable[[str], int | None], count: int) -> None:
        """Read what is new in the ledger. Raises OutputError."""
        self._asked, self._others = array("q", [-1]) * count, dict[str, int]()  # bytes of the file
        for byte, line in ledger.lines():
            if (place := place_of(line.id)) is None:
                self._others[line.id] = byte
            else:
                self._asked[place] = byte
        self._file: BinaryIO = ledger.path.open("rb") if ledger.position != BEGINNING else BytesIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def asked(self, place: int) -> Line | None:
        """The line of a job that is asked for, if there is one."""
        return self._read(self._asked[place])

    def others(self) -> Iterator[Line]:
        """The lines of all other jobs."""
        return filter(None, map(self._read, self._others.values()))

    def _read(self, byte: int) -> Line | None:
        if byte < 0:
            return None
        self._file.seek(byte)
        return Line.parse(self._file.readline())


def read_ledger(folder: Path) -> Iterator[Line]:
    """Yield the lines of a folder's ledger. Broken lines are left out. Raises OutputError."""
    return (line for _, line in Ledger(folder).lines())
