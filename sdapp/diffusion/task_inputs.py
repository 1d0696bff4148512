"""Prepare the input images of a task for its pipeline, and paste what was painted into them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageFilter

from sdapp.diffusion.outpaint import filled, without_seam
from sdapp.errors import InputError
from sdapp.images import Size, inputs, on_white, resize_mask
from sdapp.jobs import Box, Job
from sdapp.settings.tasks import Img2Img, Inpaint, Outpaint, Txt2Img, UpscaleImage


@dataclass(frozen=True)
class TaskInputs:
    """The input image and mask of img2img or inpainting, as the model gets them, and as they were given.

    For inpainting with padding, the model gets only a part of the image: `image` and `mask` are that part,
    scaled to the size that is painted. The result is pasted into `whole`. In masks, 255 is painted.
    For outpainting, and the second pass of upscaling, the right and lower edge of what is painted may be cut
    off.
    """

    image: Image.Image | torch.Tensor  # RGB, or latents [4, h, w] of it
    mask: Image.Image | None = None
    whole: Image.Image | None = None  # RGBA if it has transparent pixels; only for inpainting
    whole_mask: Image.Image | None = None
    box: Box = (0, 0, 0, 0)  # the part of it that the model sees; may reach beyond its edges
    size: Size | None = None  # of what remains of the painted image
    alpha: Image.Image | None = None  # the transparency that the finished image gets
    is_grown: bool = False  # `whole` is continued into `whole_mask` without a seam


def prepare_inputs(job: Job, find: Callable[[Image.Image, Inpaint], Image.Image | None]) -> TaskInputs | None:
    """The input images of a job; None for txt2img. `find` finds masks by words.

    Raises InputError for a changed file, and if nothing is found.
    """
    task, size = job.task, (job.width, job.height)
    if isinstance(task, Txt2Img):
        return None
    padding = task.padding if isinstance(task, Inpaint) else None
    has_own_size = padding is not None or isinstance(task, Outpaint | UpscaleImage)
    asked = task.image, None if has_own_size else size, True, job.inputs.get("image")
    image = inputs.image(*asked)
    if isinstance(task, Img2Img):
        return TaskInputs(image)
    whole = inputs.image(*asked, keep_alpha=True)
    if isinstance(task, Outpaint | UpscaleImage):
        return TaskInputs(image, whole=whole)
    if task.mask is not None:
        mask = inputs.mask(task.mask, task.image, image.size, planned=job.inputs.get("mask"))
    elif (found := find(whole, task)) is not None:
        mask = found
    else:
        way = f"try other words, or a task.mask_threshold below {task.mask_threshold:g}"
        raise InputError(f"task.mask_prompt: no {task.mask_prompt!r} was found in {task.image}; {way}")
    if padding is None:
        return TaskInputs(image, mask, whole, blurred(mask, task.mask_blur), (0, 0, *size))
    return part_of(whole, mask, padding, task.mask_blur, size)


def part_of(whole: Image.Image, mask: Image.Image, padding: int, blur: int, size: Size) -> TaskInputs:
    """The inputs that repaint what is white in a mask at the full `size`, with `padding` around it.

    `whole` is RGB or RGBA; the mask has its size. The model repaints the mask itself; what it painted is
    put back through the blurred one, which reaches a little further.
    """
    soft = blurred(mask, blur)
    box = _box_around(soft, padding, size)
    part = _crop(on_white(whole), box).resize(size, Image.Resampling.LANCZOS)
    part_mask = resize_mask(_crop(mask, box), size, Image.Resampling.NEAREST)
    return TaskInputs(part, part_mask, whole, soft, box)


def blurred(mask: Image.Image, blur: int) -> Image.Image:
    """A mask with a soft edge, as A1111 pastes with; `blur` is the sigma in pixels."""
    return mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask


def prepare_hints(job: Job, canvas: TaskInputs | None) -> list[Image.Image]:
    """The images of the job's ControlNets at the size that is painted; with padding, the same part of each.

    In a second pass the right and lower edge are repeated as those of the image are. Raises InputError for a
    changed file.
    """
    size, is_part = (job.width, job.height), isinstance(job.task, Inpaint) and job.task.padding is not None
    whole = (canvas.whole.size if is_part and canvas.whole else canvas.size) if canvas else None
    whole = whole or size
    hints = [inputs.image(each.image, whole, planned=each.sha256, key="control") for each in job.control]
    if not is_part or canvas is None:
        return [hint if hint.size == size else _crop(hint, (0, 0, *size)) for hint in hints]
    return [_crop(hint, canvas.box).resize(size, Image.Resampling.LANCZOS) for hint in hints]


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
    job: Job, canvases: Sequence[TaskInputs], unet_channels: int, latent_channels: int
) -> dict[str, Any]:
    """The arguments of the task's pipeline, besides prompts, seeds and steps.

    `canvases` has the inputs of each image of the batch, nothing for txt2img. `unet_channels` are more than
    `latent_channels` if the model is made for inpainting.
    """
    size = {"width": job.width, "height": job.height}
    if isinstance(job.task, Txt2Img | Outpaint | UpscaleImage):
        return size
    # One copy per image: with a single one, inpainting draws all noise from the first generator.
    given = [canvas.image for canvas in canvases]
    latents = [image for image in given if isinstance(image, torch.Tensor)]
    strength = job.task.strength
    if job.profile != "diffusers":  # of whose steps diffusers runs int(steps × strength)
        strength = min(1.0, (job.steps_to_run + 0.5) / job.steps_in_all)
    shared = {"image": torch.stack(latents) if latents else given, "strength": strength}
    if not canvases[0].mask:
        return shared
    # A UNet that is not made for inpainting never sees the masked image, which the pipeline encodes
    # all the same. That encoding draws from the generators: it is needed if the scheduler draws later.
    is_drawn_later = job.scheduler.resolve().stochastic or bool(job.eta)
    is_needed = unet_channels != latent_channels or is_drawn_later
    unseen = {} if is_needed else {"masked_image_latents": torch.zeros(1, latent_channels, 1, 1)}
    return shared | size | {"mask_image": [canvas.mask for canvas in canvases]} | unseen


def paste_result(canvas: TaskInputs | None, painted: Image.Image) -> Image.Image:
    """The finished image: after inpainting, the input image with the masked pixels replaced (opaque)."""
    if canvas is None:
        return painted
    if canvas.whole is None or canvas.whole_mask is None:
        finished = painted.crop((0, 0, *canvas.size)) if canvas.size else painted
        if canvas.alpha:
            finished.putalpha(canvas.alpha)
        return finished
    if canvas.is_grown:
        painted = without_seam(painted, on_white(canvas.whole), canvas.whole_mask)
    left, top, right, bottom = canvas.box
    painted = painted.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    finished = canvas.whole.copy()
    finished.paste(painted, (left, top), canvas.whole_mask.crop(canvas.box))
    return finished.crop((0, 0, *canvas.size)) if canvas.size else finished


def grown(image: Image.Image, place: tuple[int, int], size: Size, overlap: int) -> TaskInputs:
    """The inputs that continue an image, RGB or RGBA, to a canvas of `size` on which it stands at `place`.

    The canvas is rounded up to multiples of 8, and cut afterwards. What is painted begins `overlap` pixels
    inside the image, so that it fits to what is there; those pixels are then replaced by the image's own.
    """
    padded = -(-size[0] // 8) * 8, -(-size[1] // 8) * 8
    canvas, new = Image.new(image.mode, padded, "white"), Image.new("L", padded, 255)
    canvas.paste(image, place)
    new.paste(0, (*place, place[0] + image.width, place[1] + image.height))
    wide = ImageFilter.MaxFilter(2 * overlap + 1)
    start = filled(on_white(canvas), new)
    return TaskInputs(start, new.filter(wide), canvas, new, (0, 0, *padded), size, is_grown=True)
