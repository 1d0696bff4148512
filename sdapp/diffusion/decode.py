"""Decode latents to pixels; check them and make bytes of them on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

REPEATED = "decoded again in float32: the first pixels were not finite"


@dataclass(frozen=True)
class Decoded:
    """A batch on the CPU; `errors` has the reason where an image is not finite."""

    levels: "np.ndarray[Any, np.dtype[np.uint8]]"  # [B, H, W, 3]
    latents: torch.Tensor  # [B, 4, h, w], float32
    errors: tuple[str | None, ...]
    notes: tuple[tuple[str, ...], ...]

    @classmethod
    def nothing(cls, images: int) -> "Decoded":
        """Of images that were never latents."""
        return cls(
            np.zeros((images, 0, 0, 3), np.uint8), torch.zeros(images, 0), (None,) * images, ((),) * images
        )

    def after(self, earlier: "Decoded") -> "Decoded":
        """The same images, with the errors and notes of those that they were made from."""
        errors = tuple(one or other for one, other in zip(earlier.errors, self.errors, strict=True))
        pairs = zip(earlier.notes, self.notes, strict=True)
        return replace(
            self, errors=errors, notes=tuple(tuple(dict.fromkeys(one + two)) for one, two in pairs)
        )

    def with_parts(self, rows: Sequence[int], parts: "Decoded") -> "Decoded":
        """The same images, with the errors and notes of parts of those in `rows` that were painted again."""
        errors, notes = list(self.errors), list(self.notes)
        for row, error, more in zip(rows, parts.errors, parts.notes, strict=True):
            errors[row] = errors[row] or error
            notes[row] = tuple(dict.fromkeys((*notes[row], *more)))
        return replace(self, errors=tuple(errors), notes=tuple(notes))


def keep_dtype(vae: Any, dtype: torch.dtype) -> None:
    """Let an autoencoder keep its dtype beside a UNet of this `dtype`; then it encodes images of any dtype.

    With `force_upcast` the pipelines would cast it to float32 and to the UNet's dtype again at each call.
    """
    if vae.config.force_upcast:
        vae.register_to_config(force_upcast=False)
    if vae.dtype != dtype:
        plain = vae.encode
        vae.encode = lambda image, *args, **kwargs: plain(image.to(vae.dtype), *args, **kwargs)


def decode_latents(vae: Any, latents: torch.Tensor, cut: bool = False) -> Decoded:
    """Decode latents [B, 4, h, w] of a pipeline; images that overflow are decoded again in float32.

    `cut` rounds levels down.
    """
    scaled = latents / vae.config.scaling_factor
    can_repeat = vae.dtype != torch.float32
    pixels = vae.decode(scaled.to(vae.dtype)).sample.float()  # [B, 3, H, W] in -1 … 1
    finite = torch.stack([_finite(latents), _finite(pixels)])
    levels, kept = _send(_to_bytes(pixels, cut)), _send(latents.float())
    good_latents, good_pixels = finite.tolist()  # waits for the device: what was sent before has arrived
    repeated = [i for i, good in enumerate(good_pixels) if can_repeat and good_latents[i] and not good]
    if repeated:
        pixels[repeated] = _decode_in_float32(vae, scaled[repeated])
        good_pixels, levels = _finite(pixels).tolist(), _to_bytes(pixels, cut).cpu()
    hint = "; try --dtype float32" if latents.dtype != torch.float32 else ""
    unusable = f"are not finite, so there is no image{hint}"
    errors = tuple(
        None if all(good) else f"the {'pixels' if good[0] else 'latents'} {unusable}"
        for good in zip(good_latents, good_pixels, strict=True)
    )
    notes = tuple((REPEATED,) if i in repeated else () for i in range(len(latents)))
    return Decoded(levels.numpy(), kept, errors, notes)


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    """[B], on the device."""
    return tensor.isfinite().flatten(1).all(1)


def _to_bytes(pixels: torch.Tensor, cut: bool) -> torch.Tensor:
    """[B, 3, H, W] in -1 … 1 → bytes [B, H, W, 3], on the device."""
    levels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255)
    return (levels if cut else levels.round()).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _send(tensor: torch.Tensor) -> torch.Tensor:
    """Start the transfer to the CPU; from CUDA it is complete when the device is next waited for."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _decode_in_float32(vae: Any, scaled: torch.Tensor) -> torch.Tensor:
    """Decode image by image, which takes less memory, with the autoencoder in float32 meanwhile."""
    dtype = vae.dtype
    vae.to(torch.float32)
    try:
        return torch.cat([vae.decode(row[None].float()).sample for row in scaled])
    finally:
        vae.to(dtype)
