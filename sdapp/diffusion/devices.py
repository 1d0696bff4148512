"""Choose the device and the dtype."""

import re
from pathlib import Path

import torch

from sdapp.errors import ConfigError, UnavailableError

CPU_INFO = Path("/proc/cpuinfo")
FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # with these it was about twice as fast (benchmarks/README.md)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def choose_device(asked: str) -> torch.device:
    """The device of a setting; `auto` is CUDA, else MPS, else the CPU. Raises UnavailableError."""
    if asked == "auto":
        has_mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(
            "device: cuda is set, but torch finds no CUDA GPU; use --device auto; `sdapp doctor` says why"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UnavailableError(f"device: {asked} is set, but this machine has cuda:0 to cuda:{last}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("device: mps is set, but there is no Apple GPU; use --device auto")
    return device


def choose_dtype(
    asked: str, device: torch.device, is_large: bool = False, info: Path = CPU_INFO
) -> torch.dtype:
    """The dtype of a setting. Raises ConfigError.

    `auto` is float16 on CUDA and MPS, bfloat16 for a large model on a CPU that is fast in it, else float32.
    """
    if asked == "auto" and device.type == "cpu":
        return torch.bfloat16 if is_large and FAST_BFLOAT16 & _cpu_flags(info) else torch.float32
    if asked == "auto":
        return torch.float16
    if asked == "float16" and device.type == "cpu":
        raise ConfigError(
            "dtype: float16 cannot run on a CPU; use float32, or bfloat16 if the CPU supports it"
        )
    return DTYPES[asked]


def has_bfloat16(info: Path = CPU_INFO) -> bool | None:
    """Whether the CPU has instructions for bfloat16, without which it is many times slower than float32.

    None where nothing says so.
    """
    flags = _cpu_flags(info)
    return bool({"bf16", *FAST_BFLOAT16} & flags) if flags else None


def _cpu_flags(info: Path) -> set[str]:
    text = info.read_text() if info.exists() else ""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(lines[0].split()) if lines else set()
