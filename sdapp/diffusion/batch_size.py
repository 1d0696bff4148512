"""`batch_size: auto`: find how many images at a time are fast and fit into memory."""

import sys

import torch

from sdapp.config import BatchSize
from sdapp.diffusion.memory import free_memory, memory_taken
from sdapp.jobs import Job

MAX_BATCH = 32
GAIN = 0.97  # twice the size must cut an image's time to this share
SHARE = 0.8  # of the free memory; the rest is for everything else that grows


class BatchSizes:
    """The size of the next batch: as given; `auto` doubles it while that makes images faster and fits.

    What is learned holds for images of one task and size. `largest` is lowered when memory runs out.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.largest = device, sys.maxsize
        # The fastest size and its seconds per image and UNet call.
        self._best: dict[tuple[object, ...], tuple[int, float]] = {}
        self._next: dict[tuple[object, ...], int] = {}

    def of(self, job: Job, asked: BatchSize) -> int:
        """The size of a batch that begins with this job; `asked` is the setting."""
        return min(self._next.get(_kind(job), 1) if asked == "auto" else asked, self.largest)

    def learn(self, job: Job, size: int, seconds: float, before: int) -> None:
        """Learn from a batch: `seconds` per image; `before` is the memory that was in use before it."""
        kind, pace = _kind(job), seconds / max(1, job.unet_calls)
        if size != self._next.get(kind, 1):  # the last images of a pack, or fewer because memory ran out
            return
        best, fastest = self._best.get(kind, (0, float("inf")))
        if pace > fastest * GAIN:
            self._next[kind] = best
            return
        self._best[kind] = (size, pace)
        fits = memory_taken(self.device, before) * 2 <= SHARE * free_memory(self.device)
        may_grow = fits and size not in (self.largest, MAX_BATCH)
        self._next[kind] = min(size * 2, MAX_BATCH) if may_grow else size


def _kind(job: Job) -> tuple[object, ...]:
    size = job.width, job.height, job.final_width, job.final_height
    return job.task.kind, *size, job.guidance_scale > 1, *map(str, job.shortcuts.items())
