"""Which images of a folder are finished."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from sdapp.batches.ledger import Ledger
from sdapp.errors import InputError, OutputError
from sdapp.metadata.record import read_header

SCAN_SECONDS = 1.0  # at least between two scans of the folder, and
SCAN_SHARE = 20  # at least so many times as long as a scan takes


class Finished:
    """The jobs of a folder that need no painting: `done`, by its images, or `failed`, by its ledger.

    Flagged images count as failed, unless they are wanted.

    `done` maps job ids to the names of images of one format. The ledger can be lost; other runs add to both.
    """

    def __init__(
        self, folder: Path, suffix: str, retry_failed: bool = False, wants_flagged: bool = False
    ) -> None:
        """Look at the folder; `retry_failed` ignores earlier failures. Raises OutputError."""
        self.folder, self.suffix = folder, suffix
        self.done: dict[str, str] = {}
        self.failed: set[str] = set()
        self._seen: set[str] = set()
        self._failures = {"failed"} if wants_flagged else {"failed", "flagged"}
        self._ledger, self._scan_at = Ledger(folder), 0.0
        self._to_retry: set[str] = set()
        if retry_failed:
            self._to_retry = {line.id for _, line in self._ledger.lines() if line.status in self._failures}
        self.refresh()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.done or job_id in self.failed

    def state(self, job_id: str) -> str:
        """`done`, `failed`, or `left` to paint."""
        return "done" if job_id in self.done else "failed" if job_id in self.failed else "left"

    def add(self, job_id: str, path: Path | None) -> None:
        """Add what this run has published, so that it need not be opened: an image, or None for a failure."""
        if path is None:
            self.failed.add(job_id)
        else:
            name = path.name
            self._seen.add(name)
            self.done.setdefault(job_id, name)

    def refresh(self) -> None:
        """Add what is new since the last look; each image is opened once. Raises OutputError."""
        begun = time.monotonic()
        new = sorted(name for name in self._files() if name not in self._seen)
        self._seen.update(new)
        for name in (name for name in new if name.endswith(self.suffix)):
            self._open(name)
        self._read_ledger()
        ended = time.monotonic()
        self._scan_at = ended + max(SCAN_SECONDS, SCAN_SHARE * (ended - begun))

    def look(self) -> None:
        """Do as `refresh`, but scan a large folder seldom: in between read only the ledger.

        Each run writes to the ledger before it gives up the lease of an image. Raises OutputError.
        """
        if time.monotonic() > self._scan_at or self._read_ledger():
            self.refresh()

    def _read_ledger(self) -> bool:
        """Add what is new in the ledger; return whether it was rewritten, when it may have lost a line."""
        for _, line in self._ledger.lines():
            if line.status not in self._failures:
                self.failed.discard(line.id)
            elif not (self._ledger.is_rewritten and line.id in self._to_retry):
                self.failed.add(line.id)
            if line.file and line.file.endswith(self.suffix) and line.id not in self.done:
                self._open(line.file)
        return self._ledger.is_rewritten

    def _open(self, name: str) -> None:
        path = self.folder / name
        try:
            record = read_header(path).get("record")
        except InputError:  # an image of another tool; or a name that is only reserved, without a file yet
            if not (path.exists() and path.stat().st_size):
                self._seen.discard(name)
            return
        if isinstance(record, dict) and isinstance(job_id := record.get("job_id"), str):
            self.done.setdefault(job_id, name)

    def forget_removed(self) -> None:
        """Add what is new, and forget images whose files are gone. Raises OutputError."""
        self.refresh()
        gone = {name: job_id for job_id, name in self.done.items()}
        for name in self._files():
            gone.pop(name, None)
        for name, job_id in gone.items():
            del self.done[job_id]
            self._seen.discard(name)

    def _files(self) -> Iterator[str]:
        """The names of the files in the folder; none if there is no folder, which `check_folder` reports."""
        try:
            with os.scandir(self.folder) as entries:
                yield from (entry.name for entry in entries if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise OutputError(f"output.dir: cannot read {self.folder}: {exc.strerror}") from exc
