"""What the shell offers after Tab for the values of options."""

from collections.abc import Callable, Iterable
from pathlib import Path

from sdapp.config import SETTINGS, VARIABLE, read_user_config
from sdapp.errors import SdappError
from sdapp.grids.axes import KEYS
from sdapp.models.files import BUILT_IN
from sdapp.scheduler_table import TABLE
from sdapp.settings.files import names_in, presets
from sdapp.settings.layers import merge

DEVICES = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")
DTYPE_NAMES = ("auto", "float16", "bfloat16", "float32")
Completion = Callable[[str], list[str]]  # typer wants the argument to be called `incomplete`


def offer(known: Iterable[str]) -> Completion:
    """Offer the known words."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def listed(known: Iterable[str]) -> Completion:
    """Offer the known words for the last one of a list with commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{word}" for word in known if word.startswith(last)]

    return complete


SCHEDULERS = [name for row in TABLE for name in (row.name, *(f"{row.name}-{each}" for each in row.sigmas))]
setting_keys = offer(f"{key}=" for key in SETTINGS)
varied_keys = offer(f"{key}=" for key in VARIABLE)
axis_keys = offer([*(f"{key}=" for key in KEYS), "prompt:", "lora:"])


def configs(incomplete: str) -> list[str]:
    """Offer the presets, and files and folders."""
    return [*offer(presets())(incomplete), *_paths(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Offer the built-in model, those in the user's own folder, and files and folders."""
    try:
        folder = (merge(read_user_config()).values.get("folders") or {}).get("models")
        own = names_in(Path(folder).expanduser()) if folder else {}
    except (SdappError, OSError, AttributeError, TypeError):  # the command itself says what is wrong
        own = {}
    return [*offer((BUILT_IN, *own))(incomplete), *_paths(incomplete)]


def _paths(incomplete: str) -> list[str]:
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        found = sorted(folder.expanduser().iterdir())
    except OSError:
        return []
    prefix = incomplete[: incomplete.rfind("/") + 1]
    names = (f"{prefix}{path.name}{'/' if path.is_dir() else ''}" for path in found)
    return [name for name in names if name.startswith(incomplete) and not name.startswith(".")]
