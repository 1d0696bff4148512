"""Prepare the input images of a task for its pipeline, and paste what was painted into them."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sdapp.config import Img2Img, Inpaint, Txt2Img
from sdapp.images import inputs
from sdapp.jobs import Job

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TaskInputs:
    """An input image, its mask (255 is painted), and the box that is painted if not the whole image."""

    image: Image.Image
    mask: Image.Image | None = None
    box: Box | None = None


def prepare_inputs(job: Job) -> TaskInputs | None:
    """The input images of a job; None for txt2img. Raises InputError for a changed file."""
    if isinstance(job.task, Txt2Img):
        return None
    path, size, digests = job.task.image, (job.width, job.height), job.inputs
    cropped = isinstance(job.task, Inpaint) and job.task.padding is not None
    image = inputs.image(path, None if cropped else size, any_size=True, planned=digests.get("image"))
    if isinstance(job.task, Img2Img):
        return TaskInputs(image)
    mask = inputs.mask(job.task.mask, path, image.size, planned=digests.get("mask"))
    if job.task.padding is None:
        return TaskInputs(image, mask)
    # The masked part and `padding` pixels around it, widened to the shape of the size that is painted.
    left, top, right, bottom = VaeImageProcessor.get_crop_region(mask, *size, pad=job.task.padding)
    return TaskInputs(image, mask, (left, top, right, bottom))


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
        image = image.crop(canvas.box).resize((job.width, job.height), Image.Resampling.LANCZOS)
        mask = mask and mask.crop(canvas.box).resize((job.width, job.height), Image.Resampling.NEAREST)
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
    """The finished image: after inpainting, the input image with the masked pixels replaced."""
    if canvas is None or canvas.mask is None:
        return painted
    whole = canvas.image.copy()
    if canvas.box is None:
        whole.paste(painted, (0, 0), canvas.mask)
        return whole
    left, top, right, bottom = canvas.box
    painted = painted.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    whole.paste(painted, (left, top), canvas.mask.crop(canvas.box))
    return whole
