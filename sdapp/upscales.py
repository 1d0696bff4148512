"""Images that exist, made larger with the settings inside them, into a folder that can be continued."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdapp import images
from sdapp.batches.items import Item
from sdapp.batches.run import Batch
from sdapp.config import Folders, RunConfig
from sdapp.errors import ConfigError, InputError, SdappError
from sdapp.metadata.read import read_settings
from sdapp.metadata.record import read_header, to_layer
from sdapp.models.files import BUILT_IN
from sdapp.notes import Notes
from sdapp.replays import Replay, group_by_load, plan_replays
from sdapp.settings.layers import Layer, merge, override

UPSCALE_DEFAULTS = {
    "prompt": "",
    "upscale.scale": 2,
    "output.name": "{image}-{final_width}x{final_height}",
}
REPLACED = (
    "task",
    "inputs",
    "width",
    "height",
    "count",
    "upscale",
    "control",
    "detail",
)  # settings that are those of the new image
# By an upscaler alone: the smallest model stands for the one of the image, with nothing that belongs to that.
WITHOUT_MODEL: dict[str, Any] = {
    "model": BUILT_IN,
    "vae": None,
    "base": None,
    "clip_skip": 0,
    "loras": [],
    "embeddings": [],
    "safety_checker": "off",
}


def plan_upscales(
    paths: Sequence[Path], layers: Sequence[Layer], notes: Notes, below: Sequence[Layer] = ()
) -> tuple[list[Replay], list[SdappError]]:
    """Plan to upscale images, with `layers` over the settings inside each and `below` under them.

    Tells the notes of each image; returns the errors of those that cannot be used, which name the image.
    """
    defaults = [override(key, value, "sdapp upscale") for key, value in UPSCALE_DEFAULTS.items()]
    asked = merge([*defaults, *below, *layers]).values["upscale"]
    task = override("task.kind", "upscale", "sdapp upscale")  # above a config, whose size is not used
    layers = [*layers[:-1], task, *layers[-1:]]
    if isinstance(asked, dict) and asked.get("method") in ("model", "diffusion"):
        layers += [override(key, value, "sdapp upscale") for key, value in WITHOUT_MODEL.items()]
    planned, errors = plan_replays(paths, layers, notes, [*defaults, *below], _settings_for)
    blind = [each for each in planned if _is_blind(each.config)]
    way = "there is none inside the image; give --prompt and --model, or an upscaler: --method model"
    errors += [ConfigError(f"{each.path}: prompt: {way}") for each in blind]
    return [each for each in planned if each not in blind], errors


def _is_blind(config: RunConfig) -> bool:
    """Whether nobody chose the model nor the prompt with which an image would be denoised again."""
    is_hires = config.upscale is not None and config.upscale.method == "hires"
    return is_hires and not config.prompt and "model" not in config.model_fields_set


def _settings_for(path: Path, folders: Folders) -> Layer:
    """The settings to upscale an image with: what is inside it, and the image itself as input.

    An image without a seed gets one from its bytes, so that the same command always makes the same image.
    """
    digest, name = images.inputs.read(str(path), "image")[1], str(path)
    try:
        job = read_header(path)["job"]
        inside = to_layer({key: value for key, value in job.items() if key not in REPLACED}, path)
    except InputError:  # no image of sdapp
        try:
            inside = read_settings(path, folders)
        except InputError:
            note = f"{path}: no settings are inside, so those of the command are used"
            inside = Layer({}, notes=(note,))
    kept = {key: value for key, value in inside.values.items() if key not in REPLACED}
    own = {"seed": int(digest[:8], 16)} | kept | {"task": {"kind": "upscale", "image": name}}
    origins = {key: place for key, place in inside.origins.items() if key.partition(".")[0] not in REPLACED}
    return Layer(own, origins | {"task": name, "task.image": name}, inside.notes)


def upscale_batches(planned: Sequence[Replay]) -> list[Batch]:
    """One batch for each load of a model; all have one folder. What failed before is tried again."""
    places = {each.path: place for place, each in enumerate(planned)}
    batches = []
    for group in group_by_load(planned):
        items = [
            Item(job, places[each.path] + 1, places[each.path], {}) for each in group for job in each.jobs
        ]
        name = f"sdapp upscale --model {group[0].config.model}"
        config = group[0].config
        batches.append(Batch(items.copy, config, group[0].load, prompt_files=(name,), retry_failed=True))
    return batches
