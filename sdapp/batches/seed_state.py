"""The base seed that the folder of a batch was begun with, kept in batch.json."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from sdapp.errors import OutputError
from sdapp.outputs.files import publish
from sdapp.prompts.seeds import Seeds

STATE_FILE = "batch.json"


@dataclass(frozen=True)
class SeedState:
    """How lines without a seed get theirs, as decided by the first run on a folder."""

    base_seed: int
    seeds: Seeds


def begin_seeds(
    folder: Path, seed: int | None, seeds: Seeds | None, keep: SeedState | None = None
) -> SeedState:
    """Read what a folder was begun with. A new folder gets `keep`, if it is given, so that later runs
    continue with it.

    Without either, draws a base seed if none is asked for, and writes nothing.
    Raises OutputError if the folder was begun with something else, or if its batch.json is broken.
    """
    path = folder / STATE_FILE
    if not path.exists():
        if keep is None:
            return SeedState(secrets.randbelow(2**32) if seed is None else seed, seeds or "derived")
        published = publish(json.dumps(asdict(keep)).encode(), folder, path.stem, path.suffix)
        if published == path:
            return keep
        published.unlink()  # another run was quicker
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
