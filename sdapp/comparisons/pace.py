"""How many steps a scheduler does in a second."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from sdapp.outputs.files import overwrite

PACES_FILE = "paces.json"
FEW, MANY = 4, 12  # steps of the two images by which a pace is measured


@dataclass(frozen=True)
class Pace:
    """How many seconds a scheduler takes for an image: `fixed`, and `step` for each step."""

    fixed: float
    step: float

    @classmethod
    def measured(cls, few: float, many: float) -> Self:
        """From the seconds that images of FEW and of MANY steps took."""
        shortest = many / MANY / 4  # a slow moment of the machine must not make steps free
        step = max(1e-6, shortest, (many - few) / (MANY - FEW))
        return cls(max(0.0, few - FEW * step), step)

    def steps(self, seconds: float) -> int:
        """How many steps fit into so many seconds; 0 if none does."""
        return max(0, int((seconds - self.fixed) / self.step))


def read_paces(folder: Path) -> dict[str, Pace]:
    """The paces by scheduler that were measured when the folder was begun, if there are any."""
    try:
        return {name: Pace(**pace) for name, pace in json.loads((folder / PACES_FILE).read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_paces(folder: Path, paces: Mapping[str, Pace]) -> None:
    """Keep paces in the folder, so that its columns of seconds stay the same. Raises OutputError."""
    overwrite(
        folder / PACES_FILE, [json.dumps({name: asdict(pace) for name, pace in paces.items()}).encode()]
    )
