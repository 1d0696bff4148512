"""Make images larger: enlarge them or their latents, and denoise or compute them in tiles."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from PIL import Image

from sdapp.diffusion.shortcuts import Forward, replaced_forward
from sdapp.diffusion.task_inputs import TaskInputs
from sdapp.images import Size, on_white

LATENT_MODES = {"latent": "bilinear", "latent-bicubic": "bicubic", "latent-nearest": "nearest-exact"}
OVERLAP = 0.25  # of a tile, with the next one; what they say is blended there


def enlarge_latents(latents: torch.Tensor, enlarge: str, size: Size, scale: int) -> torch.Tensor:
    """Enlarge latents [B, 4, h, w] to those of images of `size`; `scale` is the pixels per latent."""
    cells = size[1] // scale, size[0] // scale
    return torch.nn.functional.interpolate(latents.float(), cells, mode=LATENT_MODES[enlarge]).to(latents)


def enlarged(image: Image.Image, final: Size, padded: Size) -> TaskInputs:
    """The inputs of a second pass: an image, RGB or RGBA, enlarged by Lanczos to its `final` size.

    Up to the `padded` size its last column and row are repeated; they are cut off the result.
    """
    alpha = None
    if image.mode == "RGBA":
        alpha = image.getchannel("A").resize(final, Image.Resampling.LANCZOS)
        image = on_white(image)
    pixels = np.asarray(image.resize(final, Image.Resampling.LANCZOS))
    more = (0, padded[1] - final[1]), (0, padded[0] - final[0]), (0, 0)
    return TaskInputs(Image.fromarray(np.pad(pixels, more, "edge")), size=final, alpha=alpha)


# --- tiles --------------------------------------------------------------------------------------------------


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover a length, evenly spread, each overlapping the next by OVERLAP or more."""
    if length <= tile:
        return [0]
    number = math.ceil((length - tile) / (tile * (1 - OVERLAP))) + 1
    return [round(i * (length - tile) / (number - 1)) for i in range(number)]


def in_tiles(
    compute: Callable[[torch.Tensor], torch.Tensor], whole: torch.Tensor, tile: int, scale: int = 1
) -> torch.Tensor:
    """Compute [B, C, H, W] → [B, D, H × scale, W × scale] in tiles of `tile` × `tile`, and blend them.

    Where tiles overlap, the weight of each falls linearly towards its edge.
    """
    height, width = whole.shape[-2:]
    if height <= tile and width <= tile:
        return compute(whole)
    total: torch.Tensor | None = None
    weights = torch.zeros(1, 1, height * scale, width * scale, device=whole.device)
    for top in tile_starts(height, tile):
        for left in tile_starts(width, tile):
            part = compute(whole[..., top : top + tile, left : left + tile])
            rows, columns = part.shape[-2:]
            place = (
                ...,
                slice(top * scale, top * scale + rows),
                slice(left * scale, left * scale + columns),
            )
            if total is None:
                total = torch.zeros(*part.shape[:2], height * scale, width * scale, device=whole.device)
            weight = _ramp(rows, whole.device)[:, None] * _ramp(columns, whole.device)
            total[place] += part * weight
            weights[place] += weight
    assert total is not None
    return (total / weights).to(whole.dtype)


def _ramp(length: int, device: torch.device) -> torch.Tensor:
    """Weights of a tile along one side: 1 in the middle, falling to the edges over the overlap."""
    place = torch.arange(length, device=device) + 0.5
    return (torch.minimum(place, length - place) / (length * OVERLAP)).clamp(max=1)


@contextmanager
def with_tiles(unet: Any, tile: int | None) -> Iterator[None]:
    """Let a UNet compute latents that are larger than `tile` in tiles; None: as a whole.

    It is the noise that is blended, at every step, so tiles agree on what they have in common
    (MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113).
    """
    plain: Forward = unet.forward

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        made = in_tiles(lambda part: plain(part, *args, **kwargs)[0], sample, tile or 0)
        return UNet2DConditionOutput(sample=made) if kwargs.get("return_dict", True) else (made,)

    if tile is None:
        yield
        return
    with replaced_forward(unet, forward):
        yield
