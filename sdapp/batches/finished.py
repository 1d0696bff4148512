"""Which images of a folder are finished."""

import os
from contextlib import suppress
from pathlib import Path

from sdapp.batches.ledger import BEGINNING, read_ledger
from sdapp.errors import InputError, OutputError
from sdapp.metadata.record import read_header


class Finished:
    """The jobs of a folder that need no painting: `done`, by its images, or `failed`, by its ledger.

    Flagged images count as failed, unless they are wanted.

    `done` maps job ids to images of one format. The ledger can be lost; other runs add to both.
    """

    def __init__(
        self, folder: Path, suffix: str, retry_failed: bool = False, wants_flagged: bool = False
    ) -> None:
        """Look at the folder; `retry_failed` ignores earlier failures. Raises OutputError."""
        self.folder, self.suffix = folder, suffix
        self.done: dict[str, Path] = {}
        self.failed: set[str] = set()
        self._seen: set[str] = set()
        self._failures = {"failed"} if wants_flagged else {"failed", "flagged"}
        self._read_to = read_ledger(folder)[1] if retry_failed else BEGINNING
        self.refresh()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.done or job_id in self.failed

    def state(self, job_id: str) -> str:
        """`done`, `failed`, or `left` to paint."""
        return "done" if job_id in self.done else "failed" if job_id in self.failed else "left"

    def add(self, job_id: str, path: Path) -> None:
        """Add an image that this run has written, so that it need not be opened again."""
        self._seen.add(path.name)
        self.done.setdefault(job_id, path)

    def refresh(self) -> None:
        """Add what is new since the last look; each image is opened once. Raises OutputError."""
        files = self._files()
        new, self._seen = sorted(files - self._seen), self._seen | files
        for name in (name for name in new if name.endswith(self.suffix)):
            self._open(name)
        self.read_ledger()

    def read_ledger(self) -> None:
        """Add what is new in the ledger, which each run writes before it gives up the lease of an image.

        Takes as long for a large folder as for a small one. Raises OutputError.
        """
        lines, self._read_to = read_ledger(self.folder, self._read_to)
        for line in lines:
            (self.failed.add if line.status in self._failures else self.failed.discard)(line.id)
            is_known = line.id in self.done or line.file in self._seen
            if line.file and line.file.endswith(self.suffix) and not is_known:
                self._open(line.file)

    def _open(self, name: str) -> None:
        with suppress(InputError):  # an image of another tool
            record = read_header(self.folder / name).get("record")
            if isinstance(record, dict) and isinstance(job_id := record.get("job_id"), str):
                self.done.setdefault(job_id, self.folder / name)

    def images(self) -> dict[str, Path]:
        """The images of `done` that are still there, after a last look. Raises OutputError."""
        self.refresh()
        here = self._files()
        return {job_id: path for job_id, path in self.done.items() if path.name in here}

    def _files(self) -> set[str]:
        """The names of the files in the folder; none if there is no folder, which `check_folder` reports."""
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as exc:
            raise OutputError(f"output.dir: cannot read {self.folder}: {exc.strerror}") from exc
