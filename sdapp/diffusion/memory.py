"""The memory of a device: how much is used and free, and which errors say that it ran out."""

import re
import sys
from pathlib import Path

import psutil
import torch

SHORTAGES = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


def memory_in_use(device: torch.device) -> int:
    """The bytes in use now. On CUDA it starts a new measurement of the peak, for `memory_taken`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process().memory_info().rss)


def memory_taken(device: torch.device, before: int) -> int:
    """The peak in bytes above `before`: on CUDA since `memory_in_use`, on a CPU since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() - before
    return _peak() - before


def _peak() -> int:
    """The peak memory of this process in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")  # on Linux: ru_maxrss would include the peak of the parent process
    if status.exists() and (high := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(high[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: torch.device) -> int:
    """The free bytes of the device, those that torch has reserved and does not use included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)


def is_shortage(exc: Exception) -> bool:
    """Whether an error says that memory ran out; each kind of device has its own words."""
    has_words = any(words in str(exc).lower() for words in SHORTAGES)
    return has_words or isinstance(exc, torch.OutOfMemoryError | MemoryError)


def usable_memory(device: torch.device) -> int:
    """The bytes of a device that this process can have: those that it has, and those that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return int(psutil.virtual_memory().available)
