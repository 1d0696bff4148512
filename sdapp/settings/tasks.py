"""What is painted: a new image, one from an image, a part of one, beyond its sides, or nothing new."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sdapp.settings.types import FilePath, Frozen, ModelReference, Setting, Text

MASK_MODEL = "CIDAS/clipseg-rd64-refined"
Strength = Annotated[
    float, Field(ge=0, le=1, description="How much to repaint, 0 to 1: int(steps × strength) steps run.")
]


class Txt2Img(Frozen):
    """An image from a prompt alone."""

    kind: Annotated[Literal["txt2img"], Setting("text")] = "txt2img"


class Img2Img(Frozen):
    """An image from an image."""

    kind: Annotated[Literal["img2img"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to start from.")]
    strength: Strength = 0.8


def _has_words(text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise ValueError("must not be empty; name what to repaint, such as face")
    return text


Words = Annotated[Text, AfterValidator(_has_words)]


class FoundMask(Frozen):
    """A mask that a model finds by words, such as `face`."""

    mask_model: Annotated[
        ModelReference | None,
        Field(
            description="What finds it, such as a CLIPSeg: org/name[@revision] or a folder; "
            f"default: {MASK_MODEL}, for postcards its own."
        ),
    ] = None
    mask_threshold: Annotated[
        float | None,
        Field(gt=0, lt=1, description="How sure the mask model must be; default: what suits its kind."),
    ] = None
    mask_growth: Annotated[
        int, Field(ge=0, le=256, description="Pixels by which what is found grows on all sides.")
    ] = 4
    mask_sha256: Annotated[
        str | None, Field(description="Of the mask model's file; another is refused."), Setting("name")
    ] = None


MASK_BLUR = "Pixels by which the edge of what is put back is blurred: the sigma of a Gaussian."
MaskBlur = Annotated[int, Field(ge=0, le=64, description=MASK_BLUR)]


class Inpaint(FoundMask):
    """An image in which the white part of a mask is repainted; beyond the blur no pixel changes."""

    kind: Annotated[Literal["inpaint"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to repaint a part of.")]
    mask: Annotated[
        FilePath | None, Field(description="White is repainted, black stays; same size as the image.")
    ] = None
    mask_prompt: Annotated[
        Words | None,
        Field(description="Words for what to repaint, such as face: a model finds it, in place of a mask."),
    ] = None
    strength: Strength = 1.0
    padding: Annotated[
        int | None,
        Field(ge=0, description="Pixels around the mask: only this part is painted, at the full size."),
    ] = None
    mask_blur: MaskBlur = 0


def _sides(value: object) -> object:
    """Read `left=128,right=64`; something else is returned as it is."""
    if not isinstance(value, str):
        return value
    parts = [part for part in re.split(r"[,;\s]+", value) if part]
    pairs = [re.fullmatch(r"(\w+)=(\d{1,9})", part) for part in parts]
    if not parts or not all(pairs):
        raise ValueError(f"write it as left=128,right=64, not {value!r:.80}")
    return {pair[1]: int(pair[2]) for pair in pairs if pair}


Added = Annotated[int, Field(ge=0, le=8192)]


class Sides(Frozen):
    """How many pixels an image grows by, on each side."""

    left: Added = 0
    right: Added = 0
    top: Added = 0
    bottom: Added = 0


class Outpaint(Frozen):
    """An image that is continued beyond its sides; every pixel of it stays as it is."""

    kind: Annotated[Literal["outpaint"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to continue.")]
    sides: Annotated[
        Sides,
        BeforeValidator(_sides, json_schema_input_type=str | Sides),
        Field(description="Pixels to add, such as left=128,right=64; as options: --left 128 --right 64."),
        Setting("text"),
    ]
    strength: Annotated[
        float,
        Field(gt=0, le=1, description="How far from the continued colours; 1 suits models for inpainting."),
    ] = 0.9


class UpscaleImage(Frozen):
    """An image that exists: nothing is painted before it is upscaled."""

    kind: Annotated[Literal["upscale"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to upscale.")]


Task = Annotated[Txt2Img | Img2Img | Inpaint | Outpaint | UpscaleImage, Field(discriminator="kind")]
