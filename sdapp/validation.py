"""Check settings: each by itself, and all together."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from sdapp import schedulers
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, without_repeats
from sdapp.profiles import PROFILES, ProfileName
from sdapp.settings import files, layers
from sdapp.settings.messages import explain_error, place_message
from sdapp.settings.stages import Upscale
from sdapp.settings.tasks import FoundMask, Img2Img, Inpaint, Outpaint, UpscaleImage
from sdapp.settings.types import MAX_SEED

# Which `upscale.method` uses a setting of that group, of those that not all use.
USED_BY = {
    "enlarge": ("hires",),
    "strength": ("hires",),
    "steps": ("hires", "diffusion"),
    "scheduler": ("hires", "diffusion"),
    "noise_level": ("diffusion",),
}


def validate(merged: layers.Layer) -> RunConfig:
    """Check merged settings. Raises ConfigError with all errors: place, key, what is allowed."""
    try:
        config = RunConfig.model_validate(merged.values)
    except ValidationError as exc:
        messages = [explain_error(error, merged, RunConfig) for error in exc.errors()]
        raise ConfigError("\n".join(without_repeats(dict.fromkeys(messages)))) from None
    if found := list(_conflicts(config)):
        raise ConfigError("\n".join(place_message(key, message, merged) for key, message in found))
    return _with_paths(config, merged)


def _with_paths(config: RunConfig, merged: layers.Layer) -> RunConfig:
    """Replace the names of models, LoRAs and embeddings by the paths that they have in the user's folders.

    Raises ConfigError for a model that an image of another program names and that is not there.
    """
    found: dict[str, Any] = {}
    if path := files.find_named(config.folders.models, merged.named_model or config.model):
        found["model"] = path
    elif merged.named_model:
        raise ConfigError(_no_such_model(merged, config.folders.models))
    if path := files.find_named(config.folders.models, config.base or ""):
        found["base"] = path
    for key, folder in (("loras", config.folders.loras), ("embeddings", config.folders.embeddings)):
        if given := getattr(config, key):
            paths = [files.find_named(folder, each.file) or each.file for each in given]
            pairs = zip(given, paths, strict=True)
            found[key] = [each.model_copy(update={"file": path}) for each, path in pairs]
    return config.model_copy(update=found) if found else config


def _no_such_model(merged: layers.Layer, folder: str | None) -> str:
    image, model = merged.origins.get("model", "this image"), merged.named_model
    where = (
        f"which is not in {folder}; put it there"
        if folder
        else "and sdapp does not know where your models are"
    )
    fix = "" if folder else "; say where: sdapp config set folders.models FOLDER"
    return f"model: {image} was made with {model}, {where}{fix}, or choose another model with --model"


def _conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the settings that do not fit together: the key to name, and why."""
    try:
        schedulers.check_run(config.scheduler.resolve(), config.steps, config.eta)
    except ConfigError as exc:
        key, _, message = str(exc).partition(": ")
        yield key, message
    if config.ensd and config.profile != "a1111":
        yield "ensd", "only A1111 has it; add profile: a1111, or leave it out"
    yield from _task_conflicts(config)
    yield from _upscale_conflicts(config)
    yield from _detail_conflicts(config)
    if (config.width is None) != (config.height is None):
        yield "width" if config.width else "height", "give both width and height, or neither"
    if config.seed is not None and config.seed + config.count - 1 > MAX_SEED:
        yield "seed", f"seed + count goes past {MAX_SEED}"
    if config.dtype == "float16" and config.device == "cpu":
        yield "dtype", "float16 cannot run on a CPU; use float32, or bfloat16 if the CPU supports it"
    if config.embeddings and config.prompt_syntax == "plain":
        yield "embeddings", "prompt_syntax: plain reads every word as text; use a1111"
    if config.loras and config.memory.offload in ("group", "sequential"):
        yield "loras", "cannot be merged into layers that are offloaded; use memory.offload: model or none"
    if config.compile == "on" and config.memory.offload not in ("auto", "none"):
        yield "compile", "an offloaded UNet cannot be compiled; turn off compile or memory.offload"


def _task_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    if isinstance(config.task, Inpaint):
        yield from _mask_conflicts(config.task)
    if isinstance(config.task, Img2Img | Inpaint | Outpaint):
        yield from _no_steps("task", config.profile, config.steps, config.task.strength)
    if isinstance(config.task, Outpaint) and not any(config.task.sides.model_dump().values()):
        yield "task.sides", "nothing is added; give pixels for at least one side, such as left=128"
    if isinstance(config.task, Outpaint | UpscaleImage) and config.control:
        yield "control", "cannot steer outpainting, nor an image that is only upscaled; leave it out"
    if isinstance(config.task, Outpaint | UpscaleImage) and (config.width or config.height):
        yield "width", f"the size of {config.task.kind} follows from its image; leave out width and height"


def _mask_conflicts(task: Inpaint) -> Iterator[tuple[str, str]]:
    given = [key for key, field in FoundMask.model_fields.items() if getattr(task, key) != field.default]
    if task.mask is None and task.mask_prompt is None:
        yield "task.mask", "is required here: a file; or give task.mask_prompt, words for what to repaint"
    elif task.mask is not None and task.mask_prompt is not None:
        yield "task.mask_prompt", f"does not fit with task.mask ({task.mask}); leave one of them out"
    elif task.mask is not None and given:
        yield f"task.{given[0]}", "has no effect on a mask from a file; it is for task.mask_prompt"


def _detail_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    for i, detail in enumerate(config.detail):
        yield from _no_steps(f"detail.{i}", config.profile, config.steps, detail.strength)
    method = config.upscale.method if config.upscale and config.task.kind == "upscale" else ""
    if config.detail and method in ("model", "diffusion"):
        yield (
            "detail",
            f"needs the model of the image, which upscale.method: {method} does not load; use hires",
        )


def _no_steps(group: str, profile: ProfileName, steps: int, strength: float) -> Iterator[tuple[str, str]]:
    if PROFILES[profile].steps(steps, strength)[1] < 1:
        at_least = min(1.0, -(-100 // steps) / 100)
        none_run = f"with strength {strength:g}, none of {steps} steps runs"
        yield f"{group}.strength", f"{none_run}; use at least {at_least:g}"


def _upscale_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield what does not fit in `upscale`, or with it."""
    upscale = config.upscale
    if upscale is None:
        if isinstance(config.task, UpscaleImage):
            yield "upscale", "is missing: how much larger should the image be? For example upscale: 2"
        return
    yield from _upscaler_conflicts(upscale)
    if isinstance(config.task, Inpaint) and config.task.padding is not None:
        yield "upscale", "with task.padding, only a part is painted; paint first, then use sdapp upscale"
    if upscale.method != "hires":
        return
    steps = upscale.steps or config.steps
    yield from _no_steps("upscale", config.profile, steps, upscale.strength)
    try:
        schedulers.check_run((upscale.scheduler or config.scheduler).resolve(), steps, None)
    except ConfigError as exc:
        key, _, message = str(exc).partition(": ")
        yield f"upscale.{key}", message
    if upscale.enlarge.startswith("latent") and isinstance(config.task, Inpaint | Outpaint | UpscaleImage):
        message = f"{upscale.enlarge} needs latents of the whole image, which {config.task.kind} has not"
        yield "upscale.enlarge", f"{message}; use lanczos"
    yield from _tile_conflicts(upscale, config)


def _tile_conflicts(upscale: Upscale, config: RunConfig) -> Iterator[tuple[str, str]]:
    if upscale.tile and config.control:
        yield "upscale.tile", "does not fit with control, which reads the whole image; use one of them"
    if upscale.tile and config.cache_interval > 1:
        yield "upscale.tile", "does not fit with cache_interval, which remembers one tile only; use one"


def _upscaler_conflicts(upscale: Upscale) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the upscaler, or not used by it."""
    if upscale.uses_model and upscale.model is None:
        is_file = upscale.method != "diffusion"
        what = (
            "a .safetensors file, such as of ESRGAN"
            if is_file
            else "stabilityai/stable-diffusion-x4-upscaler"
        )
        yield "upscale.model", f"is missing: which upscaler? Give {what}"
    for key, methods in USED_BY.items():
        usual = Upscale.model_fields[key].default
        if upscale.method not in methods and getattr(upscale, key) != usual:
            way = f"leave it out, or set it to {'null' if usual is None else usual}"
            yield f"upscale.{key}", f"is not used; it is for upscale.method: {' or '.join(methods)}; {way}"
    if upscale.model is not None and not upscale.uses_model:
        yield "upscale.model", "is not used; add upscale.method: model, or upscale.enlarge: model"
