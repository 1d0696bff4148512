"""Where a model lies and what it is, found out from its files before anything heavy is imported."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.files import BUILT_IN, PICKLED, POSTCARDS, read_json, refuse_pickled, tensor_shapes
from sdapp.models.hub import HUB_FILES, HUB_IGNORED, download, has_plain_files, is_hub_id

UNET_INPUTS = "model.diffusion_model.input_blocks."  # in the original layout
FACTOR = 0.18215  # of Stable Diffusion, where a config does not say another
WEIGHT_FOLDERS = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class Model:
    """A model on this machine: a diffusers folder, or one `.safetensors` file."""

    name: str
    path: Path
    revision: str | None = None  # the commit, for a model from the Hub
    vae: Path | None = None  # the autoencoder that stands in for its own: a folder or a file
    vae_revision: str | None = None  # its commit, if it is from the Hub

    @property
    def is_file(self) -> bool:
        return self.path.is_file()

    @cached_property
    def _configs(self) -> dict[str, Any]:
        return {part: read_json(self.path / part / "config.json") for part in ("unet", "vae")}

    @cached_property
    def _shapes(self) -> dict[str, list[int]]:
        return tensor_shapes(self.path, UNET_INPUTS)

    @property
    def scale(self) -> int:
        """Pixels a latent, along one side (f)."""
        return 8 if self.is_file else 2 ** (len(self._configs["vae"]["block_out_channels"]) - 1)

    @property
    def size(self) -> int:
        """The side in pixels of the images that the model was trained on; of a single 2.x file 768."""
        if self.is_file:
            width = self._shapes.get(f"{UNET_INPUTS}1.1.transformer_blocks.0.attn2.to_k.weight", [0, 0])[1]
            return 768 if width == 1024 else 512
        return int(self._configs["unet"]["sample_size"]) * self.scale

    @property
    def latent_scaling(self) -> float:
        """What the autoencoder's latents are multiplied by for the UNet."""
        return FACTOR if self.is_file else float(self._configs["vae"].get("scaling_factor", FACTOR))

    @property
    def in_channels(self) -> int:
        """4, or 9 for a model made for inpainting."""
        if self.is_file:
            return self._shapes.get(f"{UNET_INPUTS}0.0.weight", [0, 4])[1]
        return int(self._configs["unet"]["in_channels"])

    def variant(self) -> str | None:
        """`fp16` where the folder holds only such files."""
        plain = self.path / "unet" / "diffusion_pytorch_model.safetensors"
        halved = self.path / "unet" / "diffusion_pytorch_model.fp16.safetensors"
        return "fp16" if halved.exists() and not plain.exists() else None


def locate(name: str, revision: str | None = None) -> Model:
    """Find a model by its built-in name, folder, file or Hub id; a Hub model is downloaded if it is not in the cache.

    Only safetensors are taken, and no remote code. Raises UnavailableError.
    """
    if revision is not None and (name == BUILT_IN or Path(name).exists()):
        raise ConfigError(f"revision: {revision!r} is for models from the Hub; {name} has none")
    if name == BUILT_IN:
        return Model(name, POSTCARDS)
    path = Path(name) if not name.startswith("~/") else Path(name).expanduser()
    refuse_pickled(name, path)
    if path.is_file():
        return Model(name, path)
    if path.is_dir():
        return _check_folder(Model(name, path))
    if not is_hub_id(name):
        raise UnavailableError(
            f"model: no folder or file {name}; allowed: {BUILT_IN}, a diffusers folder, a .safetensors file, or a Hub id such "
            "as stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    return _check_folder(_from_hub(name, revision))


def _from_hub(name: str, revision: str | None) -> Model:
    twins = ["*.fp16.*"] if has_plain_files(name, revision) else []  # they would double the download
    folder = download(name, revision, HUB_FILES, [*HUB_IGNORED, *twins])
    return Model(name, folder, folder.name)


def _check_folder(model: Model) -> Model:
    """Refuse a folder that cannot be loaded, and say what it lacks."""
    if not (model.path / "model_index.json").is_file():
        raise UnavailableError(f"model: {model.path} is no diffusers folder (model_index.json is missing)")
    if (model.path / "text_encoder_2").exists() or not (model.path / "unet").exists():
        raise UnavailableError(
            f"model: {model.path} is no Stable Diffusion 1.x or 2.x; sdapp paints with those alone"
        )
    for part in WEIGHT_FOLDERS:
        if not list((model.path / part).glob("*.safetensors")):
            pickled = [file.name for suffix in PICKLED for file in (model.path / part).glob(f"*{suffix}")]
            what = (
                f"has only {pickled[0]}, which can run code and is not read"
                if pickled
                else "has no .safetensors file"
            )
            raise UnavailableError(f"model: {model.path}: {part} {what}; use a model with safetensors")
    for needed in ("tokenizer", "scheduler/scheduler_config.json"):
        if not (model.path / needed).exists():
            raise UnavailableError(f"model: {model.path}: {needed} is missing; download the model again")
    try:
        numbers = (model.size, model.scale, model.in_channels)
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise UnavailableError(
            f"model: {model.path}: its config.json files are not those of a Stable Diffusion: {exc}"
        ) from exc
    if min(numbers) < 1:
        raise UnavailableError(
            f"model: {model.path}: its config.json files are not those of a Stable Diffusion"
        )
    return model


def check_task(model: Model, kind: str) -> None:
    """Refuse a task that the model's UNet has no channels for. Raises ConfigError."""
    if model.in_channels == 9 and kind != "inpaint":
        raise ConfigError(
            f"task: {model.name} is made for inpainting (9 channels) and cannot do {kind}; use `sdapp inpaint`"
        )
