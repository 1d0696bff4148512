"""Find and download models of the Hugging Face Hub."""

import importlib.util
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sdapp.errors import UnavailableError
from sdapp.models.families import FAMILIES
from sdapp.models.files import BUILT_IN

CONFIGS = ("model_index.json", "*/config.json", "*/scheduler_config.json")
FOLDERS = {"scheduler"}.union(*({*each.weight_folders, *each.text_encoders.values()} for each in FAMILIES))
WANTED = (
    "model_index.json",
    *(f"{folder}/*.{end}" for folder in FOLDERS for end in ("json", "txt", "safetensors")),
)
IGNORED = ("*.non_ema.*", "*.ema.*", "*.int8.*")
FULL_WEIGHTS = re.compile(r"(\w+)/(?:diffusion_pytorch_)?model(?:-\d{5}-of-\d{5})?\.safetensors")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: `org/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def is_cached(name: str) -> bool:
    """Whether the cache has anything of a Hub id."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()


def cached_commit(name: str, revision: str | None) -> Path | None:
    """The cached folder of a full commit hash, which may be incomplete; found without a network."""
    from huggingface_hub import snapshot_download

    is_commit = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    with suppress(OSError, ValueError):  # `download` says what is wrong
        return Path(snapshot_download(name, revision=revision, local_files_only=True)) if is_commit else None
    return None


def download(
    name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str] = (), key: str = "model"
) -> Path:
    """Download files of a Hub id that are not in the cache; return its folder in the cache.

    `wanted` and `ignored` are patterns of file names. Raises UnavailableError that begins with `key`.
    """
    from huggingface_hub import errors, is_offline_mode, snapshot_download

    is_offline = is_offline_mode()  # huggingface_hub 1 asks the Hub about a commit even then
    chosen = {"allow_patterns": list(wanted), "ignore_patterns": list(ignored)}
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=is_offline, **chosen))
    except _hub_errors() as exc:
        way = f"a folder or `--model {BUILT_IN}`" if key == "model" else "a folder"
        reasons = {  # the first class that fits counts
            errors.GatedRepoError: "asks you to accept its licence on the Hub; then run `hf auth login`",
            errors.RepositoryNotFoundError: "is not on the Hub, or private; check it, or run `hf auth login`",
            errors.RevisionNotFoundError: f"has no revision {revision!r}; leave it out for the newest",
            errors.LocalEntryNotFoundError: f"is not in the cache and the Hub cannot be reached; give {way}",
        }
        other = f"cannot be downloaded from the Hub: {' '.join(str(exc).split())}"
        reason = next((text for kind, text in reasons.items() if isinstance(exc, kind)), other)
        raise UnavailableError(f"{key}: {name} {reason}") from exc


def find_unwanted(name: str, revision: str | None) -> list[str]:
    """Patterns of files that are not downloaded, such as fp16 weights where the Hub has full ones."""
    from huggingface_hub import HfApi

    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=10).siblings or []
    except _hub_errors():
        siblings = []  # the download itself says what is wrong
    full = {match[1] for file in siblings if (match := FULL_WEIGHTS.fullmatch(file.rfilename))}
    return [*IGNORED, *(f"{part}/*.fp16*" for part in sorted(full))]


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises, with the errors of the HTTP libraries that it may use."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [
        importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)
    ]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))
