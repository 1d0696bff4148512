"""Upscalers: whether they are there and what they are, found from their files without torch."""

import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sdapp.errors import ConfigError, InputError, MissingInputError, UnavailableError
from sdapp.models import hub
from sdapp.models.files import read_json, refuse_others, tensor_digest, tensor_shapes
from sdapp.models.kinds import IN_FILE, IS_UPSCALER, find_kind, marks_of
from sdapp.models.locate import EXAMPLES, find_path
from sdapp.models.model import Model
from sdapp.models.vae import split_revision
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.stages import Upscale

KEY = "upscale.model"
LOADED_BY = ("spandrel", "torchvision")
INSTALL = (
    "pip install 'sdapp[upscale]', with a torchvision that was built for your torch "
    "(both from the same index, such as https://download.pytorch.org/whl/cpu)"
)
# Pipelines that upscale: how many times, the input channels of their UNets, and what the sides must be
# multiples of.
PIPELINES = {
    "StableDiffusionUpscalePipeline": (4, 7, 8),
    "StableDiffusionLatentUpscalePipeline": (2, 8, 64),
}
LOADED_PARTS = ("unet", "vae", "text_encoder")
WANTED_FILES = ("model_index.json", *(
    f"{part}/*.{end}"
    for part in (*LOADED_PARTS, "tokenizer", "scheduler", "low_res_scheduler")
    for end in ("json", "txt", "safetensors")
))  # fmt: skip


def check_upscaler(upscale: Upscale) -> Upscale:
    """Return the settings with the path of the upscaler and the SHA-256 of its tensors.

    Raises MissingInputError, UnavailableError for what is no upscaler or without the packages that load one,
    ConfigError for settings that it does not take, and InputError for another SHA-256 than the settings name.
    """
    assert upscale.model is not None
    if upscale.method == "diffusion":
        return _check_pipeline(upscale, upscale.model)
    path = Path(upscale.model).expanduser()
    refuse_others(upscale.model, path, KEY)
    if not path.is_file():
        raise MissingInputError(f"{KEY}: {upscale.model}: no such file; give an upscaler as .safetensors")
    marks = marks_of(tensor_shapes(path, KEY))
    is_known = re.search(IS_UPSCALER, marks, re.MULTILINE)
    if kind := None if is_known else _whole_model(marks) or find_kind(marks, is_part=True):
        what = kind.partition(";")[0]
        raise UnavailableError(f"{KEY}: {upscale.model} is {what}; give an upscaler such as ESRGAN")
    digest = tensor_digest(path)
    _refuse_other_digest(upscale, digest)
    if missing := [name for name in LOADED_BY if find_spec(name) is None]:
        raise UnavailableError(f"upscale: {' and '.join(missing)} are needed to load an upscaler: {INSTALL}")
    return upscale.model_copy(update={"model": str(path), "sha256": digest})


def _whole_model(marks: str) -> str | None:
    return "a Stable Diffusion" if re.search(IN_FILE, marks, re.MULTILINE) else None


def _refuse_other_digest(upscale: Upscale, digest: str) -> None:
    if upscale.sha256 not in (None, digest):
        raise InputError(f"{KEY}: {upscale.model} is not the file that was used: its SHA-256 is {digest}")


# --- upscalers of Stable Diffusion ------------------------------------------------------------------------


def find_pipeline(name: str) -> Model:
    """The folder of an upscaler of Stable Diffusion: a folder, or `org/name[@revision]` of the Hub.

    Only what is one is downloaded. Raises UnavailableError.
    """
    hub_id, revision = split_revision(name)
    path = find_path(hub_id, KEY)
    if path is not None and path.is_file():
        raise UnavailableError(
            f"{KEY}: {name} is a file; an upscaler of Stable Diffusion is a diffusers folder"
        )
    if path is not None:
        _check_class(Model(name, path))
        return Model(name, path)
    return _downloaded(hub_id, revision)


@cache  # so that the images of a run have one commit, and the Hub is asked once
def _downloaded(hub_id: str, revision: str | None) -> Model:
    name = f"{hub_id}@{revision}" if revision else hub_id
    cached = hub.cached_commit(hub_id, revision)
    if cached and all(Model(name, cached).weights(part)[1] for part in LOADED_PARTS):
        _check_class(Model(name, cached))
        return Model(name, cached)
    _check_class(Model(name, hub.download(hub_id, revision, hub.CONFIGS, key=KEY)))
    folder = hub.download(hub_id, revision, WANTED_FILES, hub.find_unwanted(hub_id, revision), key=KEY)
    return Model(f"{hub_id}@{folder.name}", folder)


def pipeline_class(model: Model) -> str:
    """The name of the pipeline that a folder is for; "" if it says none."""
    index = model.path / "model_index.json"
    return str(read_json(index, KEY).get("_class_name", "")) if index.is_file() else ""


def has_own_solver(model: Model) -> bool:
    """Whether an upscaler of Stable Diffusion runs with the scheduler of its files, as the x2 one does."""
    return pipeline_class(model) == "StableDiffusionLatentUpscalePipeline"


def _check_class(model: Model) -> None:
    """Refuse what is no upscaler, by its name. Raises UnavailableError."""
    kind = pipeline_class(model)
    if kind not in PIPELINES:
        what = (find_kind(model.marks, is_part=False) or model.family.name).partition(";")[0]
        what = what if kind else "no diffusers folder: model_index.json is missing"
        raise UnavailableError(f"{KEY}: {model.name} is {what}; give an upscaler such as {EXAMPLES[KEY]}")
    channels = read_json(model.path / "unet" / "config.json", KEY).get("in_channels")
    if channels != PIPELINES[kind][1]:
        wrong = f"its UNet has {channels} input channels, not {PIPELINES[kind][1]}"
        raise UnavailableError(f"{KEY}: {model.name} is a {kind}, but {wrong}")


def _check_pipeline(upscale: Upscale, name: str) -> Upscale:
    model = find_pipeline(name)
    for part in LOADED_PARTS:
        files = model.weights(part)[1]
        if not files:
            raise UnavailableError(f"{KEY}: {name}: {part} has no .safetensors file; download it again")
        for file in files:
            tensor_shapes(file, KEY)
    is_latent, own = has_own_solver(model), SchedulerChoice(name="euler")
    if is_latent and upscale.scheduler and upscale.scheduler.resolve() != own.resolve():
        way = "without options; leave it out, or set it to null"
        raise ConfigError(f"upscale.scheduler: the x2 latent upscaler works with euler only, {way}")
    if is_latent and upscale.noise_level != Upscale().noise_level:
        raise ConfigError("upscale.noise_level: the x2 latent upscaler has none; leave it out")
    if upscale.tile and is_latent and (upscale.tile % 64 or upscale.tile < 128):
        raise ConfigError("upscale.tile: must be a multiple of 64, at least 128, for the x2 latent upscaler")
    digests = [tensor_digest(file) for file in model.weights("unet")[1]]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    _refuse_other_digest(upscale, digest)
    scheduler = own if is_latent and upscale.scheduler else upscale.scheduler
    return upscale.model_copy(update={"model": model.name, "sha256": digest, "scheduler": scheduler})
