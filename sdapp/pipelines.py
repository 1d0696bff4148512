"""Paint jobs with a loaded model: the only module that calls the pipelines of diffusers."""

import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from typing import Any

import diffusers
import torch
from PIL import Image

from sdapp import __version__
from sdapp.config import BatchSize, Memory
from sdapp.diffusion.batch_size import BatchSizes
from sdapp.diffusion.decode import Decoded, decode_latents
from sdapp.diffusion.devices import choose_device, choose_dtype
from sdapp.diffusion.loading import load_pipeline
from sdapp.diffusion.loras import Loras
from sdapp.diffusion.memory import is_shortage, memory_in_use, memory_taken
from sdapp.diffusion.noise import HALVES, draw_in_float32
from sdapp.diffusion.placement import Placement
from sdapp.diffusion.safety import SKIPPED, SafetyChecker
from sdapp.diffusion.shortcuts import with_shortcuts
from sdapp.diffusion.solvers import build_scheduler
from sdapp.diffusion.startup import LOADING, without_advice
from sdapp.diffusion.task_inputs import (
    TaskInputs,
    keep_sizes_exact,
    paint_whole_cells,
    paste_result,
    pipeline_arguments,
    prepare_inputs,
    told_sizes,
)
from sdapp.diffusion.text_encoder import Conditioning, PromptText, TextEncoder
from sdapp.diffusion.unet import Denoiser
from sdapp.errors import ConfigError, SdappError, UpstreamError
from sdapp.jobs import Job, LoadKey
from sdapp.models.families import Family
from sdapp.models.locate import Model
from sdapp.models.safety import find_checker
from sdapp.models.vae import locate_model
from sdapp.profiling import timed
from sdapp.prompts.tokens import cut_by
from sdapp.records import OnStep, Record, Result

VERSIONED = ("diffusers", "transformers", "torch")
REPAID = 7_500  # UNet calls: compiling takes a minute and saves 8 ms per call (published, not measured here)
SETTLED = 200  # calls of one batch size after which `batch_size: auto` is no longer trying it
USUAL_BATCH = 8


@dataclass
class Painting:
    """A batch on its way through the stages of a Painter; all jobs have one `pack`."""

    jobs: tuple[Job, ...]
    index: int  # of the first job in the run
    pipe: Any
    inputs: TaskInputs | None
    reporter: "_StepReporter | None"
    conditioning: Conditioning | None = None
    latents: torch.Tensor | None = None
    decoded: Decoded | None = None
    entry: dict[str, Any] = field(default_factory=dict)  # fields of the Record, which the stages fill in


class _StepReporter:
    """Calls `on_step` from a pipeline; `raised` is what it raised, which is not an error of the pipeline."""

    def __init__(self, on_step: OnStep, index: int, images: int) -> None:
        self._on_step, self._index, self._images = on_step, index, images
        self.raised: Exception | None = None

    def __call__(self, pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        try:
            self._on_step(self._index, self._images, step + 1, pipe.num_timesteps)
        except Exception as exc:
            self.raised = exc
            raise
        return tensors


class Painter:
    """A loaded model with a pipeline for each task; all pipelines share its weights.

    painter = load(LoadKey.of(config, model))
    for result in painter.paint(jobs): result.image.show()
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        device: torch.device,
        memory: Memory,
        safety: SafetyChecker | None = None,
    ) -> None:
        self._safety = safety
        self.device, self.dtype, self.family = device, pipe.unet.dtype, family
        self.scheduler_config: dict[str, Any] = dict(pipe.scheduler.config)
        self.denoiser = Denoiser(pipe.unet, device, self._settle)
        self._vae, self._text, self._loras = pipe.vae, TextEncoder(pipe), Loras(pipe)
        # Built from the components: from_pipe() would cast the shared weights to float32.
        self._pipes: dict[str, Any] = {
            kind: pipe if kind == "txt2img" else getattr(diffusers, name)(**pipe.components, **family.options)
            for kind, name in family.pipelines.items()
        }
        for each in self._pipes.values():
            each.set_progress_bar_config(disable=True)
            if family.reads_sizes:
                keep_sizes_exact(each)
            if self.dtype in HALVES:
                draw_in_float32(each, "prepare_latents", "prepare_mask_latents")
        paint_whole_cells(self._pipes["inpaint"])
        self._placement = Placement(self._pipes, device, memory, family)
        self._sizes = BatchSizes(device)
        self._stages = (self._encode, self._denoise, self._decode)

    @property
    def pipelines(self) -> Mapping[str, Any]:
        """The pipelines of diffusers by task: txt2img, img2img and inpaint."""
        return self._pipes

    def together(self, job: Job, batch_size: BatchSize) -> int:
        """The largest number of images in a batch that begins with this job."""
        return self._placement.most(job, self._sizes.of(job, batch_size))

    def paint(
        self,
        jobs: Sequence[Job],
        batch_size: BatchSize = 1,
        on_step: OnStep | None = None,
        keep_going: bool = False,
    ) -> Iterator[Result]:
        """Paint jobs in order, up to `batch_size` neighbours of one pack at a time; read them when needed.

        A job without finite pixels, or for which memory runs out, becomes a Result with its error. With
        `keep_going` so does a job that fails otherwise; without it SdappError is raised, UpstreamError for an
        error of diffusers or torch. What `on_step` raises is passed on.
        """
        index = 0
        while index < len(jobs):
            ahead = jobs[index : index + self.together(jobs[index], batch_size)]
            batch = tuple(next(groupby(ahead, attrgetter("pack")))[1])
            yield from self._paint_or_fail(batch, index, on_step, keep_going)
            index += len(batch)

    # --- errors and memory -----------------------------------------------------------------------------

    def _paint_or_fail(
        self, batch: tuple[Job, ...], index: int, on_step: OnStep | None, keep_going: bool
    ) -> Iterator[Result]:
        """Paint a batch; catch here, and only here, what upstream raises; retry with less memory."""
        reporter = _StepReporter(on_step, index, len(batch)) if on_step else None
        results, reason, may_split, is_short = list[Result](), "", len(batch) > 1, False
        try:
            results = self._paint_batch(batch, index, reporter)
        except Exception as exc:
            is_short = is_shortage(exc)
            is_ours = isinstance(exc, SdappError)
            if (reporter and exc is reporter.raised) or (is_ours and not keep_going):
                raise
            reason = str(exc) if is_ours else f"{type(exc).__name__}: {' '.join(str(exc).split())[:400]}"
            if not is_short and not keep_going:
                raise UpstreamError(f"image {index + 1} cannot be painted: {reason}") from exc
            may_split &= not is_ours  # all jobs of the batch would raise it
        # Here, and not above, because the traceback holds the tensors until `except` ends.
        if not reason:
            yield from results
            return
        self._placement.free()
        half = len(batch) // 2
        if is_short:
            self.denoiser.stop_compiling("memory ran out: since then the UNet is not compiled")
        if is_short and may_split:
            self._sizes.largest = half
            note = f"memory ran out at {len(batch)} images at a time: since then {half} at a time"
            self._placement.notes.append(note)
        if may_split:
            yield from self._paint_or_fail(batch[:half], index, on_step, keep_going)
            yield from self._paint_or_fail(batch[half:], index + half, on_step, keep_going)
        elif is_short and self._placement.save_more():
            yield from self._paint_or_fail(batch, index, on_step, keep_going)
        else:
            error = f"memory ran out, and nothing is left to save: {reason}" if is_short else reason
            yield from (Result(job, index + i, None, None, error) for i, job in enumerate(batch))

    # --- one batch -------------------------------------------------------------------------------------

    def _paint_batch(
        self, batch: tuple[Job, ...], index: int, reporter: _StepReporter | None
    ) -> list[Result]:
        """Take a batch through the stages; each returns its fields of the Record."""
        if self._placement.make_room(batch[0], len(batch)):
            self.denoiser.stop_compiling("the model is offloaded: since then the UNet is not compiled")
        if not self._loras.are_merged(batch[0].loras):
            self._text.forget()
            with timed("LoRA"):
                self._loras.apply(batch[0].loras)
        started, before = time.perf_counter(), memory_in_use(self.device)
        pipe = self._pipes[batch[0].task.kind]
        pipe.scheduler = self._scheduler(batch)
        painting = Painting(batch, index, pipe, prepare_inputs(batch[0]), reporter)
        with torch.no_grad():
            for stage in self._stages:
                painting.entry |= stage(painting)
        pipe.maybe_free_model_hooks()
        seconds = (time.perf_counter() - started) / len(batch)
        self._sizes.learn(batch[0], len(batch), seconds, before)
        peak = before + memory_taken(self.device, before) if self.device.type == "cuda" else None
        painting.entry |= {"seconds": round(seconds, 3), "peak_memory": peak, "batch_size": len(batch)}
        with timed("convert"):
            return list(self._finish(painting))

    def _encode(self, painting: Painting) -> Mapping[str, Any]:
        """Encode the prompts; the negative ones only where guidance uses them (scale > 1)."""
        jobs, job = painting.jobs, painting.jobs[0]
        negative = [PromptText.of(each, each.negative_prompt) for each in jobs]
        with timed("encode", self._settle):
            painting.conditioning = self._text.encode(
                [PromptText.of(each, each.prompt) for each in jobs],
                negative if job.guidance_scale > 1 else None,
            )
        return {}

    def _denoise(self, painting: Painting) -> Mapping[str, Any]:
        """Make latents from noise (and the input images) with the pipeline of the task."""
        assert painting.conditioning is not None
        jobs, job, pipe, eta = painting.jobs, painting.jobs[0], painting.pipe, _eta(painting.jobs[0])
        channels = pipe.unet.config.in_channels, self.family.latent_channels
        watched = self.denoiser.watched(pipe.scheduler, is_whole=job.cache_interval == 1)
        with watched as calls, with_shortcuts(pipe, job) as shortcuts:
            painting.latents = pipe(
                **painting.conditioning.arguments(),
                **pipeline_arguments(job, painting.inputs, len(jobs), *channels),
                **(told_sizes(job) if self.family.reads_sizes else {}),
                # On the CPU, one per image: the noise of an image depends on its own seed only.
                generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
                num_inference_steps=job.steps,
                guidance_scale=job.guidance_scale,
                eta=eta or 0.0,
                output_type="latent",
                callback_on_step_end=painting.reporter,
            ).images
        return {
            "scheduler_class": type(pipe.scheduler).__name__,
            "scheduler_config": _json_config(pipe.scheduler.config),
            "eta": eta,
            "unet_calls": calls.number,
            "unguided_calls": shortcuts["unguided"],
            "cached_calls": shortcuts["cached"],
            "optimizations": self.denoiser.optimizations,
        }

    def _decode(self, painting: Painting) -> Mapping[str, Any]:
        """Make pixels of the latents."""
        assert painting.latents is not None
        with timed("decode", self._settle):
            painting.decoded = decode_latents(self._vae, painting.latents)
        return {}

    def _finish(self, painting: Painting) -> Iterator[Result]:
        """Make the results: images (after inpainting, pasted into the input image) and their records."""
        decoded = painting.decoded
        assert decoded is not None
        run_notes = [*self._placement.notes, *filter(None, [self.denoiser.failure])]
        painting.entry |= {
            "device": _device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "memory": self._placement.saving,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"sdapp": __version__} | {package: version(package) for package in VERSIONED},
        }
        for i, job in enumerate(painting.jobs):
            notes = (*cut_by(self._text.tokenizer, job), *run_notes, *decoded.notes[i])
            error, image, flagged = decoded.errors[i], None, None
            if not error:
                image = paste_result(painting.inputs, Image.fromarray(decoded.levels[i]))
                flagged = self._safety.look(image) if self._safety else None
            if self._safety and flagged and self._safety.skips:
                error, image = SKIPPED, None
            record = Record(job_id=job.id, notes=notes, flagged=flagged, **painting.entry)
            yield Result(job, painting.index + i, record, image, error, latents=decoded.latents[i])

    def _scheduler(self, batch: tuple[Job, ...]) -> Any:
        """A new scheduler for these jobs. Raises ConfigError, with the reason, if it cannot do the steps."""
        resolved, steps = batch[0].scheduler.resolve(), batch[0].steps
        own = batch[0].noise_schedule(self.scheduler_config)
        scheduler = build_scheduler(resolved, own, [job.seed for job in batch])
        try:
            scheduler.set_timesteps(steps)
        except (ValueError, IndexError, NotImplementedError) as exc:
            raise ConfigError(f"scheduler: {resolved.name} with {steps} steps: {exc}") from exc
        if self.dtype in HALVES:
            draw_in_float32(scheduler, "step")
        return scheduler

    def _settle(self) -> None:
        """Wait for the device, for measuring time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _json_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's config without diffusers' own keys; infinities, which JSON does not have, become text."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in config.items()
        if not key.startswith("_")
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores)"


def _eta(job: Job) -> float | None:
    """The eta that the scheduler runs with; None if it takes none."""
    default = job.scheduler.resolve().scheduler.default_eta
    return default if default is None or job.eta is None else job.eta


def load(
    key: LoadKey, model: Model | None = None, *, unet_calls: int = 0, batch_size: BatchSize = 1
) -> Painter:
    """Load the weights of a key in its dtype. `model` is what the key names, if it is already located.

    `unet_calls` of the whole run and `batch_size` decide whether compiling pays. Threads load one after the
    other. Raises UnavailableError, ConfigError.
    """
    model = model or locate_model(key.model, key.revision, key.vae)
    device = choose_device(key.device)
    dtype = choose_dtype(key.dtype, device)
    if key.memory.offload not in ("auto", "none") and device.type == "cpu":
        raise ConfigError("memory.offload: on a CPU there is nothing to offload from; use none")
    checker = find_checker(key.safety_checker, model)
    with LOADING, without_advice():
        safety = SafetyChecker(checker, skips=key.flagged == "skip") if checker else None
        pipe = load_pipeline(model, dtype)
    if key.channels_last == "on" or (key.channels_last == "auto" and device.type == "cuda"):
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
    is_open = key.compile == "on" and key.memory.offload == "auto"  # what is compiled cannot be offloaded
    memory = key.memory.model_copy(update={"offload": "none"}) if is_open else key.memory
    painter = Painter(pipe, model.family, device, memory, safety)
    painter._placement.notes += model.notes
    if key.compile == "on" or (key.compile == "auto" and _repays(painter, unet_calls, batch_size)):
        # `batch_size: auto` measures times, which must not include compiling.
        painter.denoiser.compile(after=0 if key.compile == "on" and batch_size != "auto" else SETTLED)
    return painter


def _repays(painter: Painter, unet_calls: int, batch_size: BatchSize) -> bool:
    """Whether a run is long enough to compile the UNet, on the hardware where that is known to help."""
    images = USUAL_BATCH if batch_size == "auto" else batch_size
    is_placed = painter.device.type == "cuda" and painter._placement.offload == "none"
    is_possible = is_placed and find_spec("triton") is not None
    return is_possible and unet_calls / images >= REPAID
