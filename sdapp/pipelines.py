"""Paint jobs with a loaded model: the only module that calls the pipelines that paint."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby, zip_longest
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from PIL import Image

from sdapp import __version__
from sdapp.config import BatchSize
from sdapp.diffusion.batch_size import BatchSizes
from sdapp.diffusion.clip_score import ClipScore
from sdapp.diffusion.control import ControlNets
from sdapp.diffusion.decode import Decoded, decode_latents
from sdapp.diffusion.devices import choose_device, choose_dtype
from sdapp.diffusion.loading import load_pipeline
from sdapp.diffusion.loras import Loras
from sdapp.diffusion.masks import MaskFinder, places
from sdapp.diffusion.memory import is_shortage, memory_in_use, memory_taken
from sdapp.diffusion.noise import HALVES, ImageNoise, draw_in_float32, drawn_as
from sdapp.diffusion.placement import TILE, Placement
from sdapp.diffusion.preview import Preview
from sdapp.diffusion.safety import SKIPPED, SafetyChecker
from sdapp.diffusion.shortcuts import with_shortcuts
from sdapp.diffusion.solvers import build_scheduler
from sdapp.diffusion.startup import LOADING, without_advice
from sdapp.diffusion.task_inputs import (
    TaskInputs,
    grown,
    keep_sizes_exact,
    paint_whole_cells,
    part_of,
    paste_result,
    pipeline_arguments,
    prepare_hints,
    prepare_inputs,
    told_sizes,
)
from sdapp.diffusion.text_encoder import Conditioning, PromptText, TextEncoder
from sdapp.diffusion.unet import Denoiser
from sdapp.diffusion.upscale import enlarge_latents, enlarged, with_tiles
from sdapp.diffusion.upscale_pipelines import UpscalePipelines
from sdapp.diffusion.upscalers import Upscalers
from sdapp.diffusion.watch import Watcher
from sdapp.errors import ConfigError, SdappError, UpstreamError
from sdapp.images import Size
from sdapp.jobs import Job, LoadKey
from sdapp.models.checksums import sha256_of
from sdapp.models.clip import find_clip
from sdapp.models.families import Family
from sdapp.models.locate import Model
from sdapp.models.safety import find_checker
from sdapp.models.vae import locate_model
from sdapp.profiles import PROFILES
from sdapp.profiling import timed
from sdapp.prompts.seeds import derived_seed
from sdapp.prompts.tokens import cut_by
from sdapp.records import OnStep, Record, Result
from sdapp.settings.hardware import Memory
from sdapp.settings.stages import Detail
from sdapp.settings.tasks import Inpaint

CALLS = ("unet_calls", "unguided_calls", "cached_calls")
VERSIONED = ("diffusers", "transformers", "torch")
REPAID = 7_500  # UNet calls: compiling takes a minute and saves 8 ms per call (published, not measured here)
SETTLED = 200  # calls of one batch size after which `batch_size: auto` is no longer trying it
USUAL_BATCH = 8


@dataclass
class Painting:
    """A batch on its way through the stages of a Painter; all jobs have one `pack`."""

    jobs: tuple[Job, ...]
    index: int  # of the first job in the run
    inputs: list[TaskInputs]  # of each job, none for txt2img
    preview: str | None  # a file to keep fresh
    watcher: Watcher | None  # of this run
    reporter: "_StepReporter | None"
    conditioning: Conditioning | None = None
    latents: torch.Tensor | None = None
    decoded: Decoded | None = None
    upscaled: list[Image.Image] = field(default_factory=list)  # by `upscale.method: model`, or detailed
    entry: dict[str, Any] = field(default_factory=dict)  # fields of the Record, which the stages fill in
    own: list[dict[str, Any]] = field(default_factory=list)  # those of each image that others may not have

    @property
    def images(self) -> list[Image.Image]:
        """The images so far: those that are only upscaled, or what was painted, pasted into the inputs."""
        if self.upscaled:
            return self.upscaled
        if self.decoded is None:
            return [each.whole for each in self.inputs if each.whole]
        painted = map(Image.fromarray, self.decoded.levels)
        return [paste_result(*each) for each in zip_longest(self.inputs, painted)]


@dataclass(frozen=True)
class _Call:
    """How one call of `paint` wants its jobs painted; threads take turns, each with its own."""

    on_step: OnStep | None
    keep_going: bool
    preview: str | None
    watcher: Watcher | None


class _StepReporter:
    """Calls `on_step` from a pipeline; `raised` is what it raised, which is not an error of the pipeline.

    `steps` are those of all passes for these images, 0 for a single one.
    """

    def __init__(self, on_step: OnStep, index: int, images: int, steps: int) -> None:
        self._on_step, self._index, self._images = on_step, index, images
        self._steps, self._before, self._done = steps, 0, 0
        self.raised: Exception | None = None

    def begin_pass(self) -> None:
        """Count on from the steps that are done."""
        self._before = self._done

    def for_one_of(self, images: int, place: int, calls: int) -> Callable[[int, Any, Any], object]:
        """A callback of the old kind, for a pass over the images of the batch one by one."""
        pipe = SimpleNamespace(num_timesteps=0)
        return lambda step, _t, _latents: self(pipe, (place * calls + step) // images, None, {})

    def count_places(self, places: int, calls: int) -> None:
        """Correct the steps, in which one place of a detail is counted, when all are known."""
        self._steps += (places - 1) * calls
        if not places and self._done:  # maybe no step follows
            self._tell(self._steps)

    def __call__(self, pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._done = self._before + step + 1
        self._tell(max(self._steps, pipe.num_timesteps, self._done))
        return tensors

    def _tell(self, steps: int) -> None:
        try:
            self._on_step(self._index, self._images, self._done, steps)
        except Exception as exc:
            self.raised = exc
            raise


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
        score: ClipScore | None = None,
    ) -> None:
        self._safety, self._score = safety, score
        self.device, self.dtype, self.family = device, pipe.unet.dtype, family
        self.scheduler_config: dict[str, Any] = dict(pipe.scheduler.config)
        self.denoiser = Denoiser(pipe.unet, device, self._settle)
        self._vae, self._text, self._loras = pipe.vae, TextEncoder(pipe), Loras(pipe)
        self._control = ControlNets(pipe.unet, device)
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
        self.checksums: dict[str, Future[str]] = {}  # of single files; computed beside everything else
        self._placement = Placement(self._pipes, device, memory, family)
        self._preview, self._upscalers = Preview(family, pipe.vae), Upscalers(device, self.dtype)
        self._upscale_pipes = UpscalePipelines(device, self.dtype)
        self._tile: int | None = None  # of second passes, since memory ran out
        self._sizes, self._scale = BatchSizes(device), int(pipe.vae_scale_factor)
        self._masks = MaskFinder(device)
        self._stages = (
            self._encode, self._denoise, self._decode, self._outpaint, self._upscale, self._repaint_details,
        )  # fmt: skip

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
        preview: str | None = None,
        watcher: Watcher | None = None,
    ) -> Iterator[Result]:
        """Paint jobs in order, up to `batch_size` neighbours of one pack at a time; read them when needed.

        A job without finite pixels, or for which memory runs out, becomes a Result with its error. With
        `keep_going` so does a job that fails otherwise; without it SdappError is raised, UpstreamError for an
        error of diffusers or torch. What `on_step` raises is passed on. `preview` is a file that shows the
        image that is being painted; `watcher` sees what the UNet does for it.
        """
        index, call = 0, _Call(on_step, keep_going, preview, watcher)
        while index < len(jobs):
            ahead = jobs[index : index + self.together(jobs[index], batch_size)]
            batch = tuple(next(groupby(ahead, attrgetter("pack")))[1])
            yield from self._paint_or_fail(batch, index, call)
            index += len(batch)

    def pictures(self, latents: Iterable[torch.Tensor]) -> Iterator[Image.Image]:
        """Decode latents [C, h, w] one by one, also noisy ones; colours beyond black or white are cut."""
        for each in latents:
            with torch.no_grad():
                decoded = decode_latents(self._vae, each[None].to(self.device, self.dtype))
            yield Image.fromarray(decoded.levels[0])
        self._pipes["txt2img"].maybe_free_model_hooks()

    # --- errors and memory -----------------------------------------------------------------------------

    def _paint_or_fail(self, batch: tuple[Job, ...], index: int, call: _Call) -> Iterator[Result]:
        """Paint a batch; catch here, and only here, what upstream raises; retry with less memory."""
        steps = batch[0].unet_calls if batch[0].has_passes else 0
        reporter = _StepReporter(call.on_step, index, len(batch), steps) if call.on_step else None
        results, reason, may_split, is_short = list[Result](), "", len(batch) > 1, False
        try:
            results = self._paint_batch(batch, index, call, reporter)
        except Exception as exc:
            is_short = is_shortage(exc)
            is_ours = isinstance(exc, SdappError)
            if (reporter and exc is reporter.raised) or (is_ours and not call.keep_going):
                raise
            reason = str(exc) if is_ours else f"{type(exc).__name__}: {' '.join(str(exc).split())[:400]}"
            if not is_short and not call.keep_going:
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
            yield from self._paint_or_fail(batch[:half], index, call)
            yield from self._paint_or_fail(batch[half:], index + half, call)
        elif is_short and (self._placement.save_more() or self._use_tiles(batch[0])):
            yield from self._paint_or_fail(batch, index, call)
        else:
            error = f"memory ran out, and nothing is left to save: {reason}" if is_short else reason
            yield from (Result(job, index + i, None, None, error) for i, job in enumerate(batch))

    def _use_tiles(self, job: Job) -> bool:
        """Denoise enlarged images in tiles from now on; False if that saves nothing for this job.

        A cache remembers one tile only, and a ControlNet reads the whole image: with these there are none.
        """
        is_tiled = job.upscale and (job.upscale.tile or self._tile or not _may_be_tiled(job))
        if job.second_pass is None or is_tiled:
            return False
        self._tile = TILE
        then = f"enlarged images are denoised in tiles of {TILE} pixels, which changes them"
        self._placement.notes.append(f"memory ran out: since then {then}")
        return True

    # --- one batch -------------------------------------------------------------------------------------

    def _paint_batch(
        self, batch: tuple[Job, ...], index: int, call: _Call, reporter: _StepReporter | None
    ) -> list[Result]:
        """Take a batch through the stages; each returns its fields of the Record."""
        if self._placement.make_room(batch[0], len(batch)):
            self.denoiser.stop_compiling("the model is offloaded: since then the UNet is not compiled")
        if not self._loras.are_merged(batch[0].loras):
            self._text.forget()
            with timed("LoRA"):
                self._loras.apply(batch[0].loras)
        started, before = time.perf_counter(), memory_in_use(self.device)
        self._masks.keep_for(batch[0])
        inputs = prepare_inputs(batch[0], self._find)
        same = [inputs] * len(batch) if inputs else []
        painting = Painting(batch, index, same, call.preview, call.watcher, reporter)
        painting.own = [dict.fromkeys(CALLS, 0) | {"found": _found_mask(batch[0], inputs)} for _ in batch]
        if call.watcher:
            call.watcher.begin()
        with torch.no_grad():
            for stage in self._stages:
                painting.entry |= stage(painting)
        self._pipes["txt2img"].maybe_free_model_hooks()
        seconds = (time.perf_counter() - started) / len(batch)
        self._sizes.learn(batch[0], len(batch), seconds, before)
        peak = before + memory_taken(self.device, before) if self.device.type == "cuda" else None
        painting.entry |= {"seconds": round(seconds, 3), "peak_memory": peak, "batch_size": len(batch)}
        with timed("convert"):
            return list(self._finish(painting))

    def _encode(self, painting: Painting) -> Mapping[str, Any]:
        """Encode the prompts; the negative ones only where guidance uses them (scale > 1)."""
        jobs, job = painting.jobs, painting.jobs[0]
        if job.unet_calls == job.upscaler_calls:  # it is only enlarged
            return {}
        negative = [PromptText.of(each, each.negative_prompt) for each in jobs]
        with timed("encode", self._settle):
            painting.conditioning = self._text.encode(
                [PromptText.of(each, each.prompt) for each in jobs],
                negative if job.guidance_scale > 1 else None,
            )
        return {}

    def _denoise(self, painting: Painting) -> Mapping[str, Any]:
        """Make latents from noise (and the input images) with the pipeline of the task."""
        jobs, job, eta = painting.jobs, painting.jobs[0], _eta(painting.jobs[0])
        if job.task.kind in ("outpaint", "upscale"):
            return {}
        assert painting.conditioning is not None
        has_mask = bool(painting.inputs and painting.inputs[0].mask)
        pipe = self._pipes["inpaint" if has_mask else job.task.kind]
        pipe.scheduler = self._scheduler(jobs)
        channels = pipe.unet.config.in_channels, self.family.latent_channels
        watched = self.denoiser.watched(pipe.scheduler, is_whole=job.cache_interval == 1)
        kept = self._preview.kept(pipe, painting.preview)
        canvas = painting.inputs[0] if painting.inputs else None
        hints, stays = prepare_hints(job, canvas), self._placement.offload == "none"
        steered = self._control.steering(pipe, job, hints, stays)
        seen = painting.watcher.watching(pipe) if painting.watcher else nullcontext()
        drawn = nullcontext() if job.is_drawn_plainly else drawn_as(job.noise[0], pipe.vae)
        with watched as calls, with_shortcuts(pipe, job) as shortcuts, kept, steered, seen, drawn:
            painting.latents = pipe(
                **painting.conditioning.arguments(),
                **pipeline_arguments(job, painting.inputs, *channels),
                **(told_sizes(job) if self.family.reads_sizes else {}),
                # On the CPU, one per image: the noise of an image depends on its own seed only.
                generator=[ImageNoise(*job.noise) for job in jobs],
                num_inference_steps=job.steps_in_all,
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
        """Make pixels of the latents, if they are painted, and not enlarged first."""
        upscale = painting.jobs[0].upscale
        is_enlarged = upscale and upscale.method == "hires" and upscale.enlarge.startswith("latent")
        if painting.latents is None or is_enlarged:
            return {}
        with timed("decode", self._settle):
            cut = PROFILES[painting.jobs[0].profile].cuts_levels
            painting.decoded = decode_latents(self._vae, painting.latents, cut)
        return {}

    def _outpaint(self, painting: Painting) -> Mapping[str, Any]:
        """Continue the images beyond their sides, in rounds of inpainting."""
        job = painting.jobs[0]
        if job.task.kind != "outpaint":
            return {}
        task = Inpaint(kind="inpaint", image="-", mask="-", strength=job.task.strength)
        corner = job.task.sides.left, job.task.sides.top  # of the images, on the whole canvas
        for left, top, right, bottom in job.rounds:
            place = corner[0] - left, corner[1] - top
            inputs = [
                grown(image, place, (right - left, bottom - top), 2 * self._scale)
                for image in painting.images
            ]
            assert isinstance(inputs[0].image, Image.Image)
            width, height = inputs[0].image.size
            change = {"task": task, "width": width, "height": height, "upscale": None}
            self._paint_over(painting, [each.model_copy(update=change) for each in painting.jobs], inputs)
            corner = left, top
        return {}

    def _upscale(self, painting: Painting) -> Mapping[str, Any]:
        """Enlarge the images, or their latents, and denoise them again as img2img."""
        job, upscale = painting.jobs[0], painting.jobs[0].upscale
        if upscale is None:
            return {}
        final = job.final_width, job.final_height
        if upscale.method == "model":
            with timed("upscale", self._settle):
                large = [self._upscalers.enlarge(image, upscale, final) for image in painting.images]
            painting.upscaled = large
            return {"final_size": final}
        if upscale.method == "diffusion":
            return {"final_size": final, "second_pass": self._upscale_by_diffusion(painting, final)}
        jobs = [each.second_pass for each in painting.jobs if each.second_pass]
        tile = upscale.tile or (self._tile if _may_be_tiled(job) else None)
        with with_tiles(self.denoiser.unet, tile and tile // self._scale):
            ran = self._paint_over(painting, jobs, self._enlarge(painting))
        second = {key: ran[key] for key in ("scheduler_class", "scheduler_config", "eta", "unet_calls")}
        return {"final_size": final, "second_pass": second}

    def _upscale_by_diffusion(self, painting: Painting, final: Size) -> Mapping[str, Any]:
        """Enlarge the images one by one, each from its own seed; return the entry of this pass."""
        made, ran, reporter = list[Image.Image](), dict[str, Any](), painting.reporter
        if reporter:
            reporter.begin_pass()
        for place, (job, image) in enumerate(zip(painting.jobs, painting.images, strict=True)):
            on_step = reporter.for_one_of(len(painting.jobs), place, job.upscaler_calls) if reporter else None
            with timed("upscale", self._settle):
                large, ran = self._upscale_pipes.enlarge(image, job, final, on_step)
            made.append(large)
        painting.upscaled = made
        painting.entry["unet_calls"] = painting.entry.get("unet_calls", 0) + ran["unet_calls"]
        scheduler = ran.pop("scheduler")
        config = _json_config(scheduler.config)
        return {"scheduler_class": type(scheduler).__name__, "scheduler_config": config, **ran}

    def _paint_over(
        self, painting: Painting, jobs: Sequence[Job], inputs: list[TaskInputs]
    ) -> Mapping[str, Any]:
        """Paint images over those of `painting`, which become the new ones; return the entry of this pass.

        Calls of all passes are added up in the entry of `painting`. What was wrong with the images before is
        wrong with these.
        """
        if painting.reporter:
            painting.reporter.begin_pass()
        again = replace(painting, jobs=tuple(jobs), inputs=inputs)
        entry, first = {**self._denoise(again)}, painting.entry
        self._decode(again)
        assert again.decoded is not None
        if painting.decoded is not None:
            again.decoded = again.decoded.after(painting.decoded)
        painting.inputs, painting.decoded, painting.latents = again.inputs, again.decoded, again.latents
        calls = {key: first.get(key, 0) + entry[key] for key in CALLS}
        first.update(entry | first | calls)
        return entry

    def _enlarge(self, painting: Painting) -> list[TaskInputs]:
        """The inputs of the second pass of these images."""
        job, second, upscale = painting.jobs[0], painting.jobs[0].second_pass, painting.jobs[0].upscale
        assert second is not None
        assert upscale is not None
        final, size = (job.final_width, job.final_height), (second.width, second.height)
        if painting.decoded is None and painting.latents is not None:
            large = enlarge_latents(painting.latents, upscale.enlarge, size, self._scale)
            return [TaskInputs(latents, size=final) for latents in large]
        images = painting.images
        if upscale.enlarge == "model":
            images = [self._upscalers.enlarge(image, upscale, final) for image in images]
        inputs = [enlarged(image, final, size) for image in images]
        if self.denoiser.unet.config.in_channels == self.family.latent_channels:
            return inputs
        # A model for inpainting does img2img too, if all is masked.
        return [replace(each, mask=Image.new("L", size, 255)) for each in inputs]

    def _find(self, image: Image.Image, asked: Inpaint | Detail) -> Image.Image | None:
        with timed("find", self._settle):
            return self._masks.find(image, asked, stays=self._placement.offload == "none")

    def _repaint_details(self, painting: Painting) -> Mapping[str, Any]:
        """Find the places of each detail in the images, repaint them at the full size, and put them back."""
        job, images = painting.jobs[0], painting.images
        for number, detail in enumerate(job.detail):
            masks = [self._find(image, detail) for image in images]
            found = [places(mask) if mask else [] for mask in masks]
            for own, each in zip(painting.own, found, strict=True):
                boxes = [box for box, _ in each]
                own["found"] += ({"mask_prompt": detail.mask_prompt, "boxes": boxes},)
            most = max(map(len, found))
            if painting.reporter:
                painting.reporter.count_places(most, job.repainted(number).unet_calls)
            for place in range(most):
                rows = [row for row, each in enumerate(found) if len(each) > place]
                given = [(images[row], found[row][place][1]) for row in rows]
                for row, image in zip(rows, self._repaint(painting, rows, given, number, place), strict=True):
                    images[row] = image
        if job.detail:
            painting.upscaled = images
        return {}

    def _repaint(
        self,
        painting: Painting,
        rows: Sequence[int],
        given: Sequence[tuple[Image.Image, Image.Image]],
        number: int,
        place: int,
    ) -> list[Image.Image]:
        """Repaint one place in each of some images of a batch, which are `given` with their masks."""
        side = self.denoiser.unet.config.sample_size * self._scale
        jobs = []
        for job in (painting.jobs[row] for row in rows):
            seed = derived_seed(job.seed, f"detail {number}", place)
            own_size = (
                {} if job.task.kind in ("outpaint", "upscale") else {"width": job.width, "height": job.height}
            )
            change = {"width": side, "height": side} | own_size | {"seed": seed}
            jobs.append(job.repainted(number).model_copy(update=change))
        size, padding = (jobs[0].width, jobs[0].height), painting.jobs[0].detail[number].padding
        inputs = [part_of(*each, padding, size) for each in given]
        part = Painting(tuple(jobs), painting.index, inputs, painting.preview, None, painting.reporter)
        if part.reporter:
            part.reporter.begin_pass()
        self._encode(part)
        entry = self._denoise(part)
        self._decode(part)
        assert part.decoded is not None
        before = painting.decoded or Decoded.nothing(len(painting.jobs))
        painting.decoded = before.with_parts(rows, part.decoded)
        for key in ("scheduler_class", "scheduler_config", "eta", "optimizations"):
            painting.entry.setdefault(key, entry[key])
        for row in rows:
            for key in CALLS:
                painting.own[row][key] += entry[key]
        return part.images

    def _finish(self, painting: Painting) -> Iterator[Result]:
        """Make the results: images (after inpainting, pasted into the input image) and their records."""
        decoded = painting.decoded or Decoded.nothing(len(painting.jobs))
        run_notes = [*self._placement.notes, *filter(None, [self.denoiser.failure])]
        for key, nothing in (("scheduler_class", ""), ("scheduler_config", {}), ("unet_calls", 0)):
            painting.entry.setdefault(key, nothing)
        painting.entry |= {
            "device": _device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "memory": self._placement.saving,
            **{key: checksum.result() for key, checksum in self.checksums.items()},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"sdapp": __version__} | {package: version(package) for package in VERSIONED},
        }
        for i, (job, image) in enumerate(zip(painting.jobs, painting.images, strict=True)):
            notes = (*cut_by(self._text.tokenizer, job), *run_notes, *decoded.notes[i])
            error, flagged = decoded.errors[i], None
            if not error:
                flagged = self._safety.look(image) if self._safety else None
            if self._safety and flagged and self._safety.skips:
                error = SKIPPED
            likeness = self._score.of(image, job) if self._score and not error else None
            own = painting.own[i]
            own |= {key: painting.entry.get(key, 0) + own[key] for key in CALLS}
            own |= {"notes": notes, "flagged": flagged, "clip_similarity": likeness}
            record = Record(job_id=job.id, **painting.entry | own)
            finished = None if error else image
            latents = decoded.latents[i] if decoded.latents[i].numel() else None
            yield Result(job, painting.index + i, record, finished, error, latents=latents)

    def _scheduler(self, batch: tuple[Job, ...]) -> Any:
        """A new scheduler for these jobs. Raises ConfigError, with the reason, if it cannot do the steps."""
        resolved, steps = batch[0].scheduler.resolve(), batch[0].steps_in_all
        own = batch[0].noise_schedule(self.scheduler_config)
        scheduler = build_scheduler(resolved, own, [job.seed for job in batch], batch[0].profile)
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


def _may_be_tiled(job: Job) -> bool:
    return job.cache_interval == 1 and not job.control


def _found_mask(job: Job, inputs: TaskInputs | None) -> tuple[Mapping[str, Any], ...]:
    """What the record says of a mask that was found by words."""
    if job.task.kind != "inpaint" or job.task.mask_prompt is None or inputs is None:
        return ()
    assert inputs.whole_mask is not None
    boxes = [box for box, _ in places(inputs.whole_mask)]
    return ({"mask_prompt": job.task.mask_prompt, "boxes": boxes},)


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
    model = model or locate_model(key.model, key.revision, key.vae, key.base)
    device = choose_device(key.device)
    dtype = choose_dtype(key.dtype, device)
    if key.memory.offload not in ("auto", "none") and device.type == "cpu":
        raise ConfigError("memory.offload: on a CPU there is nothing to offload from; use none")
    checker = find_checker(key.safety_checker, model)
    clip = find_clip(key.score.model) if key.score else None
    checksums = _checksums(model)
    with LOADING, without_advice():
        safety = SafetyChecker(checker, skips=key.flagged == "skip") if checker else None
        score = ClipScore(clip) if clip else None
        pipe = load_pipeline(model, dtype)
    if key.channels_last == "on" or (key.channels_last == "auto" and device.type == "cuda"):
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
    is_open = key.compile == "on" and key.memory.offload == "auto"  # what is compiled cannot be offloaded
    memory = key.memory.model_copy(update={"offload": "none"}) if is_open else key.memory
    painter = Painter(pipe, model.family, device, memory, safety, score)
    painter._placement.notes += model.notes
    painter.checksums = checksums
    if key.compile == "on" or (key.compile == "auto" and _repays(painter, unet_calls, batch_size)):
        # `batch_size: auto` measures times, which must not include compiling.
        painter.denoiser.compile(after=0 if key.compile == "on" and batch_size != "auto" else SETTLED)
    return painter


def _checksums(model: Model) -> dict[str, Future[str]]:
    """The SHA-256 of single files, as fields of a record; they are computed while the model is loaded."""
    paths = {"model": model.path, "vae": model.vae, "base": model.base and model.base.path}
    files = {part: path for part, path in paths.items() if path and path.is_file()}
    return {f"{part}_sha256": _in_background(sha256_of, path) for part, path in files.items()}


def _in_background(function: Callable[[Path], str], path: Path) -> Future[str]:
    """Call a function in a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, path)
    pool.shutdown(wait=False)
    return future


def _repays(painter: Painter, unet_calls: int, batch_size: BatchSize) -> bool:
    """Whether a run is long enough to compile the UNet, on the hardware where that is known to help."""
    images = USUAL_BATCH if batch_size == "auto" else batch_size
    is_placed = painter.device.type == "cuda" and painter._placement.offload == "none"
    is_possible = is_placed and find_spec("triton") is not None
    return is_possible and unet_calls / images >= REPAID
