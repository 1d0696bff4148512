"""How many steps a scheduler does in a second."""

import json
from dataclasses import dataclass
from pathlib import Path

PACES = "paces.json"


@dataclass(frozen=True)
class Pace:
    """How long a scheduler takes for an image: a share of its own, and so much for each step."""

    fixed: float
    step: float

    def steps(self, seconds: float) -> int:
        """How many steps fit; 0 if none does."""
        return max(0, int((seconds - self.fixed) / self.step))


def read_paces(folder: Path) -> dict[str, Pace]:
    """Those that were measured when the folder was begun, if they were."""
    try:
        return {name: Pace(**pace) for name, pace in json.loads((folder / PACES).read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
