"""`batch_size: auto`: how many pictures at a time are fast, and fit."""

import re
import sys
from pathlib import Path

import psutil
import torch

from sdapp.config import BatchSize
from sdapp.jobs import Job

MOST = 32
GAIN = 0.97  # what twice as many must cut a picture's time to
SHORTAGES = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
SHARE = 0.8  # of the free memory; the rest is for what grows otherwise


class BatchSizes:
    """The size of the next batch: as asked for; with `auto` doubled for as long as it makes pictures faster, and fits.

    What is learned holds for pictures of one task and size. Where memory runs out nevertheless, `largest` is lowered.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.largest = device, sys.maxsize
        self._best: dict[tuple[object, ...], tuple[int, float]] = {}  # size, seconds for a picture and a UNet call
        self._next: dict[tuple[object, ...], int] = {}

    def of(self, job: Job, asked: BatchSize) -> int:
        """For a batch that begins with this job."""
        return min(self._next.get(_kind(job), 1) if asked == "auto" else asked, self.largest)

    def learn(self, job: Job, size: int, seconds: float, before: int) -> None:
        """Take in what a batch took: seconds for a picture; `before` is what was `in_use` before it."""
        kind, pace = _kind(job), seconds / max(1, job.unet_calls)
        if size != self._next.get(kind, 1):  # the rest of a pack, or smaller for want of memory
            return
        best, fastest = self._best.get(kind, (0, float("inf")))
        if pace > fastest * GAIN:
            self._next[kind] = best
            return
        self._best[kind] = (size, pace)
        fits = taken(self.device, before) * 2 <= SHARE * _free(self.device)
        self._next[kind] = min(size * 2, MOST) if fits and size not in (self.largest, MOST) else size


def _kind(job: Job) -> tuple[object, ...]:
    return job.task.kind, job.width, job.height, job.guidance_scale > 1, *map(str, job.shortcuts.items())


def in_use(device: torch.device) -> int:
    """The memory in bytes that is taken now; what is the most from now on, `taken` tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process().memory_info().rss)


def taken(device: torch.device, before: int) -> int:
    """What was taken at the most over `before`, in bytes: on a GPU since then, on a CPU by the process in all its life."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() - before
    return _peak() - before


def _peak() -> int:
    """The most memory in bytes that this process has had."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # where ru_maxrss has in it what the process that started this one had
        high = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if high:
            return int(high[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)


def is_shortage(exc: Exception) -> bool:
    """Whether an error says that memory ran out, as the devices say it."""
    return isinstance(exc, torch.OutOfMemoryError | MemoryError) or any(sign in str(exc).lower() for sign in SHORTAGES)
