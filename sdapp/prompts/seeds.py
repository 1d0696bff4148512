"""Seeds of images whose line gives none."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from sdapp.errors import ConfigError
from sdapp.settings.types import MAX_SEED

Seeds = Literal["derived", "increment", "same"]


def seed_content(values: Mapping[str, Any]) -> str:
    """Write the settings of a line as the text that its derived seeds are hashed from, without `seed` and
    `count`.

    `values` has dotted keys, the size as width and height, and paths as the file gives them. Equal settings
    give equal text: `7.0` is written as `7`.
    """
    plain = {key: _plain(value) for key, value in values.items() if key not in ("seed", "count")}
    return json.dumps(plain, sort_keys=True)


def _plain(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_plain(item) for item in value]
        case {"width": width, "height": height}:  # one of several sizes
            return f"{width}x{height}"
        case dict():
            return {key: _plain(item) for key, item in value.items()}
    return value


def derived_seed(base: int, content: str, copy: int) -> int:
    """A seed from 0 to 2**32 - 1 that depends only on the base seed, a line's content and the number of the
    copy.

    It is the first four bytes of a SHA-256 plus `copy`, modulo 2**32: copies of a line never share a seed.
    """
    digest = hashlib.sha256(f"{base}\0{content}".encode(errors="surrogatepass")).digest()
    return (int.from_bytes(digest[:4]) + copy) % 2**32


def seed_for(mode: Seeds, base: int, position: int, content: str, copy: int) -> int:
    """The seed of an image whose line gives none. Raises ConfigError above 2**63 - 1.

    derived: from the line's content and the copy, see `derived_seed`. increment: base + position, where
    position counts all images of the file before this one, as in A1111. same: base + copy, so every line
    starts with the base seed. All counts start at 0.
    """
    if mode == "derived":
        return derived_seed(base, content, copy)
    seed = base + (position if mode == "increment" else copy)
    if seed > MAX_SEED:
        raise ConfigError(f"seed: {mode} seeds from {base} on go past {MAX_SEED}; give a smaller base seed")
    return seed
