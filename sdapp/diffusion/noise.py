"""Draw the noise of an image from its seed alone, in float32 on the CPU, for every device and dtype."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

HALVES = (torch.float16, torch.bfloat16)


class Float32Noise(TorchFunctionMode):
    """A context in which `torch.randn` draws in float32 and rounds to the dtype that was asked for.

    torch 2.13 draws the same numbers in half precision, rounded; 2.11 draws others, so that one seed would
    give different images in float32 and float16. It acts on the thread that enters it, and changes no module.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = kwargs.get("dtype")
        if func is torch.randn and dtype in HALVES:
            return func(*args, **kwargs | {"dtype": torch.float32}).to(dtype)
        return func(*args, **kwargs)


def draw_in_float32(owner: Any, *names: str) -> None:
    """Let methods of one object, such as the `step` of a scheduler, draw their noise in `Float32Noise`."""
    for name in names:
        if plain := getattr(owner, name, None):
            # `wraps`: the pipelines look at the signature of a scheduler's step.
            setattr(owner, name, wraps(plain)(partial(_draw_in_float32, plain)))


def _draw_in_float32(plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with Float32Noise():
        return plain(*args, **kwargs)
