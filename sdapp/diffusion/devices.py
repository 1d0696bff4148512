"""Devices and dtypes."""

import re
from pathlib import Path

import torch

from sdapp.errors import ConfigError, UnavailableError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def choose_device(asked: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. Raises UnavailableError for a device that is not there."""
    if asked == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    device = torch.device(asked)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("device: cuda is asked for, but this torch finds no CUDA GPU; use --device auto, and "
                               "`sdapp doctor` to see why")  # fmt: skip
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(
            f"device: {asked} is asked for; this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("device: mps is asked for, but this is no Apple GPU; use --device auto")
    return device


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on CUDA and MPS, else float32. Raises ConfigError for float16 on a CPU."""
    if asked == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if asked == "float16" and device.type == "cpu":
        raise ConfigError("dtype: float16 cannot run on a CPU; use float32, or bfloat16 where the CPU has it")
    return DTYPES[asked]


def lacks_bfloat16(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU is known to have no bfloat16 of its own, so that it is many times slower than float32."""
    flags = (
        re.findall(r"^(?:flags|Features)\s*:(.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    )
    return bool(flags) and not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags[0].split())
