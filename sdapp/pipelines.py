"""Load a model once and paint jobs with it. The only room that knows diffusers' pipelines."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from transformers.utils import logging as transformers_logging

from sdapp import schedulers
from sdapp.canvas import arguments, finish, prepare
from sdapp.config import Memory, RunConfig
from sdapp.errors import ConfigError, UnavailableError
from sdapp.jobs import Job
from sdapp.models import Model, check_task
from sdapp.outputs import Record, Result

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
WITHOUT_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
VERSIONED = ("sdapp", "diffusers", "transformers", "torch")
OnStep = Callable[[int, int], None]  # step, of how many


def choose_device(asked: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. Raises UnavailableError for a device that is not there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("device: cuda is asked for, but this torch finds no CUDA GPU; use --device auto, and "
                               "`sdapp doctor` to see why")  # fmt: skip
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"device: {asked} is asked for; this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("device: mps is asked for, but this is no Apple GPU; use --device auto")
    return device


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on CUDA and MPS, else float32. Raises ConfigError for float16 on a CPU."""
    if asked == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if asked == "float16" and device.type == "cpu":
        raise ConfigError("dtype: float16 cannot run on a CPU; use float32, or bfloat16 where the CPU has it")
    return DTYPES[asked]


def load(model: Model, config: RunConfig) -> "Painter":
    """Load the weights, straight in the dtype asked for. Raises UnavailableError, ConfigError."""
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    if config.memory.offload != "none" and device.type == "cpu":
        raise ConfigError("memory.offload: there is nothing to offload from on a CPU; leave it at none")
    try:
        if model.is_file:
            pipe = StableDiffusionPipeline.from_single_file(str(model.path), dtype=dtype, **WITHOUT_CHECKER)
        else:
            pipe = StableDiffusionPipeline.from_pretrained(
                model.path,
                dtype=dtype,
                variant=model.variant(),
                use_safetensors=True,
                local_files_only=True,
                **WITHOUT_CHECKER,
            )
    except LocalEntryNotFoundError as exc:
        raise UnavailableError(
            f"model: {model.path}: the configuration that belongs to a single file comes from the Hub, once, and it cannot be "
            "reached; run it once with a network"
        ) from exc
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as exc:
        reason = " ".join(str(exc).split())[:300]
        raise UnavailableError(f"model: {model.path} cannot be loaded: {type(exc).__name__}: {reason}") from exc
    check_task(model.name, pipe.unet.config.in_channels, config.task.kind)  # of a single file only loading tells
    return Painter(pipe, device, config.memory)


def quiet(verbose: bool) -> None:
    """Keep upstream's warnings and bars off stderr, unless asked for."""
    for logging in (diffusers_logging, transformers_logging):
        if verbose:
            logging.set_verbosity_info()
        else:
            logging.set_verbosity_error()
            logging.disable_progress_bar()


class Painter:
    """One load of the weights, and the three pipelines over it.

    pipe = load(locate("postcards"), config)
    for result in pipe.paint(jobs): result.save(config.output)
    """

    def __init__(self, pipe: Any, device: torch.device, memory: Memory) -> None:
        self.device, self.dtype = device, pipe.unet.dtype
        self.scheduler_config: dict[str, Any] = dict(pipe.scheduler.config)
        self._unet, self._vae, self._encoder, self._tokenizer = pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer
        # Siblings are built from the components: from_pipe() would cast the shared weights to float32.
        self._pipes: dict[str, Any] = {
            "txt2img": pipe,
            "img2img": StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False),
            "inpaint": StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False),
        }
        for sibling in self._pipes.values():
            sibling.set_progress_bar_config(disable=True)
            match memory.offload:
                case "model":
                    sibling.enable_model_cpu_offload(device=device)
                case "sequential":
                    sibling.enable_sequential_cpu_offload(device=device)
        if memory.offload == "none":
            pipe.to(device)
        self._vae.use_slicing, self._vae.use_tiling = memory.vae_slicing, memory.vae_tiling

    def paint(self, jobs: Sequence[Job], batch_size: int = 1, on_step: OnStep | None = None) -> Iterator[Result]:
        """Paint jobs in order, up to `batch_size` neighbours of one pack at a time. A job that fails is a Result too."""
        index = 0
        for _, neighbours in groupby(jobs, key=lambda job: job.pack):
            pack = tuple(neighbours)
            for start in range(0, len(pack), batch_size):
                yield from self._paint_batch(pack[start : start + batch_size], index + start, on_step)
            index += len(pack)

    def _paint_batch(self, batch: tuple[Job, ...], index: int, on_step: OnStep | None) -> Iterator[Result]:
        started, job = time.perf_counter(), batch[0]
        pipe = self._pipes[job.task.kind]
        scheduler = schedulers.build(job.scheduler.resolve(), self.scheduler_config, [job.seed for job in batch])
        pipe.scheduler = scheduler
        notes = [self._cut_tokens(job) for job in batch]
        canvas = prepare(job)
        with torch.no_grad(), self._count_calls() as calls:
            latents = pipe(
                **self._prompts(batch),
                **arguments(job, canvas, len(batch)),
                # On the CPU, one an image: the noise of a picture depends on its own seed alone.
                generator=[torch.Generator("cpu").manual_seed(job.seed) for job in batch],
                num_inference_steps=job.steps,
                guidance_scale=job.guidance_scale,
                eta=_eta(job),
                output_type="latent",
                callback_on_step_end=_reporter(on_step),
            ).images
            pixels, mended = self._decode(latents)
            pipe.maybe_free_model_hooks()
        seconds = (time.perf_counter() - started) / len(batch)
        for i, job in enumerate(batch):
            record = Record(
                job_id=job.id,
                scheduler_class=type(scheduler).__name__,
                scheduler_config=_plain(scheduler.config),
                device=_device_name(self.device),
                dtype=str(self.dtype).removeprefix("torch."),
                unet_calls=len(calls),
                batch_size=len(batch),
                seconds=round(seconds, 3),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                versions={package: version(package) for package in VERSIONED},
                notes=notes[i] + (("decoded again in float32: the first pixels were not finite",) if mended[i] else ()),
            )
            error = self._not_finite(latents[i], pixels[i])
            picture = None if error else finish(canvas, _to_image(pixels[i]))
            yield Result(job, index + i, record, picture, error)

    def _not_finite(self, latents: torch.Tensor, pixels: torch.Tensor) -> str | None:
        for what, values in (("latents", latents), ("pixels", pixels)):
            if not values.isfinite().all():
                hint = "; try --dtype float32" if self.dtype != torch.float32 else ""
                return f"the {what} are not finite, so there is no picture{hint}"
        return None

    @contextmanager
    def _count_calls(self) -> Iterator[list[int]]:
        """The batch size of each UNet call, counted where it happens."""
        calls: list[int] = []
        hook = self._unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
        try:
            yield calls
        finally:
            hook.remove()

    # --- text -----------------------------------------------------------------------------------------------------

    def _prompts(self, batch: tuple[Job, ...]) -> dict[str, torch.Tensor]:
        """Embeddings [B, 77, D]; the negative half only where guidance uses it (scale > 1)."""
        skip = batch[0].clip_skip
        found = {"prompt_embeds": self._embed([job.prompt for job in batch], skip)}
        if batch[0].guidance_scale > 1:
            found["negative_prompt_embeds"] = self._embed([job.negative_prompt for job in batch], skip)
        return found

    def _embed(self, texts: list[str], clip_skip: int) -> torch.Tensor:
        """Encode by hand: the pipelines' own clip_skip crashes with transformers 5.6 and later."""
        ids = self._tokenizer(
            texts, padding="max_length", max_length=self._tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        device = self._pipes["txt2img"]._execution_device
        output = self._encoder(ids.to(device), output_hidden_states=True)
        if clip_skip == 0:
            return output.last_hidden_state  # type: ignore[no-any-return]
        if clip_skip >= len(output.hidden_states) - 1:
            raise ConfigError(f"clip_skip: this text encoder has {len(output.hidden_states) - 1} layers; leave at least one")
        norm = getattr(self._encoder, "text_model", self._encoder).final_layer_norm
        return norm(output.hidden_states[-(clip_skip + 1)])  # type: ignore[no-any-return]

    def _cut_tokens(self, job: Job) -> tuple[str, ...]:
        notes = []
        for name, text in (("prompt", job.prompt), ("negative_prompt", job.negative_prompt)):
            limit = self._tokenizer.model_max_length
            ids = self._tokenizer(text, truncation=False, verbose=False).input_ids
            if len(ids) > limit:
                lost = self._tokenizer.decode(ids[limit - 1 : -1])
                notes.append(f"{name}: the text encoder reads {limit} tokens; not read: {lost!r}")
        return tuple(notes)

    # --- pixels ---------------------------------------------------------------------------------------------------

    def _decode(self, latents: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        """Latents [B, 4, h, w] → pixels [B, 3, H, W] in -1 … 1; what overflows is decoded again in float32."""
        scaled = latents / self._vae.config.scaling_factor
        pixels = self._vae.decode(scaled.to(self._vae.dtype)).sample.float()
        broken = [not image.isfinite().all() for image in pixels]
        mended = [bad and bool(latent.isfinite().all()) for bad, latent in zip(broken, latents, strict=True)]
        if any(mended) and self._vae.dtype != torch.float32:
            dtype = self._vae.dtype
            self._vae.to(torch.float32)
            for i, wanted in enumerate(mended):
                if wanted:
                    pixels[i] = self._vae.decode(scaled[i : i + 1].float()).sample[0]
            self._vae.to(dtype)
            return pixels, mended
        return pixels, [False] * len(mended)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's config without diffusers' own keys, and without infinities, which JSON has not."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in config.items()
        if not key.startswith("_")
    }


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _eta(job: Job) -> float:
    if job.eta is None:
        return 0.3 if job.scheduler.resolve().scheduler.name == "tcd" else 0.0
    return job.eta


def _reporter(on_step: OnStep | None) -> Callable[..., dict[str, Any]] | None:
    if on_step is None:
        return None

    def report(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipe.num_timesteps)
        return tensors

    return report


def _to_image(pixels: torch.Tensor) -> Image.Image:
    """[3, H, W] in -1 … 1 → RGB."""
    levels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
