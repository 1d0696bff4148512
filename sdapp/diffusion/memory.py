"""The memory of a device: how much is used and free, and what to do when it runs out."""

import gc
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from sdapp.config import Memory

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


class Placement:
    """Where the weights of pipelines are; `notes` says what was given up to save memory."""

    def __init__(self, pipes: Mapping[str, Any], device: torch.device, memory: Memory) -> None:
        self._pipes, self._device = tuple(pipes.values()), device
        self._vae, self.notes = self._pipes[0].vae, list[str]()
        self._place(memory.offload)
        self._vae.use_slicing, self._vae.use_tiling = memory.vae_slicing, memory.vae_tiling

    def _place(self, offload: str) -> None:
        """Put the weights on the device, or let accelerate's hooks move them there when they are needed."""
        self._offload = offload
        if offload == "group":  # hooks on the parts, which the pipelines share
            leaves = {"onload_device": self._device, "offload_type": "leaf_level"}
            is_cuda = self._device.type == "cuda"
            self._pipes[0].enable_group_offload(**leaves, use_stream=is_cuda, exclude_modules="vae")
            # A stream would keep copies in the first dtype, and it learns what comes next in `forward` only.
            self._vae.enable_group_offload(**leaves)
            return
        for pipe in self._pipes:
            match offload:
                case "none":
                    pipe.to(self._device)
                case "model":
                    pipe.enable_model_cpu_offload(device=self._device)
                case "sequential":
                    pipe.enable_sequential_cpu_offload(device=self._device)

    def save_more(self) -> bool:
        """Save memory: slice and tile the VAE, then offload. False if nothing is left to do."""
        if not (self._vae.use_slicing and self._vae.use_tiling):
            self._vae.enable_slicing()
            self._vae.enable_tiling()
            then = "the VAE works in slices and tiles, which changes pixels at edges"
        elif self._offload == "none" and self._device.type != "cpu":
            self._place("model")
            then = "only the part of the model that works is on the device"
        else:
            return False
        self.notes.append(f"memory ran out: since then {then}")
        return True

    def free(self) -> None:
        """Give back the memory of a batch that failed."""
        for pipe in self._pipes:
            pipe.maybe_free_model_hooks()  # with `offload: model` it left something on the device
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()
