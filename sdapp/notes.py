"""What the user should know about a run before the first image is painted."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from shutil import which

import psutil

from sdapp import markup
from sdapp.config import RunConfig
from sdapp.images import inputs
from sdapp.jobs import Job
from sdapp.models.embedding_files import name_of, without_names
from sdapp.models.files import BUILT_IN
from sdapp.models.model import Model
from sdapp.models.upscalers import PIPELINES, find_pipeline, pipeline_class
from sdapp.models.words import unknown_words
from sdapp.planning import choose_scheduler
from sdapp.profiles import PROFILES, is_exact, why_not_exact
from sdapp.schedulers import few_steps, is_for_few_steps
from sdapp.settings.output import LABELS
from sdapp.settings.tasks import Img2Img, Inpaint, Outpaint

MAX_LINE_NOTES = 20
SHARP = 0.5
DECODES = 6  # numbers per pixel and channel that decoding holds at once (benchmarks/activations.py)
CHOICE = re.compile(r"\{[^{}]*\|[^{}]*\}|__[\w/-]*[A-Za-z][\w/-]*?__")
OnNote = Callable[[str], object]  # is given a note for the user


class Notes:
    """Passes each note on to a hook, once."""

    def __init__(self, on_note: OnNote | None) -> None:
        self._on_note, self._told = on_note, set[str]()

    def tell(self, notes: Iterable[str]) -> None:
        """Pass on each note, unless it was passed on before."""
        for note in notes:
            if note not in self._told and self._on_note:
                self._on_note(note)
            self._told.add(note)

    def wait(self, who: str) -> None:
        """Tell who is painting the images that are missing, and wait a moment."""
        self.tell([who])
        time.sleep(0.5)


def notes_before_painting(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """What the user should know about the images of a run; `job` is the first one."""
    if choice := CHOICE.search(f"{job.prompt} {job.negative_prompt}"):
        yield f"prompt: {choice[0]!r} is plain text here; it chooses only in prompt files (sdapp batch)"
    yield from filter(None, [choose_scheduler(config, model)[1]])
    yield from notes_on_place(config)
    yield from notes_on_settings(config, model, job)
    for each in filter(None, (job, job.second_pass)):
        if isinstance(each.task, Img2Img | Inpaint) and each.steps_to_run != each.steps_in_all:
            again = "" if each is job else f" again at {job.final_width}x{job.final_height}"
            strength = job.upscale.strength if job.upscale and again else each.task.strength
            yield f"{each.steps_to_run} of {each.steps_in_all} steps run{again} at strength {strength:g}"


def notes_on_place(config: RunConfig, may_use_cluster: bool = False) -> Iterator[str]:
    """Where the preview is, and what has no effect where the images are painted."""
    is_cluster = config.executor.kind == "ray"
    if is_cluster and not may_use_cluster:
        yield "executor has no effect here: only batch and compare paint on a cluster"
    if config.preview and is_cluster and may_use_cluster:
        yield "preview has no effect on a cluster: no image is painted here"
    elif config.preview:
        yield f"while an image is painted, {config.preview_file} shows it"


def note_on_last_page(folder: Path, shown_before: Iterable[str], now: Iterable[str]) -> Iterator[str]:
    """That the page in a folder will leave out images that it shows now; they are given by their ids."""
    if set(shown_before) - set(now):
        yield (
            f"{folder}: there are images of other settings, which the page will not show any more; "
            "to keep both, choose another folder with --out"
        )


def notes_on_line(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """Notes on one image of many, whose settings may differ from those of the run."""
    if is_for_few_steps(model.scheduler_config):
        yield f"{model.name} was made for few steps; it runs with {job.scheduler.name}"
    yield from notes_on_settings(config, model, job)


def notes_on_labels(labels: Mapping[str, str], template: str) -> Iterator[str]:
    """A note that names the columns of a line that are no settings and not part of the file name."""
    if unused := [name for name in labels if f"{{{name}}}" not in template]:
        usable = [f"{{{name}}}" for name in unused if name in LABELS]
        way = f"; output.name can use {', '.join(usable)}" if usable else ""
        yield f"not a setting, kept as it is in the images: {', '.join(unused)}{way}"


def notes_on_settings(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """Notes on settings that have no effect, take long, or are beyond what the model was trained on."""
    prompts = {"prompt": job.prompt, "negative_prompt": job.negative_prompt}
    details = [text for each in job.detail for text in (each.prompt, each.negative_prompt) if text]
    texts = map(markup.words if job.prompt_syntax == "a1111" else str, [*prompts.values(), *details])
    without = without_names(" ".join(texts), job.embeddings)
    is_painted = job.unet_calls > job.upscaler_calls  # not only enlarged
    if is_painted and (words := unknown_words(model, without)):
        yield (
            f"{BUILT_IN} does not know: {', '.join(words)}. It knows the words of its small world "
            "(in its MODEL_CARD.md); for anything else use a real checkpoint: "
            "--model stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    resolved = job.scheduler.resolve()
    few = "" if is_exact(job.profile, resolved) else few_steps(resolved, job.steps)
    yield from filter(None, (few, *resolved.notes))
    yield from _on_profile(job)
    for key, text in prompts.items():
        yield from markup.notes(key, text, job.prompt_syntax)
    yield from _without_effect(config, model, job)
    yield from _on_upscaling(config, model, job)
    if job.width * job.height > 4 * model.size**2 and job.task.kind not in ("outpaint", "upscale"):
        yield (
            f"{job.width}x{job.height} is far more than the {model.size}x{model.size} that {model.name} "
            "was trained on: it takes long, and things repeat; --size makes it smaller"
        )
    if (
        job.task.kind == "img2img"
        and inputs.image(job.task.image, None, True, keep_alpha=True).mode == "RGBA"
    ):
        yield f"{job.task.image}: img2img paints the whole image opaque; what is transparent begins as white"
    if config.compile == "on" and "cache_interval" not in job.shortcuts:
        yield "the UNet is compiled at the first step of each size, which can take minutes"


def _on_profile(job: Job) -> Iterator[str]:
    """Notes on what is painted as in diffusers, although another profile is asked for."""
    row = PROFILES[job.profile]
    if not row.is_k_diffusion or not job.unet_calls:
        return
    passes = filter(None, (job, job.second_pass))
    reasons = [why_not_exact(job.profile, each.scheduler.resolve()) for each in passes]
    if isinstance(job.task, Inpaint | Outpaint):
        reasons.append(f"{job.task.kind} is another method in diffusers than in {row.label}")
    for reason in dict.fromkeys(filter(None, reasons)):
        yield f"profile: {job.profile}: {reason}: the image will differ"


def _on_upscaling(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """Notes on large images: enlarged latents that stay blurred, and more memory than this machine has."""
    upscale, pixels = job.upscale, job.decoded_pixels
    if upscale and upscale.enlarge.startswith("latent") and upscale.strength < SHARP:
        yield f"enlarged latents stay blurred below an upscale.strength of {SHARP}; or enlarge by lanczos"
    if config.device not in ("auto", "cpu") or _has_nvidia() or config.memory.vae_tiling is True:
        return
    largest = job.second_pass or job
    if pixels > model.size**2:
        width = model.facts.get("widths", [128])[0]
        yield from _on_memory(width, largest.width, largest.height, "memory.vae_tiling: true needs less")
    if upscale and upscale.method == "diffusion" and not upscale.tile:
        scale = PIPELINES[pipeline_class(find_pipeline(str(upscale.model)))][0]
        yield from _on_memory(128, job.width * scale, job.height * scale, "upscale.tile: 512 needs less")


@cache
def _has_nvidia() -> bool:
    return which("nvidia-smi") is not None


def _on_memory(channels: int, width: int, height: int, way: str) -> Iterator[str]:
    """A note if decoding an image, by an autoencoder of so many channels, takes more than is free."""
    needed, free = DECODES * channels * width * height * 4, psutil.virtual_memory().available
    if needed > free:
        size = f"{width}x{height}"
        yield f"decoding {size} takes about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free; {way}"


def _without_effect(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """Notes on settings that have no effect beside others."""
    calls, (begin, end) = job.unet_calls, job.guidance_interval
    is_xl = model.family.reads_sizes
    is_guided, is_cached = job.guidance_scale > 1, "cache_interval" in job.shortcuts
    unguided = "at a guidance_scale of 1 or below"
    if model.embeds_guidance:
        is_guided, unguided = False, "on this model, whose UNet reads the guidance scale (LCM)"
    is_ever_guided = any(begin <= call / calls < end for call in range(calls))
    quality_is_given = "quality" in config.output.model_fields_set
    named = {each.name for each in job.embeddings}
    for name in (each.name or name_of(Path(each.file)) for each in config.embeddings or ()):
        if name not in named:
            yield f"embeddings: {name!r} is not in the prompts, so it has no effect"
    rules = (
        ("negative_prompt", unguided, not is_guided and job.negative_prompt),
        ("guidance_interval", unguided,
         not is_guided and "guidance_interval" in job.shortcuts),
        ("guidance_rescale", unguided, not is_guided and job.guidance_rescale),
        ("guidance_scale", "if no UNet call is in the guidance_interval", is_guided and not is_ever_guided),
        ("cache_interval", "with a single UNet call", is_cached and calls == 1),
        ("compile", "with a cache_interval above 1", is_cached and config.compile == "on"),
        ("original_size", "on this model: only SDXL reads it", not is_xl and job.original_size),
        ("crop", "on this model: only SDXL reads it", not is_xl and job.crop),
        ("ensd", "on a scheduler whose steps draw no noise",
         job.ensd and not job.scheduler.resolve().stochastic),
        ("clip_skip", "if it is 1: this model always skips the last layer",
         job.clip_skip == 1 and is_xl),
        ("output.quality", "on PNG, which is lossless", quality_is_given and config.output.format == "png"),
    )  # fmt: skip
    used = rules if calls else rules[-1:]  # without calls, it is only enlarged
    yield from (f"{key} has no effect {case}" for key, case, applies in used if applies)


class LineNotes:
    """Collects notes on the lines of a prompt file, each text once."""

    def __init__(self) -> None:
        self._lines: dict[str, list[int]] = {}

    def add(self, line: int, notes: Iterable[str]) -> None:
        """Add the notes on one image of a line."""
        for note in notes:
            lines = self._lines.setdefault(note, [])
            if line not in lines[-1:]:
                lines.append(line)

    def texts(self) -> Iterator[str]:
        """At most MAX_LINE_NOTES notes, each with its first line; then how many more there are."""
        for note, (first, *others) in islice(self._lines.items(), MAX_LINE_NOTES):
            yield f"line {first}{f' (and {len(others)} more)' if others else ''}: {note}"
        if (more := len(self._lines) - MAX_LINE_NOTES) > 0:
            yield f"and {more} more notes on lines"
