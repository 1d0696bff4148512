"""Load a model, and paint jobs with it: each batch goes through the stages."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import torch
from PIL import Image

from sdapp.config import BatchSize
from sdapp.diffusion.batch_size import BatchSizes
from sdapp.diffusion.clip_score import ClipScore
from sdapp.diffusion.decode import decode_latents
from sdapp.diffusion.devices import choose_device, choose_dtype
from sdapp.diffusion.loading import load_pipeline
from sdapp.diffusion.memory import is_shortage, memory_in_use, memory_taken
from sdapp.diffusion.safety import SafetyChecker
from sdapp.diffusion.startup import LOADING, without_advice
from sdapp.diffusion.watch import Watcher
from sdapp.errors import ConfigError, SdappError, UpstreamError
from sdapp.jobs import Job, LoadKey
from sdapp.models.checksums import sha256_of
from sdapp.models.clip import find_clip
from sdapp.models.model import Model
from sdapp.models.safety import find_checker
from sdapp.models.vae import locate_model
from sdapp.profiling import timed
from sdapp.records import OnStep, Result
from sdapp.stages.details import repaint_details
from sdapp.stages.finish import make_results
from sdapp.stages.loaded_model import LoadedModel
from sdapp.stages.outpaint import extend
from sdapp.stages.painting import Painting, RecordFields, StepReporter
from sdapp.stages.passes import decode, denoise, encode_prompts, read_inputs
from sdapp.stages.upscale import enlarge

# Each changes a batch, and returns its fields of the Record. Results are made after the last one.
STAGES: tuple[Callable[[LoadedModel, Painting], RecordFields], ...] = (
    read_inputs,
    encode_prompts,
    denoise,
    decode,
    extend,
    enlarge,
    repaint_details,
)
LARGE = 2**30  # bytes of weights
REPAID = 7_500  # UNet calls: compiling takes a minute and saves 8 ms per call (published, not measured here)
SETTLED = 200  # calls of one batch size after which `batch_size: auto` is no longer trying it
USUAL_BATCH = 8


def load(
    key: LoadKey, model: Model | None = None, *, unet_calls: int = 0, batch_size: BatchSize = 1
) -> "Painter":
    """Load the weights of a key in its dtype. `model` is what the key names, if it is already located.

    `unet_calls` of the whole run and `batch_size` decide whether compiling pays. Threads load one after the
    other. Raises UnavailableError, ConfigError.
    """
    model = model or locate_model(key.model, key.revision, key.vae, key.base)
    device = choose_device(key.device)
    dtype = choose_dtype(key.dtype, device, model.weight_bytes > LARGE)
    if key.memory.offload not in ("auto", "none") and device.type == "cpu":
        raise ConfigError("memory.offload: on a CPU there is nothing to offload from; use none")
    checker = find_checker(key.safety_checker, model)
    clip = find_clip(key.score.model) if key.score else None
    checksums = _checksums(model)
    with LOADING, without_advice():
        safety = SafetyChecker(checker, skips=key.flagged == "skip") if checker else None
        score = ClipScore(clip) if clip else None
        pipe = load_pipeline(model, dtype)
    is_faster = device.type == "cuda" or (device.type == "cpu" and dtype == torch.bfloat16)
    if key.channels_last == "on" or (key.channels_last == "auto" and is_faster):
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
    is_open = key.compile == "on" and key.memory.offload == "auto"  # what is compiled cannot be offloaded
    memory = key.memory.model_copy(update={"offload": "none"}) if is_open else key.memory
    loaded = LoadedModel(pipe, model.family, device, memory, safety, score)
    loaded.placement.notes += model.notes
    loaded.checksums = checksums
    if key.compile == "on" or (key.compile == "auto" and _repays(loaded, unet_calls, batch_size)):
        # `batch_size: auto` measures times, which must not include compiling.
        loaded.denoiser.compile(after=0 if key.compile == "on" and batch_size != "auto" else SETTLED)
    return Painter(loaded)


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


def _repays(loaded: LoadedModel, unet_calls: int, batch_size: BatchSize) -> bool:
    """Whether a run is long enough to compile the UNet, on the hardware where that is known to help."""
    images = USUAL_BATCH if batch_size == "auto" else batch_size
    is_placed = loaded.device.type == "cuda" and loaded.placement.stays
    is_possible = is_placed and find_spec("triton") is not None
    return is_possible and unet_calls / images >= REPAID


@dataclass(frozen=True)
class _Options:
    """What one call of `paint` asks for; threads take turns, each with its own."""

    on_step: OnStep | None
    keep_going: bool
    preview: str | None
    watcher: Watcher | None


@dataclass(frozen=True)
class _Failure:
    """Why a batch was not painted."""

    reason: str
    is_shortage: bool  # of memory
    is_ours: bool  # raised by sdapp, so that all jobs of the batch would raise it


class Painter:
    """Paints jobs with a loaded model.

    painter = load(LoadKey.of(config, model))
    for result in painter.paint(jobs): result.image.show()
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model, self._sizes = model, BatchSizes(model.device)

    def together(self, job: Job, batch_size: BatchSize) -> int:
        """The largest number of images in a batch that begins with this job."""
        return self.model.placement.most(job, self._sizes.of(job, batch_size))

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
        index, options = 0, _Options(on_step, keep_going, preview, watcher)
        while index < len(jobs):
            ahead = jobs[index : index + self.together(jobs[index], batch_size)]
            batch = tuple(next(groupby(ahead, attrgetter("pack")))[1])
            yield from self._paint_or_fail(batch, index, options)
            index += len(batch)

    def pictures(self, latents: Iterable[torch.Tensor]) -> Iterator[Image.Image]:
        """Decode latents [C, h, w] one by one, also noisy ones; colours beyond black or white are cut."""
        for each in latents:
            with torch.no_grad():
                decoded = decode_latents(self.model.vae, each[None].to(self.model.device, self.model.dtype))
            yield Image.fromarray(decoded.levels[0])
        self.model.pipelines["txt2img"].maybe_free_model_hooks()

    def _paint_or_fail(self, batch: tuple[Job, ...], index: int, options: _Options) -> Iterator[Result]:
        """Paint a batch; if that fails, paint it with less memory or in halves, or say what went wrong."""
        painted = self._try(batch, index, options)
        if not isinstance(painted, _Failure):
            yield from painted
            return
        placement, half = self.model.placement, len(batch) // 2
        placement.free()
        if painted.is_shortage:
            self.model.denoiser.stop_compiling("memory ran out: since then the UNet is not compiled")
        if half and not painted.is_ours:
            if painted.is_shortage:
                self._sizes.largest = half
                note = f"memory ran out at {len(batch)} images at a time: since then {half} at a time"
                placement.notes.append(note)
            yield from self._paint_or_fail(batch[:half], index, options)
            yield from self._paint_or_fail(batch[half:], index + half, options)
        elif painted.is_shortage and placement.save_more(batch[0]):
            yield from self._paint_or_fail(batch, index, options)
        else:
            lead = "memory ran out, and nothing is left to save: " if painted.is_shortage else ""
            for i, job in enumerate(batch):
                yield Result(job, index + i, None, None, lead + painted.reason)

    def _try(self, batch: tuple[Job, ...], index: int, options: _Options) -> list[Result] | _Failure:
        """Paint a batch; catch here, and only here, what upstream raises.

        The caller saves memory, not `except`: until that ends, the traceback holds the tensors.
        """
        steps = batch[0].unet_calls if batch[0].has_passes else 0
        reporter = StepReporter(options.on_step, index, len(batch), steps) if options.on_step else None
        try:
            return self._through_stages(Painting(batch, index, options.preview, options.watcher, reporter))
        except Exception as exc:
            failure = _Failure(_reason_of(exc), is_shortage(exc), isinstance(exc, SdappError))
            if (reporter and exc is reporter.raised) or (failure.is_ours and not options.keep_going):
                raise
            if not failure.is_shortage and not options.keep_going:
                raise UpstreamError(f"image {index + 1} cannot be painted: {failure.reason}") from exc
            return failure

    def _through_stages(self, painting: Painting) -> list[Result]:
        """Take a batch through the stages, and measure it."""
        model, job, images = self.model, painting.job, len(painting.jobs)
        if model.placement.make_room(job, images):
            model.denoiser.stop_compiling("the model is offloaded: since then the UNet is not compiled")
        if not model.loras.are_merged(job.loras):
            model.text.forget()
            with timed("LoRA"):
                model.loras.apply(job.loras)
        started, before = time.perf_counter(), memory_in_use(model.device)
        if painting.watcher:
            painting.watcher.begin()
        with torch.no_grad():
            for stage in STAGES:
                painting.shared |= stage(model, painting)
        model.pipelines["txt2img"].maybe_free_model_hooks()
        seconds = (time.perf_counter() - started) / images
        self._sizes.learn(job, images, seconds, before)
        peak = before + memory_taken(model.device, before) if model.device.type == "cuda" else None
        painting.shared |= {"seconds": round(seconds, 3), "peak_memory": peak, "batch_size": images}
        with timed("convert"):
            return list(make_results(model, painting))


def _reason_of(exc: Exception) -> str:
    if isinstance(exc, SdappError):
        return str(exc)
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:400]}"
