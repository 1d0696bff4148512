"""Memory of a device: in use, free, run out."""

import re
import sys
from pathlib import Path

import psutil
import torch

SHORTAGES = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


def memory_in_use(device: torch.device) -> int:
    """The memory in bytes that is taken now; what is the most from now on, `memory_taken` tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process().memory_info().rss)


def memory_taken(device: torch.device, before: int) -> int:
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


def free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)


def is_shortage(exc: Exception) -> bool:
    """Whether an error says that memory ran out, as the devices say it."""
    return isinstance(exc, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(exc).lower() for sign in SHORTAGES
    )
