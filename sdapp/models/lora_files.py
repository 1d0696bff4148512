"""LoRA files: whether they are there and fit a model, found from their headers without torch."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from sdapp.config import Lora
from sdapp.errors import ConfigError, InputError, MissingInputError
from sdapp.models.families import FAMILIES
from sdapp.models.files import refuse_others, tensor_shapes
from sdapp.models.kinds import IS_LORA
from sdapp.models.locate import Model

# The first matrix of a layer that reads text embeddings; its width is theirs.
READS_TEXT = re.compile(
    r"attn2[._]to_[kv]\.(lora_down|lora_A|lora\.down)\.weight|attn2[._]to_[kv]\.hada_w1_b"
)


def check_loras(loras: Sequence[Lora], model: Model) -> list[Lora]:
    """Return LoRAs with the SHA-256 of their tensors, and without those of weight 0.

    Raises MissingInputError, UnavailableError for what is no LoRA, InputError for another SHA-256 than a LoRA
    names, and ConfigError for one that was made for another family than the model's.
    """
    found = []
    for lora in loras:
        path = Path(lora.file).expanduser()
        refuse_others(lora.file, path, "loras")
        if not path.is_file():
            file, _, weight = lora.file.partition(":")
            wrong = f"the weight {weight!r} is not a number, such as 0.8"
            is_there = weight and Path(file).expanduser().is_file()
            raise MissingInputError(f"loras: {lora.file}: {wrong if is_there else 'no such file'}")
        stat = path.stat()
        digest, width = _examine(path, stat.st_size, stat.st_mtime_ns)
        if lora.sha256 not in (None, digest):
            raise InputError(f"loras: {lora.file} is not the file that was used: its SHA-256 is {digest}")
        if width not in (None, model.facts.get("context")):
            of = [each.name for each in FAMILIES if re.search(each.mark, f"context {width}")]
            made_for = of[0] if of else f"a model with text embeddings {width} wide"
            raise ConfigError(f"loras: {lora.file} is for {made_for}; {model.name} is {model.family.name}")
        if lora.weight or lora.text_encoder_weight:
            found.append(lora.model_copy(update={"sha256": digest}))
    return found


@lru_cache(maxsize=1024)
def _examine(path: Path, _size: int, _changed: int) -> tuple[str, int | None]:
    """The SHA-256 of a file's tensors, which A1111 names LoRAs by, and the width of the text embeddings."""
    shapes = tensor_shapes(path, "loras")
    if not any(re.search(IS_LORA, name) for name in shapes):
        raise InputError(f"loras: {path} is no LoRA: none of its {len(shapes)} tensors belongs to one")
    width = next((shape[1] for name, shape in shapes.items() if READS_TEXT.search(name)), None)
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest(), width
