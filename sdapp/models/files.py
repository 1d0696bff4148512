"""Read JSON and safetensors files without torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sdapp.errors import UnavailableError

MAX_HEADER = 100_000_000  # bytes; safetensors itself reads no larger one
PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
OTHER_CONTENTS = {  # how a file begins → what it is instead of safetensors
    b"version https://git-lfs": "a pointer of Git LFS; fix: git lfs pull",
    b"PK\x03\x04": "a pickled checkpoint, which can run code, under another name",
    b"\x80": "a pickled checkpoint, which can run code, under another name",
    b"GGUF": "a GGUF file, which is not supported; give the .safetensors file",
    b"<": "a web page; download the file again",
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"RIFF"), "an image; give a .safetensors file"),
}  # fmt: skip
BUILT_IN = "postcards"
POSTCARDS = Path(__file__).parents[1] / "postcards"


def read_json(path: Path, key: str = "model") -> Any:
    """The content of a JSON file. Raises UnavailableError that begins with `key`."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise UnavailableError(f"{key}: {path} cannot be read: {exc}") from exc


def tensor_shapes(path: Path, key: str = "model") -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file, from its header.

    Raises UnavailableError that begins with `key` for a file that is damaged, or is something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(24)
            size = int.from_bytes(start[:8], "little")
            if size > MAX_HEADER:
                other = _other_contents(start) or "no safetensors file; download it again"
                raise UnavailableError(f"{key}: {path} is {other}")
            file.seek(8)
            header = json.loads(file.read(size))
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        end = 8 + size + max((value["data_offsets"][1] for value in tensors.values()), default=0)
        if (lacks := end - path.stat().st_size) > 0:
            raise ValueError(f"{lacks:,} of {end:,} bytes are missing")
        return {name: [int(length) for length in value["shape"]] for name, value in tensors.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        problem = "cannot be read" if isinstance(exc, OSError) else "is damaged"
        raise UnavailableError(f"{key}: {path} {problem}: {exc}; download or copy it again") from exc


def tensor_digest(path: Path) -> str:
    """The SHA-256 in hex of what follows the header of a safetensors file, by which A1111 knows LoRAs."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_others(name: str, path: Path, key: str = "model") -> None:
    """Raise UnavailableError for a file that is not safetensors; a file that is missing passes."""
    if not path.is_file() or path.suffix == ".safetensors":
        return
    with path.open("rb") as file:
        other = _other_contents(file.read(24)) or "no .safetensors file"
    if path.suffix.lower() in PICKLED:
        other = (
            "not safetensors; a pickled checkpoint can run code, so it is not read. "
            "Convert it once on a machine that may run it, then give the .safetensors file"
        )
    raise UnavailableError(f"{key}: {name} is {other}")


def _other_contents(start: bytes) -> str | None:
    """What a file with this start is instead of safetensors, if that is known."""
    return next((text for sign, text in OTHER_CONTENTS.items() if start.startswith(sign)), None)
