"""Read JSON and safetensors files without torch."""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdapp.errors import UnavailableError

MAX_HEADER = 100_000_000  # bytes; safetensors itself reads no larger one
BITS = {  # of the number formats of safetensors
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16), **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
}  # fmt: skip
PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
NOT_READ = (
    "a pickled checkpoint can run code, so it is not read. "
    "Convert it once on a machine that may run it, then give the .safetensors file"
)
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
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise UnavailableError(f"{key}: {path} is no regular file")
    try:
        with path.open("rb") as file:
            start = file.read(24)
            size = int.from_bytes(start[:8], "little")
            if size > MAX_HEADER:
                other = _other_contents(start) or "no safetensors file; download it again"
                raise UnavailableError(f"{key}: {path} is {other}")
            file.seek(8)
            header = _parse_header(file.read(size), size)
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        _check_places(tensors, path.stat().st_size - 8 - size)
        return {name: [int(length) for length in value["shape"]] for name, value in tensors.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        problem = "cannot be read" if isinstance(exc, OSError) else "is damaged"
        raise UnavailableError(f"{key}: {path} {problem}: {exc}; download or copy it again") from exc


def _parse_header(text: bytes, size: int) -> Any:
    """What the header of a safetensors file says. Raises ValueError if it is not whole."""
    if len(text) < size:
        raise ValueError(f"{size - len(text):,} of {size:,} bytes of its header are missing")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError("it has no header of safetensors") from exc


def tensor_digest(path: Path) -> str:
    """The SHA-256 in hex of what follows the header of a safetensors file, by which A1111 knows LoRAs.

    Computed once, unless the file changes.
    """
    stat = path.stat()
    return _tensor_digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _tensor_digest(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_places(tensors: Mapping[str, Any], room: int) -> None:
    """Raise ValueError unless the tensors of a header fill the `room` behind it, one after the other."""
    end = 0
    places = sorted((value["data_offsets"], name) for name, value in tensors.items())
    for (begin, stop), name in places:
        dtype, shape = tensors[name]["dtype"], tensors[name]["shape"]
        bits = BITS[dtype] * math.prod(shape)
        if begin != end or (stop - begin) * 8 != bits or any(length < 0 for length in shape):
            raise ValueError(f"the tensor {name[:100]!r} is not where its header says")
        end = stop
    if end > room:
        raise ValueError(f"{end - room:,} of {end:,} bytes of its tensors are missing")
    if end < room:
        raise ValueError(f"{room - end:,} bytes at its end belong to no tensor")


def refuse_others(name: str, path: Path, key: str = "model") -> None:
    """Raise UnavailableError for a file that is not safetensors; a file that is missing passes."""
    if not path.is_file() or path.suffix == ".safetensors":
        return
    with path.open("rb") as file:
        other = _other_contents(file.read(24)) or "no .safetensors file"
    if path.suffix.lower() in PICKLED:
        other = f"not safetensors; {NOT_READ}"
    raise UnavailableError(f"{key}: {name} is {other}")


def _other_contents(start: bytes) -> str | None:
    """What a file with this start is instead of safetensors, if that is known."""
    return next((text for sign, text in OTHER_CONTENTS.items() if start.startswith(sign)), None)
