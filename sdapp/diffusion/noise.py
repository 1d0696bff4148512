"""The noise of an image: from its seed alone, drawn in float32 on the CPU, whatever the device and the dtype."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor


@wraps(randn_tensor)
def _exact(*args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    return randn_tensor(*args, dtype=torch.float32, **kwargs).to(dtype or torch.float32)


@contextmanager
def float32_noise() -> Iterator[None]:
    """Let diffusers draw what it draws in float32, and round it to the dtype that it asks for.

    Left to itself it draws in the dtype of the model. torch 2.13 then draws the same numbers, rounded; 2.11 others altogether,
    so that a seed would be another image in float16.
    """
    # Each module of diffusers that draws has the function under a name of its own.
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("diffusers.")]
    drawing = [module for module in modules if vars(module).get("randn_tensor") is randn_tensor]
    for module in drawing:
        module.randn_tensor = _exact  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in drawing:
            module.randn_tensor = randn_tensor  # type: ignore[attr-defined]
