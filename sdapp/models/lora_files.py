"""LoRA files: whether they are there and fit a model, found from their headers without torch."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError, InputError, MissingInputError
from sdapp.models.embedding_files import IN_LORA
from sdapp.models.families import family_of_width
from sdapp.models.files import MAX_HEADER, read_json, refuse_others, tensor_digest, tensor_shapes
from sdapp.models.kinds import IS_LORA
from sdapp.models.model import Model
from sdapp.settings.additions import Lora

# What a tensor is: the end of its name, in the files of kohya, LyCORIS, diffusers and peft → its kind.
ENDS = {
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora_mid.weight": "mid", ".alpha": "alpha",
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora.down.weight": "down", ".lora.up.weight": "up",
    "_lora.down.weight": "down", "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
    ".dora_scale": "dora", ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".oft_blocks": "oft_blocks", ".rescale": "rescale",
    ".diff": "diff", ".diff_b": "diff_b", ".w_norm": "diff", ".b_norm": "diff_b",
    **{f".{name}": name for name in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a",
        "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )},
}  # fmt: skip
# The first matrix of a layer that reads text embeddings; its width is theirs.
READS_TEXT = re.compile(
    r"attn2[._]to_[kv]\.(lora_down|lora_A|lora\.down)\.weight|attn2[._]to_[kv]\.hada_w1_b"
)


def check_loras(loras: Sequence[Lora], model: Model, folder: str | None) -> list[Lora]:
    """Return LoRAs with the SHA-256 of their tensors, and without those of weight 0.

    One whose file is missing, or is another than it was, is looked for in `folder` by its SHA-256. Raises
    MissingInputError, UnavailableError for what is no LoRA, InputError for another SHA-256 than a LoRA names,
    and ConfigError for one that was made for another family than the model's.
    """
    found = []
    for lora in loras:
        path = _moved_to(folder, lora) or Path(lora.file).expanduser()
        refuse_others(lora.file, path, "loras")
        if not path.is_file():
            file, _, weight = lora.file.partition(":")
            wrong = f"the weight {weight!r} is not a number, such as 0.8"
            is_there = weight and Path(file).expanduser().is_file()
            where = f", nor is there one with its SHA-256 in {folder}" if folder and lora.sha256 else ""
            raise MissingInputError(f"loras: {lora.file}: {wrong if is_there else f'no such file{where}'}")
        digest, width = examine_lora(path)
        if lora.sha256 not in (None, digest):
            raise InputError(f"loras: {lora.file} is not the file that was used: its SHA-256 is {digest}")
        if width is not None and width != model.facts.get("context"):
            made_for = family_of_width(width)
            raise ConfigError(f"loras: {lora.file} is for {made_for}; {model.name} is {model.family.name}")
        if lora.weight or lora.text_encoder_weight:
            found.append(lora.model_copy(update={"file": str(path), "sha256": digest}))
    return found


def _moved_to(folder: str | None, lora: Lora) -> Path | None:
    """The file in a folder with the SHA-256 of one that is not where it was; None if none is needed."""
    path = Path(lora.file).expanduser()
    if not folder or lora.sha256 is None or (path.is_file() and tensor_digest(path) == lora.sha256):
        return None
    return find_lora(folder, path.stem, lora.sha256)


def find_lora(folder: str, name: str, sha256: str) -> Path | None:
    """Return the file in a folder with a SHA-256, or the beginning of one; with "" the file of that name.

    Files whose header has another hash, which kohya's trainer writes there, are not read.
    """
    files = list(Path(folder).expanduser().rglob("*.safetensors"))
    files.sort(key=lambda each: (each.stem.lower() != name.lower(), len(each.parts)))
    if not sha256:
        return next((each for each in files[:1] if each.stem.lower() == name.lower()), None)
    likely = (each for each in files if (_hash_inside(each) or sha256).startswith(sha256))
    return next((each for each in likely if tensor_digest(each).startswith(sha256)), None)


def _hash_inside(path: Path) -> str | None:
    with path.open("rb") as file, suppress(ValueError, AttributeError):
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size)) if size <= MAX_HEADER else {}
        hash_inside = (header.get("__metadata__") or {}).get("sshs_model_hash")
        return hash_inside if isinstance(hash_inside, str) else None
    return None


def examine_lora(path: Path) -> tuple[str, int | None]:
    """Return the SHA-256 of a file's tensors, by which A1111 knows LoRAs, and the width of text embeddings.

    The width is None if no layer reads them. Raises InputError for what cannot be merged.
    """
    stat = path.stat()
    return _examine(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _examine(path: Path, _size: int, _changed: int) -> tuple[str, int | None]:
    shapes = tensor_shapes(path, "loras")
    if not any(re.search(IS_LORA, name) for name in shapes):
        raise InputError(f"loras: {path} is no LoRA: none of its {len(shapes)} tensors belongs to one")
    if others := [name for name in shapes if not name.endswith(tuple(ENDS)) and not IN_LORA.fullmatch(name)]:
        raise InputError(f"loras: {path} has tensors of another kind ({others[0]}), which sdapp cannot merge")
    return tensor_digest(path), text_width(shapes)


def text_width(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The width of the text embeddings that the layers of a LoRA read; None if no layer reads them."""
    readers = (shape for name, shape in shapes.items() if READS_TEXT.search(name) and len(shape) > 1)
    return next((shape[1] for shape in readers), None)


def alpha_of(path: Path, part: str, module: str, rank: int) -> float | None:
    """Return the alpha of a layer in a file without tensors for it; None if nothing says it.

    diffusers stores it in the header; peft in adapter_config.json beside the file. Raises InputError if that
    is missing.
    """
    config = _adapter_config(path)
    values = {key.removeprefix(f"{part}."): value for key, value in config.items()}
    pattern = values.get("alpha_pattern") or {}
    own = [alpha for name, alpha in pattern.items() if module.endswith(name.replace(".", "_"))]
    alpha = own[0] if own else values.get("lora_alpha")
    return None if alpha is None else float(alpha) * (rank**0.5 if values.get("use_rslora") else 1)


@lru_cache(maxsize=8)
def _adapter_config(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if any(name.startswith("base_model.model.") for name in header):
        if not (beside := path.parent / "adapter_config.json").is_file():
            raise InputError(
                f"loras: {path} needs the adapter_config.json of its folder, which has its alpha"
            )
        found: dict[str, Any] = read_json(beside, "loras")
    else:
        found = json.loads((header.get("__metadata__") or {}).get("lora_adapter_metadata", "{}"))
    return found
