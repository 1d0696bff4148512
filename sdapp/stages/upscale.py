"""The stage that makes images larger."""

from dataclasses import replace
from typing import Any

from PIL import Image

from sdapp.diffusion.task_inputs import TaskInputs
from sdapp.diffusion.upscale import enlarge_latents, enlarged, with_tiles
from sdapp.images import Size
from sdapp.profiling import timed
from sdapp.stages.loaded_model import LoadedModel
from sdapp.stages.painting import Painting, RecordFields
from sdapp.stages.passes import encode_prompts, paint_over, scheduler_fields

SECOND = ("scheduler_class", "scheduler_config", "eta", "unet_calls")  # what the record says of a second pass


def enlarge(model: LoadedModel, painting: Painting) -> RecordFields:
    """Enlarge the images with an upscaler, or enlarge them or their latents and denoise them again."""
    job, upscale = painting.job, painting.job.upscale
    if upscale is None:
        return {}
    final = job.final_width, job.final_height
    match upscale.method:
        case "model":
            with timed("upscale", model.settle):
                large = [model.upscalers.enlarge(image, upscale, final) for image in painting.images]
            painting.reworked = large
            return {"final_size": final}
        case "diffusion":
            return {"final_size": final, "second_pass": _by_diffusion(model, painting, final)}
    jobs = [each.second_pass for each in painting.jobs if each.second_pass]
    encode_prompts(model, painting, at_end=True)
    tile = model.placement.tile_of(job)
    with with_tiles(model.denoiser.unet, tile and tile // model.scale):
        fields = paint_over(model, painting, jobs, _second_inputs(model, painting))
    return {"final_size": final, "second_pass": {key: fields[key] for key in SECOND}}


def _by_diffusion(model: LoadedModel, painting: Painting, final: Size) -> RecordFields:
    """Enlarge the images one by one, each from its own seed; return the fields of this pass."""
    large, ran, reporter = list[Image.Image](), dict[str, Any](), painting.reporter
    images, calls = len(painting.jobs), painting.job.upscaler_calls
    if reporter:
        reporter.begin_pass()
    for place, (each, image) in enumerate(zip(painting.jobs, painting.images, strict=True)):
        on_step = reporter.for_one_of(images, place, calls) if reporter else None
        with timed("upscale", model.settle):
            made, ran = model.upscale_pipelines.enlarge(image, each, final, on_step)
        large.append(made)
    painting.reworked = large
    painting.shared["unet_calls"] = painting.shared.get("unet_calls", 0) + ran["unet_calls"]
    return {**scheduler_fields(ran["scheduler"], ran["eta"]), "unet_calls": ran["unet_calls"]}


def _second_inputs(model: LoadedModel, painting: Painting) -> list[TaskInputs]:
    """The inputs of the second pass: the enlarged images, or their enlarged latents."""
    job, second, upscale = painting.job, painting.job.second_pass, painting.job.upscale
    assert second is not None
    assert upscale is not None
    final, size = (job.final_width, job.final_height), (second.width, second.height)
    if painting.decoded is None and painting.latents is not None:
        large = enlarge_latents(painting.latents, upscale.enlarge, size, model.scale)
        return [TaskInputs(latents, size=final) for latents in large]
    images = painting.images
    if upscale.enlarge == "model":
        images = [model.upscalers.enlarge(image, upscale, final) for image in images]
    inputs = [enlarged(image, final, size) for image in images]
    if model.denoiser.unet.config.in_channels == model.family.latent_channels:
        return inputs
    # A model for inpainting does img2img too, if all is masked.
    return [replace(each, mask=Image.new("L", size, 255)) for each in inputs]
