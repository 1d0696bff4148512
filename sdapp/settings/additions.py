"""What is put on top of a model: LoRA files, embeddings, ControlNets."""

import re
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import Field, model_validator

from sdapp.settings.types import FilePath, Frozen, ModelReference, Setting

MAX_LORA_WEIGHT = 10


class Lora(Frozen):
    """A LoRA file and how strongly it changes the model."""

    file: FilePath
    weight: Annotated[float, Field(ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT)] = 1.0
    text_encoder_weight: Annotated[
        float | None,
        Field(
            ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT, description="For the text encoders; default: `weight`."
        ),
    ] = None
    sha256: Annotated[
        str | None, Field(description="Of its tensors; a file with others is refused."), Setting("name")
    ] = None


class Embedding(Frozen):
    """A file of textual inversion: vectors that take the place of a word in the prompts."""

    file: FilePath
    name: Annotated[
        str | None, Field(min_length=1, description="The word; default: as the file."), Setting("text")
    ] = None
    sha256: Annotated[str | None, Field(description="A file with another is refused."), Setting("name")] = (
        None
    )


def each_of(read: Callable[[str], object]) -> Callable[[object], list[object]]:
    """Read each text among one value or a list of them; null is an empty list."""

    def read_all(value: object) -> list[object]:
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [read(each) if isinstance(each, str) else each for each in values]

    return read_all


def read_embedding(text: str) -> object:
    """Read `FILE[:NAME]`."""
    found = re.fullmatch(r"(.+?)(?::([^:/\\]+))?", text, re.DOTALL)
    return {"file": found[1], "name": found[2]} if found else {"file": text}


def read_lora(text: str) -> object:
    """Read `FILE[:WEIGHT[:TEXT_ENCODER_WEIGHT]]`."""
    number = r"(?::([-+]?(?:\d+\.?\d*|\.\d+)))?"
    found = re.fullmatch(rf"(.*?){number}{number}", text, re.DOTALL)
    assert found
    file, *weights = found.groups()
    given = zip(("weight", "text_encoder_weight"), weights, strict=True)
    return {"file": file} | {name: float(weight) for name, weight in given if weight}


CONTROL_FORM = "MODEL:IMAGE[:SCALE[:START..END]]"


class Control(Frozen):
    """A ControlNet, and the image that it follows."""

    model: Annotated[
        ModelReference, Field(description="org/name[@revision], a diffusers folder or a .safetensors file.")
    ]
    image: Annotated[
        FilePath, Field(description="What it follows, such as edges; a photo is not turned into them.")
    ]
    scale: Annotated[float, Field(ge=0, le=10, description="How strongly it steers.")] = 1.0
    start: Annotated[float, Field(ge=0, le=1, description="Where in the run it begins.")] = 0.0
    end: Annotated[float, Field(ge=0, le=1, description="Where in the run it ends.")] = 1.0
    sha256: Annotated[
        str | None, Field(description="Of the image; another image is refused."), Setting("name")
    ] = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start must be below end, not {self.start:g} and {self.end:g}")
        return self


def _control(text: str) -> object:
    """Read `MODEL:IMAGE[:SCALE[:START..END]]`; return any other text as it is."""
    path, number = r"((?:[A-Za-z]:(?=[\\/]))?[^:]+)", r"(\d+\.?\d*|\.\d+)"
    found = re.fullmatch(rf"{path}:{path}(?::{number})?(?::{number}\.\.{number})?", text)
    if found is None:
        return text
    model, image, *numbers = found.groups()
    given = zip(("scale", "start", "end"), numbers, strict=True)
    return {"model": model, "image": image} | {key: float(value) for key, value in given if value}


def control_variants(value: object) -> object:
    """Read texts also in lists in a list, which are the variants of a line in a prompt file."""
    return [control_variants(each) if isinstance(each, list) else each for each in each_of(_control)(value)]


def read_controls(value: object) -> object:
    """Read each text as a Control. Raises ValueError for one of another form."""
    values = each_of(_control)(value)
    if bad := [each for each in values if isinstance(each, str)]:
        raise ValueError(f"write it as {CONTROL_FORM}, or {{model, image, …}}, not {bad[0]!r}")
    return values
