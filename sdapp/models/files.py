"""Read JSON and safetensors files without torch."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdapp.errors import UnavailableError

MAX_HEADER = 100_000_000  # bytes; safetensors itself reads no larger one
PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


def read_json(path: Path, key: str = "model") -> Any:
    """The content of a JSON file. Raises UnavailableError that begins with `key`."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnavailableError(f"{key}: {path} cannot be read: {exc}") from exc


def tensor_shapes(path: Path, prefix: str = "") -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file whose names begin with `prefix`.

    Empty if the header cannot be read: loading the file says what is wrong.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size)) if size <= MAX_HEADER else {}
        return {
            key: value["shape"]
            for key, value in header.items()
            if key.startswith(prefix) and key != "__metadata__"
        }
    return {}


def refuse_pickled(name: str, path: Path, key: str = "model") -> None:
    """Raise UnavailableError for a file that is not safetensors."""
    if path.suffix in PICKLED or (path.is_file() and path.suffix != ".safetensors"):
        raise UnavailableError(
            f"{key}: {name} is not safetensors; a pickled checkpoint can run code, so it is not read. "
            "Convert it once on a machine that may run it, then give the .safetensors file"
        )


BUILT_IN = "postcards"
POSTCARDS = Path(__file__).parents[1] / "postcards"
