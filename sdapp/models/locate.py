"""Where a model lies and what it is, found out from its files before anything heavy is imported."""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError, UnavailableError

BUILT_IN = "postcards"
POSTCARDS = Path(__file__).parents[1] / "postcards"
HUB_FOLDERS = ("scheduler", "tokenizer", "text_encoder", "unet", "vae")
HUB_FILES = ("model_index.json", *(f"{folder}/*.{kind}" for folder in HUB_FOLDERS for kind in ("json", "txt", "safetensors")))
HUB_IGNORED = ("*.non_ema.*", "*.ema.*", "*.int8.*")
UNET_INPUTS = "model.diffusion_model.input_blocks."  # in the original layout
FACTOR = 0.18215  # of Stable Diffusion, where a config does not say another
MAX_HEADER = 100_000_000  # bytes; safetensors itself reads no larger one
PARTS = ("unet", "vae", "text_encoder")
PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


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
        """The side in pixels of the pictures that the model was trained on; of a single 2.x file 768."""
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


def is_hub_id(name: str) -> bool:
    """Whether a name could be one of the Hub's: `org/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def _from_hub(name: str, revision: str | None) -> Model:
    twins = ["*.fp16.*"] if _has_plain_files(name, revision) else []  # they would double the download
    folder = download(name, revision, HUB_FILES, [*HUB_IGNORED, *twins])
    return Model(name, folder, folder.name)


def download(name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str] = (), key: str = "model") -> Path:
    """The folder in the cache with files of a Hub id, fetched if need be. Raises UnavailableError that names the key."""
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    here = is_offline_mode()  # huggingface_hub 1 asks the Hub about a commit even then
    chosen = {"allow_patterns": list(wanted), "ignore_patterns": list(ignored)}
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=here, **chosen))
    except GatedRepoError as exc:
        raise UnavailableError(f"{key}: {name} asks you to accept its licence on the Hub; then run `hf auth login`") from exc
    except RepositoryNotFoundError as exc:
        raise UnavailableError(
            f"{key}: the Hub has no {name}, or it is private; check the spelling, or `hf auth login`"
        ) from exc
    except LocalEntryNotFoundError as exc:
        hint = f". Without a network there is `--model {BUILT_IN}`" if key == "model" else ""
        raise UnavailableError(f"{key}: {name} is not in the cache and the Hub cannot be reached; check the network, or give "
                               f"a folder{hint}") from exc  # fmt: skip
    except (HfHubHTTPError, HFValidationError, OSError, *_network_errors()) as exc:
        raise UnavailableError(f"{key}: {name} cannot be fetched from the Hub: {exc}") from exc


def _has_plain_files(name: str, revision: str | None) -> bool:
    """Whether the Hub has the UNet without a variant. Without a network the cache decides, so any answer will do."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if HF_HUB_OFFLINE:
        return False
    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=10).siblings or []
    except (OSError, HfHubHTTPError, HFValidationError, *_network_errors()):
        return False  # the download itself says what is wrong
    return any(file.rfilename == "unet/diffusion_pytorch_model.safetensors" for file in siblings)


def _network_errors() -> tuple[type[Exception], ...]:
    """The errors of the HTTP library that huggingface_hub brings along, whichever it is."""
    clients = [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
    return tuple(client.HTTPError for client in clients)


def _check_folder(model: Model) -> Model:
    """Refuse a folder that cannot be loaded, and say what it lacks."""
    if not (model.path / "model_index.json").is_file():
        raise UnavailableError(f"model: {model.path} is no diffusers folder (model_index.json is missing)")
    if (model.path / "text_encoder_2").exists() or not (model.path / "unet").exists():
        raise UnavailableError(f"model: {model.path} is no Stable Diffusion 1.x or 2.x; sdapp paints with those alone")
    for part in PARTS:
        if not list((model.path / part).glob("*.safetensors")):
            pickled = [file.name for suffix in PICKLED for file in (model.path / part).glob(f"*{suffix}")]
            what = f"has only {pickled[0]}, which can run code and is not read" if pickled else "has no .safetensors file"
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
        raise UnavailableError(f"model: {model.path}: its config.json files are not those of a Stable Diffusion")
    return model


def check_task(model: Model, kind: str) -> None:
    """Refuse a task that the model's UNet has no channels for. Raises ConfigError."""
    if model.in_channels == 9 and kind != "inpaint":
        raise ConfigError(f"task: {model.name} is made for inpainting (9 channels) and cannot do {kind}; use `sdapp inpaint`")


def unknown_words(model: Model, prompt: str) -> list[str]:
    """The words of a prompt that the built-in model never saw: those that are no single token to it. Others know all."""
    if model.name != BUILT_IN:
        return []
    vocabulary: Mapping[str, int] = read_json(model.path / "tokenizer" / "tokenizer.json")["model"]["vocab"]
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    return list(dict.fromkeys(word for word in words if f"{word}</w>" not in vocabulary))


def read_json(path: Path, key: str = "model") -> Any:
    """The content of a JSON file. Raises UnavailableError that names the key."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnavailableError(f"{key}: {path} cannot be read: {exc}") from exc


def tensor_shapes(path: Path, prefix: str = "") -> dict[str, list[int]]:
    """Shapes in the header of a safetensors file, or nothing if it has no sound header: loading says more."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size)) if size <= MAX_HEADER else {}
        return {key: value["shape"] for key, value in header.items() if key.startswith(prefix) and key != "__metadata__"}
    return {}


def refuse_pickled(name: str, path: Path, key: str = "model") -> None:
    """Raise UnavailableError for a file that is not safetensors."""
    if path.suffix in PICKLED or (path.is_file() and path.suffix != ".safetensors"):
        raise UnavailableError(
            f"{key}: {name} is not safetensors; a pickled checkpoint can run code, so it is not read. "
            "Convert it once in a place you trust, then give the .safetensors file"
        )
