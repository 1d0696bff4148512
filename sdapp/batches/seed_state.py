"""The base seed that a folder of a batch was begun with."""

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
    """How lines without a seed get theirs, since the first run on a folder."""

    base_seed: int
    seeds: Seeds


def begin_seeds(
    folder: Path, seed: int | None, seeds: Seeds | None, keep: SeedState | None = None
) -> SeedState:
    """What a batch was begun with, as the folder has it; else `keep` is kept there, so that the next run goes on with it.

    Without either, a base seed is drawn if none is asked for.
    Raises OutputError where the folder was begun with something else than what is asked for, or its state is broken.
    """
    state = folder / STATE_FILE
    if not state.exists():
        if keep is None:
            return SeedState(secrets.randbelow(2**32) if seed is None else seed, seeds or "derived")
        made = publish(json.dumps(asdict(keep)).encode(), folder, state.stem, state.suffix)
        if made == state:
            return keep
        made.unlink()  # another run was quicker
    try:
        kept = json.loads(state.read_bytes())
        begun = SeedState(int(kept["base_seed"]), kept["seeds"])
        if begun.seeds not in get_args(Seeds):
            raise ValueError(begun.seeds)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{state}: broken; restore it, or delete it and say --seed") from exc
    for flag, asked, was in (("--seed", seed, begun.base_seed), ("--seeds", seeds, begun.seeds)):
        if asked is not None and asked != was:
            raise OutputError(
                f"{folder} was begun with {flag} {was}, not {asked}; leave {flag} out, or choose another folder"
            )
    return begun
