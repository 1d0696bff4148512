"""How long a step of each scheduler takes, for columns of seconds."""

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
    """The seconds that a scheduler takes: `fixed` for an image, and `step` for each of its steps."""

    fixed: float
    step: float

    @classmethod
    def measured(cls, few: float, many: float) -> Self:
        """Compute a pace from the seconds that images with FEW and with MANY steps took."""
        shortest = many / MANY / 4  # if the machine was slow during FEW, a step still takes time
        step = max(1e-6, shortest, (many - few) / (MANY - FEW))
        return cls(max(0.0, few - FEW * step), step)

    def steps(self, seconds: float) -> int:
        """How many steps fit into so many seconds; 0 if none does."""
        return max(0, int((seconds - self.fixed) / self.step))


def read_paces(folder: Path) -> dict[str, Pace]:
    """Read the paces that an earlier run saved in a folder, by scheduler; empty if there are none."""
    try:
        return {name: Pace(**pace) for name, pace in json.loads((folder / PACES_FILE).read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_paces(folder: Path, paces: Mapping[str, Pace]) -> None:
    """Save paces in a folder, so that later runs give each scheduler the same steps. Raises OutputError."""
    overwrite(
        folder / PACES_FILE, [json.dumps({name: asdict(pace) for name, pace in paces.items()}).encode()]
    )
