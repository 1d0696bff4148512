"""The base seed that the folder of a batch was begun with, kept in batch.json."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from sdapp.errors import OutputError
from sdapp.outputs.files import create, overwrite
from sdapp.prompts.seeds import Seeds

STATE_FILE = "batch.json"
DRY_RUN_FILE = ".sdapp-dry-run.json"  # the base seed that a dry run drew for a folder that is not begun


@dataclass(frozen=True)
class SeedState:
    """How lines without a seed get one, as decided by the first run on a folder."""

    base_seed: int
    seeds: Seeds


def begin_seeds(
    folder: Path, seed: int | None, seeds: Seeds | None, keep: SeedState | None = None
) -> SeedState:
    """Read how a folder was begun, or begin it with `keep`, so that later runs continue with it.

    A new folder without `keep` gets no file; if `seed` is None, it is that of the last dry run, or one is
    drawn. Raises OutputError if the folder was begun with other values than `seed` and `seeds`, or if its
    batch.json is broken.
    """
    path = folder / STATE_FILE
    if not path.exists():
        if keep is None:
            return SeedState(_dry_run_seed(folder) if seed is None else seed, seeds or "derived")
        if create(path, json.dumps(asdict(keep)).encode()):  # else another run was quicker
            (folder / DRY_RUN_FILE).unlink(missing_ok=True)
            return keep
    begun = _read_state(path)
    for option, asked, was in (("--seed", seed, begun.base_seed), ("--seeds", seeds, begun.seeds)):
        if asked is not None and asked != was:
            raise OutputError(
                f"{folder} was begun with {option} {was}, not {asked}; "
                f"leave out {option}, or choose another folder"
            )
    return begun


def keep_for_the_run(folder: Path, begun: SeedState) -> None:
    """Write the base seed of a dry run to a folder, for the run after it. Raises OutputError."""
    overwrite(folder / DRY_RUN_FILE, [json.dumps(asdict(begun)).encode()])


def _dry_run_seed(folder: Path) -> int:
    try:
        return _read_state(folder / DRY_RUN_FILE).base_seed
    except OutputError:  # there was no dry run
        return secrets.randbelow(2**32)


def _read_state(path: Path) -> SeedState:
    try:
        content = json.loads(path.read_bytes())
        begun = SeedState(int(content["base_seed"]), content["seeds"])
        if begun.seeds not in get_args(Seeds):
            raise ValueError(begun.seeds)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path}: broken; restore it, or delete it and give --seed") from exc
    return begun
