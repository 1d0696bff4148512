"""Seeds of images whose line names none."""

import hashlib
from typing import Literal

from sdapp.errors import ConfigError
from sdapp.settings.types import MAX_SEED

Seeds = Literal["derived", "increment", "same"]


def derived_seed(base: int, content: str, copy: int) -> int:
    """A seed in 0 … 2**32 - 1 that depends on nothing but the base seed, a line's content and the copy's number.

    The first four bytes of a SHA-256, and the copy added modulo 2**32: no two of 2**32 copies have the same seed.
    """
    digest = hashlib.sha256(f"{base}\0{content}".encode(errors="surrogatepass")).digest()
    return (int.from_bytes(digest[:4]) + copy) % 2**32


def seed_for(mode: Seeds, base: int, position: int, content: str, copy: int) -> int:
    """The seed of an image whose line names none. Raises ConfigError past 2**63 - 1.

    derived: by content and copy; increment: base + position, where position counts the images of the file before this
    one, as A1111 does; same: base + copy, so that every line begins with the base seed. All three count from 0.
    """
    seed = {"derived": derived_seed(base, content, copy), "increment": base + position, "same": base + copy}[
        mode
    ]
    if seed > MAX_SEED:
        raise ConfigError(f"seed: {mode} seeds from {base} on go past {MAX_SEED}; give a smaller base seed")
    return seed
