"""Which images of a folder are finished."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sdapp.batches.ledger import LEDGER_FILE, Line, ledger_size, parse_lines
from sdapp.errors import InputError, OutputError
from sdapp.metadata.record import read_header


class Finished:
    """The jobs of a folder that need no painting: done according to the images, or failed according to the
    ledger.

    `done` maps job ids to images of one format. The ledger can be lost or wrong; the images cannot. Other
    runs add to both.
    """

    def __init__(self, folder: Path, suffix: str, retry_failed: bool = False) -> None:
        """Look at the folder. With `retry_failed`, failures in the ledger so far do not count.

        Raises OutputError.
        """
        self.folder, self.suffix = folder, suffix
        self.done: dict[str, Path] = {}
        self.failed: set[str] = set()
        self._seen: set[str] = set()
        self._read_to = ledger_size(folder) if retry_failed else 0
        self.refresh()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.done or job_id in self.failed

    def refresh(self) -> None:
        """Take in what was added since the last look; each image is opened once. Raises OutputError."""
        try:
            with os.scandir(self.folder) as entries:
                names = {
                    entry.name for entry in entries if entry.name.endswith(self.suffix) and entry.is_file()
                }
        except (FileNotFoundError, NotADirectoryError):  # `check_folder` reports it
            return
        except OSError as exc:
            raise OutputError(f"output.dir: cannot read {self.folder}: {exc.strerror}") from exc
        new, self._seen = sorted(names - self._seen), self._seen | names
        for name in new:
            with suppress(InputError):  # an image of another tool
                record = read_header(self.folder / name).get("record")
                if isinstance(record, dict) and isinstance(job_id := record.get("job_id"), str):
                    self.done.setdefault(job_id, self.folder / name)
        for line in self._new_lines():
            (self.failed.add if line.status == "failed" else self.failed.discard)(line.id)

    def _new_lines(self) -> Iterator[Line]:
        path = self.folder / LEDGER_FILE
        try:
            with path.open("rb") as file:
                if self._read_to > os.fstat(file.fileno()).st_size:  # another run has rewritten it
                    self._read_to = 0
                file.seek(self._read_to)
                text = file.read()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise OutputError(f"cannot read {path}: {exc.strerror}; you can delete it") from exc
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        yield from parse_lines(whole)
