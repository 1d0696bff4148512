"""Paint jobs with a loaded model: the only room that knows how diffusers' pipelines are called."""

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from sdapp import __version__, schedulers
from sdapp.config import BatchSize, Memory
from sdapp.diffusion.batch_size import BatchSizes
from sdapp.diffusion.decode import decode_latents
from sdapp.diffusion.devices import choose_device, choose_dtype
from sdapp.diffusion.loading import BROKEN, WITHOUT_CHECKER, _load_vae
from sdapp.diffusion.memory import is_shortage, memory_in_use, memory_taken
from sdapp.diffusion.noise import float32_noise
from sdapp.diffusion.shortcuts import with_shortcuts
from sdapp.diffusion.task_inputs import paste_result, pipeline_arguments, prepare_inputs
from sdapp.diffusion.text_encoder import TextEncoder
from sdapp.diffusion.unet import Denoiser
from sdapp.errors import ConfigError, InputError, SdappError, UnavailableError
from sdapp.jobs import Job, LoadKey
from sdapp.models.locate import Model
from sdapp.models.vae import locate_model
from sdapp.profiling import timed
from sdapp.prompts.tokens import cut_by
from sdapp.records import OnStep, Record, Result

VERSIONED = ("diffusers", "transformers", "torch")


class Painter:
    """One load of the weights, and the three pipelines over it.

    painter = load(LoadKey.of(config, model))
    for result in painter.paint(jobs): result.image.show()
    """

    def __init__(self, pipe: Any, device: torch.device, memory: Memory) -> None:
        self.device, self.dtype = device, pipe.unet.dtype
        self.scheduler_config: dict[str, Any] = dict(pipe.scheduler.config)
        self.denoiser, self._vae, self._text = (
            Denoiser(pipe.unet, device, self._settle),
            pipe.vae,
            TextEncoder(pipe),
        )
        # Siblings are built from the components: from_pipe() would cast the shared weights to float32.
        self._pipes: dict[str, Any] = {
            "txt2img": pipe,
            "img2img": StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False),
            "inpaint": StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False),
        }
        for sibling in self._pipes.values():
            sibling.set_progress_bar_config(disable=True)
        self._place(memory.offload)
        self._vae.use_slicing, self._vae.use_tiling = memory.vae_slicing, memory.vae_tiling
        self._sizes, self._economies = BatchSizes(device), list[str]()

    def together(self, job: Job, batch_size: BatchSize) -> int:
        """How many images the batch that begins with this job will have at the most."""
        return self._sizes.of(job, batch_size)

    def paint(
        self,
        jobs: Sequence[Job],
        batch_size: BatchSize = 1,
        on_step: OnStep | None = None,
        keep_going: bool = False,
    ) -> Iterator[Result]:
        """Paint jobs in order, up to `batch_size` neighbours of one pack at a time.

        A job without finite pixels, or for which memory runs out, is a Result with its error. Raises SdappError for a job
        that cannot be honoured, unless `keep_going` makes a Result of that too.
        """
        index = 0
        for batch in self._batches(jobs, batch_size):
            yield from self._survive(batch, index, on_step, keep_going)
            index += len(batch)

    def _batches(self, jobs: Sequence[Job], batch_size: BatchSize) -> Iterator[tuple[Job, ...]]:
        """Neighbours of one pack, as many as are painted together when their turn comes; jobs are read as they are needed."""
        batch: list[Job] = []
        size = 0
        for job in jobs:
            if batch and (len(batch) == size or job.pack != batch[0].pack):
                yield tuple(batch)
                batch = []
            size = size if batch else self.together(job, batch_size)
            batch.append(job)
        if batch:
            yield tuple(batch)

    # --- memory ---------------------------------------------------------------------------------------------------

    def _survive(
        self, batch: tuple[Job, ...], index: int, on_step: OnStep | None, keep_going: bool
    ) -> Iterator[Result]:
        """Paint; where memory runs out, halve the batch, then slice and tile the VAE, then offload, and try again."""
        try:
            results, shortage = self._paint_batch(batch, index, on_step), ""
        except (ConfigError, InputError, UnavailableError, RuntimeError, ValueError, MemoryError) as exc:
            said = " ".join(str(exc).split())[:400]
            if not is_shortage(exc):
                if not keep_going:
                    raise
                reason = str(exc) if isinstance(exc, SdappError) else f"{type(exc).__name__}: {said}"
                yield from (Result(job, index + i, None, None, reason) for i, job in enumerate(batch))
                return
            results, shortage = [], said
        # Only here is the traceback gone, which held the tensors.
        if not shortage:
            yield from results
            return
        self._free()
        if len(batch) > 1:
            half = len(batch) // 2
            self._sizes.largest = half
            self._economies.append(f"memory ran out at {len(batch)} images at a time: {half} at a time since")
            yield from self._survive(batch[:half], index, on_step, keep_going)
            yield from self._survive(batch[half:], index + half, on_step, keep_going)
        elif self._economize():
            yield from self._survive(batch, index, on_step, keep_going)
        else:
            yield Result(
                batch[0], index, None, None, f"memory ran out, with nothing left to save: {shortage}"
            )

    def _economize(self) -> bool:
        """The next rung of the ladder, if there is one."""
        if not (self._vae.use_slicing and self._vae.use_tiling):
            self._vae.enable_slicing()
            self._vae.enable_tiling()
            self._economies.append(
                "memory ran out: the VAE works in slices and tiles since, which changes pixels near seams"
            )
            return True
        if self._offload == "none" and self.device.type != "cpu":
            self._place("model")
            self._economies.append(
                "memory ran out: only the part of the model that works is on the device since"
            )
            return True
        return False

    def _place(self, offload: str) -> None:
        """Put the weights on the device, or let accelerate's hooks put them there in turn."""
        self._offload = offload
        if offload == "group":  # of the parts, which the pipelines share
            pipe, leaves = (
                self._pipes["txt2img"],
                {"onload_device": self.device, "offload_type": "leaf_level"},
            )
            pipe.enable_group_offload(**leaves, use_stream=self.device.type == "cuda", exclude_modules="vae")
            # With a stream it keeps copies in the dtype that it began with, and what comes next is learned in `forward` alone.
            self._vae.enable_group_offload(**leaves)
            return
        for pipe in self._pipes.values():
            match offload:
                case "none":
                    pipe.to(self.device)
                case "model":
                    pipe.enable_model_cpu_offload(device=self.device)
                case "sequential":
                    pipe.enable_sequential_cpu_offload(device=self.device)

    def _free(self) -> None:
        self.denoiser.give_up_compiling("memory ran out: the UNet is not compiled since")
        for pipe in self._pipes.values():
            pipe.maybe_free_model_hooks()  # of the pipeline that broke off
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    # --- one batch ------------------------------------------------------------------------------------------------

    def _paint_batch(self, batch: tuple[Job, ...], index: int, on_step: OnStep | None) -> list[Result]:
        started, job, before = time.perf_counter(), batch[0], memory_in_use(self.device)
        pipe = self._pipes[job.task.kind]
        pipe.scheduler = self._scheduler(batch)
        canvas = prepare_inputs(job)
        watched = self.denoiser.watched(pipe.scheduler, is_whole=job.cache_interval == 1)
        with torch.no_grad(), float32_noise(), watched as counted, with_shortcuts(pipe, job) as short:
            with timed("encode", self._settle):
                prompts = self._prompts(batch)
            latents = pipe(
                **prompts,
                **pipeline_arguments(job, canvas, len(batch), pipe.unet.config.in_channels),
                # On the CPU, one an image: the noise of an image depends on its own seed alone.
                generator=[torch.Generator("cpu").manual_seed(job.seed) for job in batch],
                num_inference_steps=job.steps,
                guidance_scale=job.guidance_scale,
                eta=_eta(job),
                output_type="latent",
                callback_on_step_end=_reporter(on_step, index, len(batch)),
            ).images
            with timed("decode", self._settle):
                decoded = decode_latents(self._vae, latents)
            pipe.maybe_free_model_hooks()
        seconds = (time.perf_counter() - started) / len(batch)
        self._sizes.learn(job, len(batch), seconds, before)
        what_ran = Record(
            job_id="",
            scheduler_class=type(pipe.scheduler).__name__,
            scheduler_config=_json_config(pipe.scheduler.config),
            device=_device_name(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            unet_calls=counted["calls"],
            unguided_calls=short["unguided"],
            cached_calls=short["cached"],
            batch_size=len(batch),
            seconds=round(seconds, 3),
            peak_memory=before + memory_taken(self.device, before) if self.device.type == "cuda" else None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={"sdapp": __version__} | {package: version(package) for package in VERSIONED},
            optimizations=self.denoiser.optimizations,
        )
        said = [*self._economies, *([self.denoiser.failure] if self.denoiser.failure else [])]
        results = []
        with timed("convert"):
            for i, job in enumerate(batch):
                notes = (*cut_by(self._text.tokenizer, job), *said, *decoded.notes[i])
                record = replace(what_ran, job_id=job.id, notes=notes)
                error = decoded.errors[i]
                image = None if error else paste_result(canvas, Image.fromarray(decoded.levels[i]))
                results.append(Result(job, index + i, record, image, error, latents=decoded.latents[i]))
        return results

    def _scheduler(self, batch: tuple[Job, ...]) -> Any:
        """A fresh scheduler that can do the steps. Raises ConfigError, where the class says why."""
        resolved, steps = batch[0].scheduler.resolve(), batch[0].steps
        scheduler = schedulers.build_scheduler(resolved, self.scheduler_config, [job.seed for job in batch])
        try:
            scheduler.set_timesteps(steps)
        except (ValueError, IndexError, NotImplementedError) as exc:
            raise ConfigError(f"scheduler: {resolved.name} with {steps} steps: {exc}") from exc
        return scheduler

    def _settle(self) -> None:
        """Wait for the device; only where time is measured."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _prompts(self, batch: tuple[Job, ...]) -> dict[str, torch.Tensor]:
        """Embeddings [B, 77, D]; the negative half only where guidance uses it (scale > 1)."""
        texts, skip = [job.prompt for job in batch], batch[0].clip_skip
        if batch[0].guidance_scale <= 1:
            return {"prompt_embeds": self._text.embed(texts, skip)}
        both = self._text.embed(texts + [job.negative_prompt for job in batch], skip)
        return {"prompt_embeds": both[: len(batch)], "negative_prompt_embeds": both[len(batch) :]}


def _json_config(config: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's config without diffusers' own keys, and without infinities, which JSON has not."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in config.items()
        if not key.startswith("_")
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores)"


def _eta(job: Job) -> float:
    if job.eta is None:
        return 0.3 if job.scheduler.resolve().scheduler.name == "tcd" else 0.0
    return job.eta


def _reporter(on_step: OnStep | None, index: int, images: int) -> Callable[..., dict[str, Any]] | None:
    if on_step is None:
        return None

    def report(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(index, images, step + 1, pipe.num_timesteps)
        return tensors

    return report


REPAID = 7_500  # calls of the UNet: a minute of compiling, and 8 ms that each is faster then (published, not measured here)
SETTLED = 200  # calls after which a size of batches is not one that `batch_size: auto` only tries
USUAL_BATCH = 8


def load(
    key: LoadKey, model: Model | None = None, *, unet_calls: int = 0, batch_size: BatchSize = 1
) -> Painter:
    """Load the weights of a key, straight in the dtype asked for. `model` is what the key names, if it was located before.

    `unet_calls` of the whole run and `batch_size` decide whether compiling pays. Raises UnavailableError, ConfigError.
    """
    model = model or locate_model(key.model, key.revision, key.vae)
    device = choose_device(key.device)
    dtype = choose_dtype(key.dtype, device)
    if key.memory.offload != "none" and device.type == "cpu":
        raise ConfigError("memory.offload: there is nothing to offload from on a CPU; leave it at none")
    own = _load_vae(model, dtype)
    try:
        if model.is_file:
            pipe = StableDiffusionPipeline.from_single_file(
                str(model.path), dtype=dtype, **WITHOUT_CHECKER, **own
            )
        else:
            pipe = StableDiffusionPipeline.from_pretrained(
                model.path,
                dtype=dtype,
                variant=model.variant(),
                use_safetensors=True,
                local_files_only=True,
                **WITHOUT_CHECKER,
                **own,
            )
    except LocalEntryNotFoundError as exc:
        raise UnavailableError(
            f"model: {model.path}: the configuration that belongs to a single file comes from the Hub, once, and it cannot be "
            "reached; run it once with a network"
        ) from exc
    except BROKEN as exc:
        reason = " ".join(str(exc).split())[:300]
        raise UnavailableError(
            f"model: {model.path} cannot be loaded: {type(exc).__name__}: {reason}"
        ) from exc
    if pipe.tokenizer.model_max_length > 100_000:  # transformers' word for a tokenizer without files
        raise UnavailableError(f"model: {model.path}: its tokenizer cannot be read; download the model again")
    if pipe.unet.config.addition_embed_type is not None:
        raise UnavailableError(
            f"model: {model.path} is no Stable Diffusion 1.x or 2.x; sdapp paints with those alone"
        )
    if key.channels_last == "on" or (key.channels_last == "auto" and device.type == "cuda"):
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
    painter = Painter(pipe, device, key.memory)
    if key.compile == "on" or (key.compile == "auto" and _repays(key, device, unet_calls, batch_size)):
        # What it learned from a batch that was compiled for it would mislead the search for a size.
        painter.denoiser.compile(after=0 if key.compile == "on" and batch_size != "auto" else SETTLED)
    return painter


def _repays(key: LoadKey, device: torch.device, unet_calls: int, batch_size: BatchSize) -> bool:
    """Whether a run is long enough for compiling the UNet, on the hardware where that is known to help."""
    at_a_time = USUAL_BATCH if batch_size == "auto" else batch_size
    is_possible = device.type == "cuda" and key.memory.offload == "none" and find_spec("triton") is not None
    return is_possible and unet_calls / at_a_time >= REPAID
