"""Find a model and what it is from its files, before anything heavy is imported."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.families import Family, find_family, list_supported
from sdapp.models.files import BUILT_IN, PICKLED, POSTCARDS, read_json, refuse_pickled, tensor_shapes
from sdapp.models.hub import cached_commit, download_model, is_hub_id

UNET_INPUTS = "model.diffusion_model.input_blocks."  # names of the UNet's tensors in a single file


@dataclass(frozen=True)
class Model:
    """A model on this machine: a diffusers folder, or one `.safetensors` file."""

    name: str
    path: Path
    revision: str | None = None  # the commit, for a model from the Hub
    vae: Path | None = None  # the autoencoder that replaces its own: a folder or a file
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
    def marks(self) -> set[str]:
        """What tells the families apart: `context WIDTH`, the kind of added embedding, and the folders."""
        if self.is_file:
            keys = (shape for name, shape in self._shapes.items() if name.endswith("attn2.to_k.weight"))
            return {f"context {shape[1]}" for shape in keys} | {
                name.rsplit(".", 3)[0] for name in tensor_shapes(self.path, "cond")
            }
        config = self.path / "unet" / "config.json"
        unet = read_json(config) if config.is_file() else {}
        said: set[str] = {f"context {unet.get('cross_attention_dim')}", str(unet.get("addition_embed_type"))}
        return said | {folder.name for folder in self.path.iterdir()}

    @cached_property
    def family(self) -> Family:
        """The family of Stable Diffusion. Raises UnavailableError for a config file that cannot be read."""
        return find_family(self.marks)

    @property
    def scale(self) -> int:
        """Pixels per latent, along one side (f)."""
        if self.is_file:
            return self.family.latent_scale
        return int(2 ** (len(self._configs["vae"]["block_out_channels"]) - 1))

    @property
    def size(self) -> int:
        """The side in pixels of the images that the model was trained on."""
        if self.is_file:
            return self.family.native_size
        return int(self._configs["unet"]["sample_size"]) * self.scale

    @property
    def latent_scaling(self) -> float:
        """The factor between the latents of the autoencoder and those of the UNet."""
        default = self.family.latent_scaling
        return default if self.is_file else float(self._configs["vae"].get("scaling_factor", default))

    @property
    def in_channels(self) -> int:
        """Input channels of the UNet: those of the latents, or 2n + 1 in a model made for inpainting."""
        if self.is_file:
            return self._shapes.get(f"{UNET_INPUTS}0.0.weight", [0, self.family.latent_channels])[1]
        return int(self._configs["unet"]["in_channels"])

    @property
    def is_for_inpainting(self) -> bool:
        """Whether the UNet reads the mask and the masked image besides the latents."""
        return self.in_channels == 2 * self.family.latent_channels + 1

    def variant(self) -> str | None:
        """`fp16` if the folder has only files of that variant."""
        plain = self.path / "unet" / "diffusion_pytorch_model.safetensors"
        halved = self.path / "unet" / "diffusion_pytorch_model.fp16.safetensors"
        return "fp16" if halved.exists() and not plain.exists() else None


def locate(name: str, revision: str | None = None) -> Model:
    """Find a model by its built-in name, folder, file or Hub id; download it if it is not in the cache.

    Accepts safetensors only, and no remote code. Raises UnavailableError, and ConfigError for a revision that
    is given to anything but a Hub id.
    """
    if revision is not None and (name == BUILT_IN or Path(name).exists()):
        raise ConfigError(f"revision: {revision!r} is for models from the Hub; {name} has none")
    if name == BUILT_IN:
        return Model(name, POSTCARDS)
    path = Path(name) if not name.startswith("~/") else Path(name).expanduser()
    refuse_pickled(name, path)
    if path.exists():
        return _checked(Model(name, path))
    if not is_hub_id(name):
        raise UnavailableError(
            f"model: no folder or file {name}; allowed: {BUILT_IN}, a diffusers folder, a .safetensors file, "
            "or a Hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    if cached := cached_commit(name, revision):
        with suppress(UnavailableError):  # an incomplete download
            return _checked(Model(name, cached, cached.name))
    folder = download_model(name, revision)
    return _checked(Model(name, folder, folder.name))


def _checked(model: Model) -> Model:
    """Return the model. Raises UnavailableError for one that cannot be loaded, with what is wrong."""
    if model.path.is_dir() and not (model.path / "model_index.json").is_file():
        raise UnavailableError(f"model: {model.path} is not a diffusers folder: model_index.json is missing")
    if not model.is_file and not (model.path / "unet").exists():
        raise UnavailableError(f"model: {model.path} has no UNet; supported: {list_supported()}")
    try:
        if not model.family.is_supported:
            raise UnavailableError(
                f"model: {model.path} is {model.family.name}; supported: {list_supported()}"
            )
        if missing := _missing(model):
            raise UnavailableError(f"model: {model.path}: {missing}")
        numbers = (model.size, model.scale, model.in_channels)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
        raise UnavailableError(
            f"model: {model.path}: its config.json files are not those of a Stable Diffusion: {exc}"
        ) from exc
    if min(numbers) < 1:
        raise UnavailableError(f"model: {model.path}: a size in its config.json files is below 1")
    return model


def _missing(model: Model) -> str | None:
    """Which file a diffusers folder lacks, and what to do; None if it has all, and for a single file."""
    if model.is_file:
        return None
    for part in model.family.weight_folders:
        if not list((model.path / part).glob("*.safetensors")):
            pickled = [file.name for suffix in PICKLED for file in (model.path / part).glob(f"*{suffix}")]
            found = (
                f"only {pickled[0]}, which can run code and is not read"
                if pickled
                else "no .safetensors file"
            )
            return f"{part} has {found}; use a model with safetensors"
    for needed in ("model_index.json", "scheduler/scheduler_config.json"):
        if not (model.path / needed).exists():
            return f"{needed} is missing; download the model again"
    for encoder, tokenizer in model.family.text_encoders.items():
        if (model.path / encoder).exists() and not (model.path / tokenizer).exists():
            return f"{tokenizer} is missing; download the model again"
    return None


def check_task(model: Model, kind: str) -> None:
    """Refuse a task that the model's UNet has no channels for. Raises ConfigError."""
    if model.is_for_inpainting and kind != "inpaint":
        raise ConfigError(
            f"task: {model.name} is made for inpainting ({model.in_channels} channels) and cannot do {kind}; "
            "use `sdapp inpaint`"
        )
