"""What a job's task hands to its pipeline, and the image that the painted pixels become."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sdapp import images
from sdapp.config import Img2Img, Inpaint, Txt2Img
from sdapp.jobs import Job

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TaskInputs:
    """An input image, its mask (255 is painted anew), and the box of it that is painted if not all of it is."""

    image: Image.Image
    mask: Image.Image | None = None
    box: Box | None = None


@lru_cache(maxsize=4)
def _read(
    path: str, size: images.Size | None, mask_path: str | None
) -> tuple[Image.Image, Image.Image | None]:
    data, _ = images.read_bytes(path, "image")
    image = images.load_image(data, path, size, any_size=True)
    if mask_path is None:
        return image, None
    mask_data, _ = images.read_bytes(mask_path, "mask")
    return image, images.load_mask(mask_data, mask_path, data, image.size)


def prepare_inputs(job: Job) -> TaskInputs | None:
    """The canvas of img2img and inpaint. Raises InputError if a file went bad since the plan was made."""
    size = (job.width, job.height)
    match job.task:
        case Txt2Img():
            return None
        case Img2Img(image=path):
            return TaskInputs(_read(path, size, None)[0])
        case Inpaint(image=path, mask=mask_path, padding=None):
            return TaskInputs(*_read(path, size, mask_path))
        case Inpaint(image=path, mask=mask_path, padding=padding):
            image, mask = _read(path, None, mask_path)
            # The masked part and `padding` pixels around it, widened to the shape of the size that is painted.
            left, top, right, bottom = VaeImageProcessor.get_crop_region(mask, *size, pad=padding)
            return TaskInputs(image, mask, (left, top, right, bottom))


def pipeline_arguments(job: Job, canvas: TaskInputs | None, batch: int, channels: int) -> dict[str, Any]:
    """What the pipeline of the task takes beside prompts, seeds and steps, for a UNet of so many input channels."""
    size = {"width": job.width, "height": job.height}
    if canvas is None or isinstance(job.task, Txt2Img):
        return size
    image, mask = canvas.image, canvas.mask
    if canvas.box:
        image = image.crop(canvas.box).resize((job.width, job.height), Image.Resampling.LANCZOS)
        mask = mask and mask.crop(canvas.box).resize((job.width, job.height), Image.Resampling.NEAREST)
    # One copy an image: given a single one, inpainting draws all of its noise from the first generator.
    shared = {"image": [image] * batch, "strength": job.task.strength}
    if not mask:
        return shared
    # A UNet of 4 channels never sees the masked image, which would be encoded nevertheless. It draws from the generators in
    # between, so that it cannot be left out where the scheduler draws from them later.
    is_drawn_later = job.scheduler.resolve().stochastic or bool(job.eta)
    unseen = {"masked_image_latents": torch.zeros(1, 4, 1, 1)} if channels == 4 and not is_drawn_later else {}
    return shared | size | {"mask_image": [mask] * batch} | unseen


def paste_result(canvas: TaskInputs | None, painted: Image.Image) -> Image.Image:
    """After inpainting, every pixel outside the mask is the input's own, byte for byte."""
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
