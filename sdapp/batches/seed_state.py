"""The base seed that the folder of a batch was begun with, kept in batch.json."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from sdapp.errors import OutputError
from sdapp.outputs.files import create
from sdapp.prompts.seeds import Seeds

STATE_FILE = "batch.json"


@dataclass(frozen=True)
class SeedState:
    """How lines without a seed get one, as decided by the first run on a folder."""

    base_seed: int
    seeds: Seeds


def begin_seeds(
    folder: Path, seed: int | None, seeds: Seeds | None, keep: SeedState | None = None
) -> SeedState:
    """Read how a folder was begun, or begin it with `keep`, so that later runs continue with it.

    A new folder without `keep` gets no file; if `seed` is None, one is drawn. Raises OutputError if the
    folder was begun with other values than `seed` and `seeds`, or if its batch.json is broken.
    """
    path = folder / STATE_FILE
    if not path.exists():
        if keep is None:
            return SeedState(secrets.randbelow(2**32) if seed is None else seed, seeds or "derived")
        if create(path, json.dumps(asdict(keep)).encode()):  # else another run was quicker
            return keep
    try:
        content = json.loads(path.read_bytes())
        begun = SeedState(int(content["base_seed"]), content["seeds"])
        if begun.seeds not in get_args(Seeds):
            raise ValueError(begun.seeds)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path}: broken; restore it, or delete it and give --seed") from exc
    for option, asked, was in (("--seed", seed, begun.base_seed), ("--seeds", seeds, begun.seeds)):
        if asked is not None and asked != was:
            raise OutputError(
                f"{folder} was begun with {option} {was}, not {asked}; "
                f"leave out {option}, or choose another folder"
            )
    return begun
