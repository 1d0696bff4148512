"""Extend an image: fill the new part before it is painted, and join both without a seam."""

import numpy as np
import torch
from PIL import Image

FEATHER = 32  # pixels of the new part that take on the colours of the old one
DETAIL = 8


def continued(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Continue values [C, H, W] smoothly where `known` [1, H, W] is 0; where it is 1 they stay.

    Push-pull over a pyramid of averages (Gortler et al. 1996): close to what is known its details count, far
    away only its mean colours.
    """
    height, width = values.shape[-2:]
    if height == width == 1 or bool((known == 1).all()):
        return values
    weights = torch.nn.functional.avg_pool2d(known, 2, ceil_mode=True)
    means = torch.nn.functional.avg_pool2d(values * known, 2, ceil_mode=True) / weights.clamp(min=1e-6)
    coarse = continued(means, (weights * 4).clamp(max=1))
    wide = torch.nn.functional.interpolate(coarse[None], (height, width), mode="bilinear")[0]
    return values * known + wide * (1 - known)


def filled(image: Image.Image, new: Image.Image) -> Image.Image:
    """Fill the new part of an RGB image, white in the mask `new`, with the colours of the old part."""
    return _to_image(continued(_to_tensor(image), 1 - _to_tensor(new)))


def without_seam(painted: Image.Image, image: Image.Image, new: Image.Image) -> Image.Image:
    """Shift the colours of what was painted, RGB, so that its new part continues the old `image`.

    By how much it differs from the image in the old part is continued into the new part, less and less up to
    FEATHER pixels: at the border pixel by pixel, from DETAIL pixels on smoothly. Only the new part is of use.
    """
    from scipy.ndimage import distance_transform_edt  # slow to import, and no other task needs it

    colours, mask = _to_tensor(painted), _to_tensor(new)
    differences = _to_tensor(image) - colours
    away, (rows, columns) = distance_transform_edt(mask[0].numpy(), return_indices=True)
    distance = torch.from_numpy(away).float() - 1  # 0 next to the old part
    shift = continued(differences, 1 - mask)
    shift += (differences[:, rows, columns] - shift) * (1 - distance / DETAIL).clamp(0, 1)
    return _to_image(colours + shift * (1 - distance / FEATHER).clamp(0, 1))


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """[3 or 1, H, W] in 0 … 1, float32 on the CPU."""
    levels = torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
    return levels[None] if levels.ndim == 2 else levels.permute(2, 0, 1)


def _to_image(colours: torch.Tensor) -> Image.Image:
    levels = (colours.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
