"""Find and download models of the Hugging Face Hub."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from sdapp.errors import UnavailableError
from sdapp.models.families import SUPPORTED
from sdapp.models.files import BUILT_IN

WANTED = (
    "model_index.json",
    *(
        f"{folder}/*.{kind}"
        for folder in sorted({folder for family in SUPPORTED for folder in family.folders})
        for kind in ("json", "txt", "safetensors")
    ),
)
IGNORED = ("*.non_ema.*", "*.ema.*", "*.int8.*")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: `org/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def cached_commit(name: str, revision: str | None) -> Path | None:
    """The cached folder of a full commit hash, which may be incomplete; found without a network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if re.fullmatch(r"[0-9a-f]{40}", revision or "") is None:
        return None
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None  # `download` says what is wrong


def download_model(name: str, revision: str | None) -> Path:
    """Download what a model needs and is not in the cache; return its folder. Raises UnavailableError."""
    twins = ["*.fp16.*"] if _has_plain_files(name, revision) else []  # they would double the download
    return download(name, revision, WANTED, [*IGNORED, *twins])


def download(
    name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str] = (), key: str = "model"
) -> Path:
    """Download files of a Hub id that are not in the cache; return its folder in the cache.

    `wanted` and `ignored` are patterns of file names. Raises UnavailableError that begins with `key`.
    """
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    is_offline = is_offline_mode()  # huggingface_hub 1 asks the Hub about a commit even then
    chosen = {"allow_patterns": list(wanted), "ignore_patterns": list(ignored)}
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=is_offline, **chosen))
    except GatedRepoError as exc:
        raise UnavailableError(
            f"{key}: {name} asks you to accept its licence on the Hub; then run `hf auth login`"
        ) from exc
    except RepositoryNotFoundError as exc:
        raise UnavailableError(
            f"{key}: the Hub has no {name}, or it is private; check the spelling, or run `hf auth login`"
        ) from exc
    except LocalEntryNotFoundError as exc:
        hint = f". Without a network there is `--model {BUILT_IN}`" if key == "model" else ""
        raise UnavailableError(
            f"{key}: {name} is not in the cache and the Hub cannot be reached; check the network, or give a "
            f"folder{hint}"
        ) from exc
    except (HfHubHTTPError, HFValidationError, OSError, *_network_errors()) as exc:
        raise UnavailableError(f"{key}: {name} cannot be downloaded from the Hub: {exc}") from exc


def _has_plain_files(name: str, revision: str | None) -> bool:
    """Whether the Hub has the UNet without a variant; offline the answer does not matter."""
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
    """The errors of the HTTP libraries that huggingface_hub may use."""
    clients = [
        importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)
    ]
    return tuple(client.HTTPError for client in clients)
