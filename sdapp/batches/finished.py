"""Which images of a folder are finished."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sdapp.batches.ledger import LEDGER_FILE, Line, parse_lines
from sdapp.errors import InputError, OutputError
from sdapp.metadata.record import read_header


class Finished:
    """What is over in a folder: jobs done, by the images, and jobs failed, by the ledger. Other runs add to both.

    Done is what stands in an image of the format asked for: the ledger can be lost or lie, the images cannot.
    """

    def __init__(self, folder: Path, suffix: str, retry_failed: bool = False) -> None:
        self.folder, self.suffix = folder, suffix
        self.done: dict[str, Path] = {}
        self.failed: set[str] = set()
        self._seen: set[str] = set()
        ledger = folder / LEDGER_FILE
        self._read_to = ledger.stat().st_size if retry_failed and ledger.exists() else 0
        self.refresh()

    def __contains__(self, job: str) -> bool:
        return job in self.done or job in self.failed

    def refresh(self) -> None:
        """Take in what was added since; an image is opened once."""
        try:
            with os.scandir(self.folder) as entries:
                names = {
                    entry.name for entry in entries if entry.name.endswith(self.suffix) and entry.is_file()
                }
        except (FileNotFoundError, NotADirectoryError):  # who paints says so
            return
        except OSError as exc:
            raise OutputError(f"output.dir: cannot read {self.folder}: {exc.strerror}") from exc
        fresh = sorted(names - self._seen)
        self._seen |= names
        for name in fresh:
            with suppress(InputError):  # another tool's image
                record = read_header(self.folder / name).get("record")
                if isinstance(record, dict) and isinstance(job := record.get("job_id"), str):
                    self.done.setdefault(job, self.folder / name)
        for line in self._news():
            (self.failed.add if line.status == "failed" else self.failed.discard)(line.id)

    def _news(self) -> Iterator[Line]:
        try:
            with (self.folder / LEDGER_FILE).open("rb") as file:
                if self._read_to > os.fstat(file.fileno()).st_size:  # written anew by another run
                    self._read_to = 0
                file.seek(self._read_to)
                text = file.read()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise OutputError(
                f"cannot read {self.folder / LEDGER_FILE}: {exc.strerror}; it can be deleted"
            ) from exc
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        yield from parse_lines(whole)
