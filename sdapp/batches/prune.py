"""Images in the folder of a batch that no line of its prompt file asks for any more."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sdapp.batches.finished import Finished
from sdapp.batches.ledger import read_ledger
from sdapp.batches.run import Batch
from sdapp.errors import ConfigError, OutputError
from sdapp.metadata.record import SUFFIXES

SMALLEST_SHARE = (
    0.1  # of the images that a prompt file has in its folder; if it asks for fewer, it is the wrong one
)


@dataclass(frozen=True)
class Strays:
    """What is in a folder: images that are asked for, strays, and images of other prompt files."""

    paths: tuple[Path, ...]  # not asked for, and of no other prompt file
    asked: int
    others: Counter[str]  # how many images belong to each other prompt file

    @property
    def is_suspicious(self) -> bool:
        """Whether nothing or next to nothing in the folder is asked for."""
        mine = self.asked + len(self.paths)
        return self.asked < SMALLEST_SHARE * mine or (not self.asked and bool(self.others))

    def remove(self) -> None:
        """Delete the images that are not asked for.

        Raises OutputError if nearly none is asked for: a wrong prompt file?
        """
        if self.is_suspicious:
            mine = self.asked + len(self.paths)
            raise OutputError(
                f"--prune --yes: the prompt file with these settings asks for {self.asked} of {mine} images "
                "in the folder; were they made with another file or other settings? "
                "To remove the rest all the same, delete the files that --prune lists"
            )
        for path in self.paths:
            path.unlink(missing_ok=True)


def find_strays(batch: Batch) -> Strays:
    """Look for images that the prompt file does not ask for. Raises what it raises, ConfigError if it asks
    for none.

    The ledger says which prompt files ask for an image. An image without such a line, as in folders of older
    versions, counts as one of this prompt file, unless the folder has images of others: then it is left
    alone.
    """
    asked = {item.job.id for item in batch.all_items()}
    if not asked:
        raise ConfigError("--prune: the prompt file asks for no image, so all would go; is it the right one?")
    owners = {line.id: set(line.prompt_files) for line in read_ledger(batch.folder)}
    mine, shared = set(batch.prompt_files), any(files - set(batch.prompt_files) for files in owners.values())
    found: list[Path] = []
    present, others = 0, Counter[str]()
    for suffix in SUFFIXES.values():
        for job_id, path in Finished(batch.folder, suffix).done.items():
            files = owners.get(job_id, set())
            if job_id in asked:
                present += 1
            elif files - mine or (shared and not files):
                others[min(files - mine, default="unknown")] += 1
            else:
                found.append(path)
    return Strays(tuple(sorted(found)), present, others)
