"""Prepare the input images of a task for its pipeline, and paste what was painted into them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sdapp.config import Img2Img, Inpaint, Txt2Img
from sdapp.images import Size, inputs, resize_mask
from sdapp.jobs import Job

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TaskInputs:
    """The input image and mask of img2img or inpainting, as the model gets them, and as they were given.

    For inpainting with padding, the model gets only a part of the image: `image` and `mask` are that part,
    scaled to the size that is painted. The result is pasted into `whole`. In masks, 255 is painted.
    """

    image: Image.Image  # RGB
    mask: Image.Image | None = None
    whole: Image.Image | None = (
        None  # the input image, RGBA if it has transparent pixels; only for inpainting
    )
    whole_mask: Image.Image | None = None
    box: Box = (0, 0, 0, 0)  # the part of it that the model sees; may reach beyond its edges


def prepare_inputs(job: Job) -> TaskInputs | None:
    """The input images of a job; None for txt2img. Raises InputError for a changed file."""
    task, size = job.task, (job.width, job.height)
    if isinstance(task, Txt2Img):
        return None
    padding = task.padding if isinstance(task, Inpaint) else None
    asked = task.image, size if padding is None else None, True, job.inputs.get("image")
    image = inputs.image(*asked)
    if isinstance(task, Img2Img):
        return TaskInputs(image)
    whole = inputs.image(*asked, keep_alpha=True)
    mask = inputs.mask(task.mask, task.image, image.size, planned=job.inputs.get("mask"))
    if padding is None:
        return TaskInputs(image, mask, whole, mask, (0, 0, *size))
    box = _box_around(mask, padding, size)
    part = _crop(image, box).resize(size, Image.Resampling.LANCZOS)
    part_mask = resize_mask(_crop(mask, box), size, Image.Resampling.NEAREST)
    return TaskInputs(part, part_mask, whole, mask, box)


def _box_around(mask: Image.Image, padding: int, size: Size) -> Box:
    """The white part of a mask with `padding` pixels around it, widened to the shape of a size."""
    left, top, right, bottom = VaeImageProcessor.get_crop_region(mask, *size, pad=padding)
    # At the edges of the image it is cut and has another shape.
    shape = size[0] / size[1]
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


def keep_sizes_exact(pipe: Any) -> None:
    """Let a pipeline of SDXL tell its UNet sizes in float32: halves round those above 2048 (or 256)."""
    plain = pipe._get_add_time_ids

    def get_add_time_ids(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs | {"dtype": torch.float32})

    pipe._get_add_time_ids = get_add_time_ids


def told_sizes(job: Job) -> dict[str, Any]:
    """The arguments of a pipeline of SDXL for `original_size` and `crop`, which have the height first."""
    given = {"original_size": job.original_size, "crops_coords_top_left": job.crop}
    return {name: (pair[1], pair[0]) for name, pair in given.items() if pair is not None}


def pipeline_arguments(
    job: Job, canvas: TaskInputs | None, batch: int, unet_channels: int, latent_channels: int
) -> dict[str, Any]:
    """The arguments of the task's pipeline for a batch of so many images, besides prompts, seeds and steps.

    `unet_channels` are more than `latent_channels` if the model is made for inpainting.
    """
    size = {"width": job.width, "height": job.height}
    if canvas is None or isinstance(job.task, Txt2Img):
        return size
    # One copy per image: with a single one, inpainting draws all noise from the first generator.
    shared = {"image": [canvas.image] * batch, "strength": job.task.strength}
    if not canvas.mask:
        return shared
    # A UNet that is not made for inpainting never sees the masked image, which the pipeline encodes
    # all the same. That encoding draws from the generators: it is needed if the scheduler draws later.
    is_drawn_later = job.scheduler.resolve().stochastic or bool(job.eta)
    is_needed = unet_channels != latent_channels or is_drawn_later
    unseen = {} if is_needed else {"masked_image_latents": torch.zeros(1, latent_channels, 1, 1)}
    return shared | size | {"mask_image": [canvas.mask] * batch} | unseen


def paste_result(canvas: TaskInputs | None, painted: Image.Image) -> Image.Image:
    """The finished image: after inpainting, the input image with the masked pixels replaced (opaque)."""
    if canvas is None or canvas.whole is None or canvas.whole_mask is None:
        return painted
    left, top, right, bottom = canvas.box
    painted = painted.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    finished = canvas.whole.copy()
    finished.paste(painted, (left, top), canvas.whole_mask.crop(canvas.box))
    return finished
