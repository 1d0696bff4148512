"""Models of the Hugging Face Hub."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from sdapp.errors import UnavailableError
from sdapp.models.files import BUILT_IN

HUB_FOLDERS = ("scheduler", "tokenizer", "text_encoder", "unet", "vae")
HUB_FILES = (
    "model_index.json",
    *(f"{folder}/*.{kind}" for folder in HUB_FOLDERS for kind in ("json", "txt", "safetensors")),
)
HUB_IGNORED = ("*.non_ema.*", "*.ema.*", "*.int8.*")


def is_hub_id(name: str) -> bool:
    """Whether a name could be one of the Hub's: `org/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def download(
    name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str] = (), key: str = "model"
) -> Path:
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
        raise UnavailableError(
            f"{key}: {name} asks you to accept its licence on the Hub; then run `hf auth login`"
        ) from exc
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


def has_plain_files(name: str, revision: str | None) -> bool:
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
    clients = [
        importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)
    ]
    return tuple(client.HTTPError for client in clients)
