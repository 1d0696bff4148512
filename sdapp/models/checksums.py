"""SHA-256 of files with weights: computed once for each file, and remembered with its size and time."""

import hashlib
import json
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from sdapp.errors import UnavailableError

_LOCK = threading.Lock()


def sha256_of(path: Path, is_fresh: bool = False) -> str:
    """The SHA-256 of a file; read anew if the file has changed, or if it must be `is_fresh`.

    Takes about a second for each GB. Raises OSError.
    """
    path = path.resolve()
    if not is_fresh and (known := known_sha256(path)):
        return known
    with path.open("rb") as file:
        stamp = _stamp(path)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with _LOCK, suppress(OSError, RuntimeError):  # no home, or it cannot be written: it is computed again
        store = _store()
        store.parent.mkdir(parents=True, exist_ok=True)
        new = store.with_name(f"{store.name}.{os.getpid()}")
        new.write_text(json.dumps({**_remembered(), str(path): [*stamp, digest]}))
        new.replace(store)
    return digest


def known_sha256(path: Path) -> str | None:
    """The SHA-256 of a file, if it was computed since the file changed."""
    path = path.resolve()
    entry = _remembered().get(str(path))
    with suppress(OSError):
        if isinstance(entry, list) and entry[:2] == _stamp(path):
            return str(entry[2])
    return None


def check_download(path: Path, key: str = "model", is_fresh: bool = False) -> None:
    """Compare a file of the Hub's cache with its SHA-256, which the Hub gives and the cache has as its name.

    Raises UnavailableError for a file that is damaged. Other files pass.
    """
    blob = path.resolve()
    is_named = blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)
    if is_named and sha256_of(blob, is_fresh) != blob.name:
        hub_id = blob.parent.parent.name.removeprefix("models--").replace("--", "/")
        raise UnavailableError(
            f"{key}: {path.name} of {hub_id} is damaged: its SHA-256 is not the one that the Hub gives; "
            f"fix: sdapp pull {hub_id}"
        )


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _store() -> Path:
    return user_cache_path("sdapp") / "checksums.json"


def _remembered() -> dict[str, Any]:
    with suppress(OSError, RuntimeError, ValueError):  # none yet, or a broken one
        found = json.loads(_store().read_bytes())
        return found if isinstance(found, dict) else {}
    return {}
