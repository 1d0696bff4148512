"""Choose the device and the dtype."""

import re
from pathlib import Path

import torch

from sdapp.errors import ConfigError, UnavailableError

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


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """The dtype of a setting; `auto` is float16 on CUDA and MPS, else float32. Raises ConfigError."""
    if asked == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if asked == "float16" and device.type == "cpu":
        raise ConfigError(
            "dtype: float16 cannot run on a CPU; use float32, or bfloat16 if the CPU supports it"
        )
    return DTYPES[asked]


def has_bfloat16(info: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the CPU has instructions for bfloat16, without which it is many times slower than float32.

    None where nothing says so.
    """
    text = info.read_text() if info.exists() else ""
    flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags[0].split())) if flags else None
