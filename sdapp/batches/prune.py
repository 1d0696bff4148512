"""Images in the folder of a batch that no line of its prompt file asks for any more."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sdapp.batches.finished import Finished
from sdapp.batches.ledger import read_ledger
from sdapp.batches.run import Batch
from sdapp.errors import ConfigError, OutputError
from sdapp.metadata.record import SUFFIXES

# A prompt file that asks for less than this share of its images in the folder is probably the wrong one.
SMALLEST_SHARE = 0.1


@dataclass(frozen=True)
class Strays:
    """What is in a folder: images that are asked for, strays, and images of other prompt files."""

    paths: tuple[Path, ...]  # not asked for, and of no other prompt file
    asked: int
    others: Counter[str]  # how many images belong to each other prompt file

    def remove(self) -> None:
        """Delete the strays. Raises OutputError if the prompt file asks for nearly none of its images."""
        mine = self.asked + len(self.paths)
        if self.asked < SMALLEST_SHARE * mine or (not self.asked and self.others):
            raise OutputError(
                f"--prune --yes: the prompt file with these settings asks for {self.asked} of {mine} images "
                "in the folder; were they made with another file or other settings? "
                "To remove the rest all the same, delete the files that --prune lists"
            )
        for path in self.paths:
            path.unlink(missing_ok=True)


def find_strays(batch: Batch) -> Strays:
    """Find the images that the prompt file does not ask for. Raises ConfigError if it asks for none at all.

    The ledger names the prompt files of an image. An image without them, as older versions left it, is a
    stray only if no image in the folder belongs to another prompt file.
    """
    asked = {item.job.id for item in batch.all_items()}
    if not asked:
        raise ConfigError("--prune: the prompt file asks for no image, so all would go; is it the right one?")
    owners = {line.id: set(line.prompt_files) for line in read_ledger(batch.folder)}
    mine, found = set(batch.prompt_files), list[Path]()
    shared = any(files - mine for files in owners.values())
    present, others = 0, Counter[str]()
    for suffix in SUFFIXES.values():
        for job_id, name in Finished(batch.folder, suffix).done.items():
            files = owners.get(job_id, set())
            if job_id in asked:
                present += 1
            elif files - mine or (shared and not files):
                others[min(files - mine, default="unknown")] += 1
            else:
                found.append(batch.folder / name)
    return Strays(tuple(sorted(found)), present, others)
