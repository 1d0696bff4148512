"""Prepare the input images of a task for its pipeline, and paste what was painted into them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sdapp.config import Img2Img, Inpaint, Txt2Img
from sdapp.images import inputs, resize_mask
from sdapp.jobs import Job

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TaskInputs:
    """An input image as the model sees it (RGB) and, for inpainting, what the finished image is made of."""

    image: Image.Image
    kept: Image.Image | None = None  # the input image, RGBA if it has transparent pixels
    mask: Image.Image | None = None  # 255 is painted
    box: Box | None = None  # the part that is painted if not the whole image; may reach beyond its edges


def prepare_inputs(job: Job) -> TaskInputs | None:
    """The input images of a job; None for txt2img. Raises InputError for a changed file."""
    if isinstance(job.task, Txt2Img):
        return None
    path, digests = job.task.image, job.inputs
    cropped = isinstance(job.task, Inpaint) and job.task.padding is not None
    asked = path, None if cropped else (job.width, job.height), True, digests.get("image")
    image = inputs.image(*asked)
    if isinstance(job.task, Img2Img):
        return TaskInputs(image)
    mask = inputs.mask(job.task.mask, path, image.size, planned=digests.get("mask"))
    return TaskInputs(image, inputs.image(*asked, keep_alpha=True), mask, _box(job, mask))


def _box(job: Job, mask: Image.Image) -> Box | None:
    """The masked part and the padding around it, widened to the shape of the size that is painted."""
    if not isinstance(job.task, Inpaint) or job.task.padding is None:
        return None
    region = VaeImageProcessor.get_crop_region(mask, job.width, job.height, pad=job.task.padding)
    left, top, right, bottom = (
        region  # upstream cuts it at the edges of the image, whatever its shape is then
    )
    shape = job.width / job.height
    wide = max(0, int((bottom - top) * shape) - (right - left))
    high = max(0, int((right - left) / shape) - (bottom - top))
    return left - wide // 2, top - high // 2, right + wide - wide // 2, bottom + high - high // 2


def _crop(image: Image.Image, box: Box) -> Image.Image:
    """Crop an image; beyond its edges its outermost pixels are repeated."""
    left, top, right, bottom = box
    rows = np.arange(top, bottom).clip(0, image.height - 1)
    columns = np.arange(left, right).clip(0, image.width - 1)
    return Image.fromarray(np.asarray(image)[rows[:, None], columns])


def paint_whole_cells(pipe: Any) -> None:
    """Let an inpainting pipeline repaint every latent cell that has any white of the mask.

    By itself it looks at the upper left pixel of each cell only, and paints nothing where a mask is thinner
    (`prepare_mask_latents` of diffusers, which resizes the mask [B, 1, H, W] to the size of the latents).
    """
    plain = pipe.prepare_mask_latents

    def prepare_mask_latents(mask: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return plain(torch.nn.functional.max_pool2d(mask, pipe.vae_scale_factor), *args, **kwargs)

    pipe.prepare_mask_latents = prepare_mask_latents


def pipeline_arguments(
    job: Job, canvas: TaskInputs | None, batch: int, unet_channels: int, latent_channels: int
) -> dict[str, Any]:
    """The arguments of the task's pipeline for a batch of so many images, besides prompts, seeds and steps.

    `unet_channels` are more than `latent_channels` if the model is made for inpainting.
    """
    size = {"width": job.width, "height": job.height}
    if canvas is None or isinstance(job.task, Txt2Img):
        return size
    image, mask = canvas.image, canvas.mask
    if canvas.box:
        painted_size = job.width, job.height
        image = _crop(image, canvas.box).resize(painted_size, Image.Resampling.LANCZOS)
        mask = mask and resize_mask(_crop(mask, canvas.box), painted_size, Image.Resampling.NEAREST)
    # One copy per image: with a single one, inpainting draws all noise from the first generator.
    shared = {"image": [image] * batch, "strength": job.task.strength}
    if not mask:
        return shared
    # A UNet that is not made for inpainting never sees the masked image, which the pipeline encodes
    # all the same. That encoding draws from the generators: it is needed if the scheduler draws later.
    is_drawn_later = job.scheduler.resolve().stochastic or bool(job.eta)
    is_needed = unet_channels != latent_channels or is_drawn_later
    unseen = {} if is_needed else {"masked_image_latents": torch.zeros(1, latent_channels, 1, 1)}
    return shared | size | {"mask_image": [mask] * batch} | unseen


def paste_result(canvas: TaskInputs | None, painted: Image.Image) -> Image.Image:
    """The finished image: after inpainting, the input image with the masked pixels replaced (opaque)."""
    if canvas is None or canvas.kept is None or canvas.mask is None:
        return painted
    left, top, right, bottom = box = canvas.box or (0, 0, *canvas.kept.size)
    painted = painted.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    whole = canvas.kept.copy()
    whole.paste(painted, (left, top), canvas.mask.crop(box))
    return whole
