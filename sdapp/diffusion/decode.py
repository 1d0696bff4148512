"""Latents become pixels: decoded, checked and made bytes on the device, waited for once a batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MENDED = "decoded again in float32: the first pixels were not finite"


@dataclass(frozen=True)
class Decoded:
    """A batch on the CPU; of an image that is not finite, `errors` has the reason."""

    levels: "np.ndarray[Any, np.dtype[np.uint8]]"  # [B, H, W, 3]
    latents: torch.Tensor  # [B, 4, h, w], float32
    errors: tuple[str | None, ...]
    notes: tuple[tuple[str, ...], ...]


def decode_latents(vae: Any, latents: torch.Tensor) -> Decoded:
    """Latents [B, 4, h, w] as the pipelines leave them; pixels that overflow are decoded again in float32."""
    scaled = latents / vae.config.scaling_factor
    pixels = vae.decode(scaled.to(vae.dtype)).sample.float()  # [B, 3, H, W] in -1 … 1
    finite, levels, kept = (
        torch.stack([_finite(latents), _finite(pixels)]),
        _sent(_levels(pixels)),
        _sent(latents.float()),
    )
    good_latents, good_pixels = (
        finite.tolist()
    )  # here the device is waited for, and what was sent before has come
    overflowed = [i for i, good in enumerate(good_pixels) if good_latents[i] and not good]
    mended = overflowed if vae.dtype != torch.float32 else []
    if mended:
        _decode_in_float32(vae, scaled, pixels, mended)
        good_pixels, levels = _finite(pixels).tolist(), _levels(pixels).cpu()
    hint = "; try --dtype float32" if latents.dtype != torch.float32 else ""
    errors = [
        None
        if all(good)
        else f"the {'pixels' if good[0] else 'latents'} are not finite, so there is no image{hint}"
        for good in zip(good_latents, good_pixels, strict=True)
    ]
    notes = [(MENDED,) if i in mended else () for i in range(len(latents))]
    return Decoded(levels.numpy(), kept, tuple(errors), tuple(notes))


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    """[B], on the device."""
    return tensor.isfinite().flatten(1).all(1)


def _levels(pixels: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in -1 … 1 → bytes [B, H, W, 3], on the device."""
    return (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _sent(tensor: torch.Tensor) -> torch.Tensor:
    """On its way to the CPU; from CUDA it is there when the device is next waited for."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _decode_in_float32(vae: Any, scaled: torch.Tensor, pixels: torch.Tensor, which: list[int]) -> None:
    dtype = vae.dtype
    vae.to(torch.float32)
    try:
        for i in which:
            pixels[i] = vae.decode(scaled[i : i + 1].float()).sample[0]
    finally:
        vae.to(dtype)
