"""Whether a model can be loaded and do what is asked; if not, why, and the way out."""

from collections.abc import Iterator
from pathlib import Path

from sdapp.errors import ConfigError
from sdapp.models.files import PICKLED, read_json, tensor_shapes
from sdapp.models.kinds import ONLY, find_kind
from sdapp.models.model import CONFIG_FILES, SHARD, Model


def find_problem(model: Model, has_weights: bool = True) -> str | None:
    """Why a model cannot be loaded: the end of a sentence that begins with its name.

    `has_weights` is False for a folder with the config files only. Raises UnavailableError for a file that is
    damaged.
    """
    try:
        return next(_problems(model, has_weights), None)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as exc:
        return f": its files are not those of a Stable Diffusion: {exc}"


def _problems(model: Model, has_weights: bool) -> Iterator[str]:
    """Why a model cannot be loaded; the first reason counts."""
    if not model.is_file and not (model.path / "model_index.json").is_file():
        yield f" is not a diffusers folder: model_index.json is missing{_what_else(model.path)}"
    is_part = "channels" not in model.facts
    if kind := find_kind(model.marks, is_part and model.is_file):
        yield f" is {kind.replace('FILE', model.name)}"
    if is_part and (model.is_file or not (model.path / "unet").exists()):
        yield f" has no UNet that sdapp knows; {ONLY}"
    if model.base is None and (lacks := model.lacks):
        yield f" {_says_lacks(lacks)}"
    if has_weights and not model.is_file:
        yield from _missing_files(model)
    if min(model.size, model.scale, model.in_channels) < 1 or not model.latent_scaling > 0:
        yield ": a size or a factor in its config.json files is not positive"


def _says_lacks(parts: list[str]) -> str:
    """What a file without these parts is, and the way out."""
    if parts == ["vae"]:
        return "has no autoencoder (VAE); give one: --set vae=PATH"
    what = "is a UNet alone" if "vae" in parts else f"has no {' and no '.join(parts)}"
    return f"{what}; take the rest from another model: --set base=MODEL"


def _what_else(folder: Path) -> str:
    """What a folder without model_index.json seems to be, and the way out."""
    if (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("_class_name")
        return f"; it is one part of a model ({kind}), give the whole"
    files = sorted(folder.glob("*.safetensors"))
    return f"; give the file in it: {files[0]}" if files else ""


def _missing_files(model: Model) -> Iterator[str]:
    """What a diffusers folder lacks. Raises UnavailableError for a damaged file."""
    for part in filter(model.has_own, model.family.weight_folders):
        files, folder = model.weights(part)[1], model.path / part
        pickled = [file.name for suffix in PICKLED for file in folder.glob(f"*{suffix}")]
        found = [f"only {name}, which can run code and is not read" for name in pickled]
        if not files:
            yield f": {part} has {[*found, 'no .safetensors file'][0]}; use a model with safetensors"
        shards = SHARD.search(files[0].name)
        if shards and len(files) != int(shards[1]):
            yield f": {part} has {len(files)} of the {int(shards[1])} files of its weights; download it again"
        for file in files:
            tensor_shapes(file)
    for needed in (*CONFIG_FILES, *model.family.text_encoders.values()):
        if not (model.path / needed).exists():
            yield f": {needed} is missing; download the model again"


def check_task(model: Model, kind: str) -> None:
    """Refuse a task that the model's UNet is not made for. Raises ConfigError."""
    if model.in_channels != model.family.latent_channels and kind in ("txt2img", "img2img"):
        raise ConfigError(
            f"task: {model.name} is made for inpainting ({model.in_channels} channels) and cannot do {kind}; "
            "use `sdapp inpaint`"
        )


def check_clip_skip(model: Model, clip_skip: int) -> None:
    """Refuse to leave out all layers of the text encoder. Raises ConfigError.

    A single file is not checked: all families have more layers than `clip_skip` may leave out.
    """
    if clip_skip and model.text_layers and clip_skip >= model.text_layers:
        most = model.text_layers - 1
        raise ConfigError(
            f"clip_skip: the text encoder of {model.name} has {model.text_layers} layers; at most {most}"
        )
