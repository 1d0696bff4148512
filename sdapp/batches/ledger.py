"""The folder of a batch: which pictures are done, what became of each job, and the base seed that it was begun with."""

import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from sdapp.errors import InputError, OutputError
from sdapp.outputs.files import Result, overwrite, publish, read_header, writing
from sdapp.prompts.variants import Seeds

LEDGER = "ledger.jsonl"
STATE = "batch.json"


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
        """The line of a result; `path` is where its picture was published."""
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
        """The line of a picture that has none, by the record inside it. Raises InputError."""
        content = read_header(path)
        seed, record = content["job"].get("seed"), content["record"]
        what_ran = record.get("seconds"), record.get("unet_calls")
        return cls(record["job_id"], "done", path.name, prompt_line, seed, *what_ran, None)


class Past:
    """What is over in a folder: jobs done, by the pictures, and jobs failed, by the ledger. Other runs add to both.

    Done is what stands in a picture of the format asked for: the ledger can be lost or lie, the pictures cannot.
    """

    def __init__(self, folder: Path, suffix: str, retry_failed: bool = False) -> None:
        self.folder, self.suffix = folder, suffix
        self.done: dict[str, Path] = {}
        self.failed: set[str] = set()
        self._seen: set[str] = set()
        ledger = folder / LEDGER
        self._read_to = ledger.stat().st_size if retry_failed and ledger.exists() else 0
        self.refresh()

    def __contains__(self, job: str) -> bool:
        return job in self.done or job in self.failed

    def refresh(self) -> None:
        """Take in what was added since; a picture is opened once."""
        try:
            with os.scandir(self.folder) as entries:
                names = {entry.name for entry in entries if entry.name.endswith(self.suffix) and entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):  # who paints says so
            return
        except OSError as exc:
            raise OutputError(f"output.dir: cannot read {self.folder}: {exc.strerror}") from exc
        fresh = sorted(names - self._seen)
        self._seen |= names
        for name in fresh:
            with suppress(InputError):  # another tool's picture
                record = read_header(self.folder / name).get("record")
                if isinstance(record, dict) and isinstance(job := record.get("job_id"), str):
                    self.done.setdefault(job, self.folder / name)
        for line in self._news():
            (self.failed.add if line.status == "failed" else self.failed.discard)(line.id)

    def _news(self) -> Iterator[Line]:
        try:
            with (self.folder / LEDGER).open("rb") as file:
                if self._read_to > os.fstat(file.fileno()).st_size:  # written anew by another run
                    self._read_to = 0
                file.seek(self._read_to)
                text = file.read()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise OutputError(f"cannot read {self.folder / LEDGER}: {exc.strerror}; it can be deleted") from exc
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        yield from _lines(whole)


@dataclass(frozen=True)
class Begun:
    """How lines without a seed get theirs, since the first run on a folder."""

    base_seed: int
    seeds: Seeds


def begin(folder: Path, seed: int | None, seeds: Seeds | None, keep: Begun | None = None) -> Begun:
    """What a batch was begun with, as the folder has it; else `keep` is kept there, so that the next run goes on with it.

    Without either, a base seed is drawn if none is asked for.
    Raises OutputError where the folder was begun with something else than what is asked for, or its state is broken.
    """
    state = folder / STATE
    if not state.exists():
        if keep is None:
            return Begun(secrets.randbelow(2**32) if seed is None else seed, seeds or "derived")
        made = publish(json.dumps(asdict(keep)).encode(), folder, state.stem, state.suffix)
        if made == state:
            return keep
        made.unlink()  # another run was quicker
    try:
        kept = json.loads(state.read_bytes())
        begun = Begun(int(kept["base_seed"]), kept["seeds"])
        if begun.seeds not in get_args(Seeds):
            raise ValueError(begun.seeds)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{state}: broken; restore it, or delete it and say --seed") from exc
    for flag, asked, was in (("--seed", seed, begun.base_seed), ("--seeds", seeds, begun.seeds)):
        if asked is not None and asked != was:
            raise OutputError(f"{folder} was begun with {flag} {was}, not {asked}; leave {flag} out, or choose another folder")
    return begun


def append(folder: Path, line: Line) -> None:
    """Add a line in one write, so that two runs do not mix theirs; one that a full disk cut off is ended before it."""
    with writing(folder / LEDGER):
        handle = os.open(folder / LEDGER, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if end := os.fstat(handle).st_size:
                os.lseek(handle, end - 1, os.SEEK_SET)
            text = _text(line) if os.read(handle, 1) in (b"", b"\n") else b"\n" + _text(line)
            if os.write(handle, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def read(folder: Path) -> Iterator[Line]:
    """The lines of the ledger that can be read; a line that a crash cut off is passed over."""
    path = folder / LEDGER
    yield from _lines(path.read_bytes() if path.exists() else b"")


def rewrite(folder: Path, lines: Iterable[Line]) -> None:
    """Replace the ledger: one line a job, in the order given."""
    overwrite(folder / LEDGER, (_text(line) for line in lines))


def _lines(text: bytes) -> Iterator[Line]:
    for row in text.decode(errors="replace").split("\n"):
        try:
            values: dict[str, Any] = json.loads(row)
            yield Line(**values)
        except (ValueError, TypeError):
            continue


def _text(line: Line) -> bytes:
    return (json.dumps(asdict(line), ensure_ascii=False) + "\n").encode()
