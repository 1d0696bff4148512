"""The first stages, from the input images to pixels; later stages use them again to paint over the images."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from sdapp.diffusion.decode import decode_latents
from sdapp.diffusion.masks import places
from sdapp.diffusion.noise import HALVES, ImageNoise, draw_in_float32, drawn_as
from sdapp.diffusion.shortcuts import with_shortcuts
from sdapp.diffusion.solvers import build_scheduler
from sdapp.diffusion.task_inputs import (
    TaskInputs,
    pipeline_arguments,
    prepare_hints,
    prepare_inputs,
    told_sizes,
)
from sdapp.diffusion.text_encoder import Conditioning, PromptText
from sdapp.errors import ConfigError
from sdapp.jobs import Job
from sdapp.markup import in_rows
from sdapp.profiles import PROFILES
from sdapp.profiling import timed
from sdapp.stages.loaded_model import LoadedModel
from sdapp.stages.painting import CALLS, Painting, RecordFields


def read_inputs(model: LoadedModel, painting: Painting) -> RecordFields:
    """Read the input images, and find the mask if it is given by words."""
    job = painting.job
    model.masks.keep_for(job)
    if inputs := prepare_inputs(job, model.find):
        painting.inputs = [inputs] * len(painting.jobs)
    found: tuple[RecordFields, ...] = ()
    if inputs and inputs.whole_mask and job.task.kind == "inpaint" and job.task.mask_prompt is not None:
        boxes = [box for box, _ in places(inputs.whole_mask)]
        found = ({"mask_prompt": job.task.mask_prompt, "boxes": boxes},)
    painting.own = [dict.fromkeys(CALLS, 0) | {"found": found} for _ in painting.jobs]
    return {}


def encode_prompts(model: LoadedModel, painting: Painting, at_end: bool = False) -> RecordFields:
    """Encode the prompts; the negative ones only where guidance uses them (scale > 1).

    Those that change during a run are encoded for each call of the UNet, or as they are `at_end`.
    """
    jobs, job = painting.jobs, painting.job
    if job.unet_calls == job.upscaler_calls:  # it is only enlarged
        return {}
    prompts = [[each.last_prompts] if at_end else each.prompts_by_call() for each in jobs]
    rows = in_rows(prompts)
    with timed("encode", model.settle):
        known = {each: _encode(model, jobs, each) for each in dict.fromkeys(rows)}
    painting.conditioning = [known[each] for each in rows]
    return {}


def _encode(model: LoadedModel, jobs: Sequence[Job], rows: Sequence[tuple[str, ...]]) -> Conditioning:
    """Encode the prompt and the negative prompt of each job."""
    prompts, negatives = (
        [PromptText.of(job, text) for job, text in zip(jobs, side, strict=True)]
        for side in zip(*rows, strict=True)
    )
    return model.text.encode(prompts, negatives if jobs[0].guidance_scale > 1 else None, jobs[0].chunks)


def denoise(model: LoadedModel, painting: Painting) -> RecordFields:
    """Make latents from noise (and the input images) with the pipeline of the task."""
    jobs, job, eta = painting.jobs, painting.job, _eta(painting.job)
    if job.task.kind in ("outpaint", "upscale"):
        return {}
    canvas = painting.inputs[0] if painting.inputs else None
    pipe = model.pipelines["inpaint" if canvas and canvas.mask else job.task.kind]
    pipe.scheduler = _build_scheduler(model, jobs)
    channels = pipe.unet.config.in_channels, model.family.latent_channels
    watched = model.denoiser.watched(pipe.scheduler, is_whole=job.cache_interval == 1)
    kept = model.preview.kept(pipe, painting.preview)
    steered = model.control.steering(pipe, job, prepare_hints(job, canvas), model.placement.stays)
    seen = painting.watcher.watching(pipe) if painting.watcher else nullcontext()
    drawn = nullcontext() if job.is_drawn_plainly else drawn_as(job.noise[0], pipe.vae)
    with watched as calls, with_shortcuts(pipe, job) as shortcuts, kept, steered, seen, drawn:
        painting.latents = pipe(
            **painting.conditioning[0].arguments(),
            **pipeline_arguments(job, painting.inputs, *channels),
            **(told_sizes(job) if model.family.reads_sizes else {}),
            # On the CPU, one per image: the noise of an image depends on its own seed only.
            generator=[ImageNoise(*job.noise) for job in jobs],
            num_inference_steps=job.steps_in_all,
            guidance_scale=job.guidance_scale,
            eta=eta or 0.0,
            output_type="latent",
            **_callback(painting),
        ).images
    return {
        **scheduler_fields(pipe.scheduler, eta),
        "unet_calls": calls.number,
        "unguided_calls": shortcuts["unguided"],
        "cached_calls": shortcuts["cached"],
        "optimizations": model.denoiser.optimizations,
    }


def decode(model: LoadedModel, painting: Painting) -> RecordFields:
    """Make pixels of the latents, if they are painted, and not enlarged first."""
    upscale = painting.job.upscale
    is_enlarged = upscale and upscale.method == "hires" and upscale.enlarge.startswith("latent")
    if painting.latents is None or is_enlarged:
        return {}
    with timed("decode", model.settle):
        cut = PROFILES[painting.job.profile].cuts_levels
        painting.decoded = decode_latents(model.vae, painting.latents, cut)
    return {}


def paint_over(
    model: LoadedModel, painting: Painting, jobs: Sequence[Job], inputs: list[TaskInputs]
) -> RecordFields:
    """Paint images over those of `painting`, which become the new ones; return the fields of this pass.

    The calls of all passes are added up in `painting.shared`. What was wrong with the images before is wrong
    with these.
    """
    again, shared = replace(painting, jobs=tuple(jobs), inputs=inputs), painting.shared
    fields = repeat_pass(model, again)
    assert again.decoded is not None
    if painting.decoded is not None:
        again.decoded = again.decoded.after(painting.decoded)
    painting.inputs, painting.decoded, painting.latents = again.inputs, again.decoded, again.latents
    calls = {key: shared.get(key, 0) + fields[key] for key in CALLS}
    shared.update({**fields, **shared, **calls})
    return fields


def repeat_pass(model: LoadedModel, painting: Painting) -> RecordFields:
    """Denoise and decode once more, for images that were painted before."""
    if painting.reporter:
        painting.reporter.begin_pass()
    fields = denoise(model, painting)
    decode(model, painting)
    return fields


def scheduler_fields(scheduler: Any, eta: float | None) -> dict[str, Any]:
    """What the record says of a scheduler; infinities, which JSON does not have, become text."""
    config = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in scheduler.config.items()
        if not key.startswith("_")  # diffusers' own
    }
    return {"scheduler_class": type(scheduler).__name__, "scheduler_config": config, "eta": eta}


def _build_scheduler(model: LoadedModel, jobs: Sequence[Job]) -> Any:
    """A new scheduler for these jobs. Raises ConfigError, with the reason, if it cannot do the steps."""
    job, resolved = jobs[0], jobs[0].scheduler.resolve()
    schedule = job.noise_schedule(model.scheduler_config)
    scheduler = build_scheduler(resolved, schedule, [each.seed for each in jobs], job.profile)
    try:
        scheduler.set_timesteps(job.steps_in_all)
    except (ValueError, IndexError, NotImplementedError) as exc:
        raise ConfigError(f"scheduler: {resolved.name} with {job.steps_in_all} steps: {exc}") from exc
    if model.dtype in HALVES:
        draw_in_float32(scheduler, "step")
    return scheduler


def _callback(painting: Painting) -> dict[str, Any]:
    """The arguments of a pipeline for what follows each step: it is reported, and prompts change."""
    conditioning, reporter = painting.conditioning, painting.reporter
    if len(conditioning) == 1:
        return {"callback_on_step_end": reporter}

    def follow(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if reporter:
            reporter(pipe, step, timestep, tensors)
        following = conditioning[min(step + 1, len(conditioning) - 1)]
        return tensors | following.during_call(pipe.do_classifier_free_guidance, tensors["prompt_embeds"])

    return {
        "callback_on_step_end": follow,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }


def _eta(job: Job) -> float | None:
    """The eta that the scheduler runs with; None if it takes none."""
    default = job.scheduler.resolve().scheduler.default_eta
    return default if default is None or job.eta is None else job.eta
