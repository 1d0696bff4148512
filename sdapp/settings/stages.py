"""What follows when an image is painted: making it larger, and painting places of it again."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sdapp.settings import ranges
from sdapp.settings.sampling import SchedulerChoice, name_alone
from sdapp.settings.tasks import FoundMask, MaskBlur, Words
from sdapp.settings.types import Frozen, ModelReference, Setting, Text

Enlarger = Literal["lanczos", "latent", "latent-bicubic", "latent-nearest", "model"]


def scale_alone(value: object) -> object:
    """Read a factor alone as the settings of an Upscale."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"scale": value} if is_number else value


class Upscale(Frozen):
    """A stage after the first image, which makes it larger; `width` and `height` stay those of the first."""

    scale: Annotated[
        float, Field(gt=1, le=16, description="Sides of the final image: width and height times this.")
    ] = 2.0
    method: Annotated[
        Literal["hires", "model", "diffusion"],
        Field(
            description="hires: enlarge the image, then denoise it again; model: an upscaler such as ESRGAN; "
            "diffusion: an upscaler of Stable Diffusion."
        ),
    ] = "hires"
    enlarge: Annotated[
        Enlarger, Field(description="hires: what enlarges the image, or its latents; model: an upscaler.")
    ] = "lanczos"
    strength: Annotated[
        float, Field(gt=0, le=1, description="hires: how much may change; int(steps × strength) steps run.")
    ] = 0.4
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Default: as the first image.")] = None
    scheduler: Annotated[
        SchedulerChoice | None,
        BeforeValidator(name_alone, json_schema_input_type=str | SchedulerChoice),
        Field(description="Default: as the first image."),
    ] = None
    noise_level: Annotated[
        int, Field(ge=0, le=350, description="diffusion, by the x4 upscaler: how much it may change.")
    ] = 20
    tile: Annotated[
        Annotated[int, Field(ge=64, le=8192), AfterValidator(ranges.multiple_of_8)] | None,
        Field(description="Side in pixels of tiles that overlap; default: the whole image at once."),
    ] = None
    model: Annotated[
        ModelReference | None,
        Field(
            description="The upscaler: a .safetensors file; for diffusion a folder, or org/name[@revision]."
        ),
    ] = None
    sha256: Annotated[
        str | None, Field(description="Of the upscaler's tensors; others are refused."), Setting("name")
    ] = None

    @property
    def uses_model(self) -> bool:
        return self.method in ("model", "diffusion") or self.enlarge == "model"


DETAIL_FORM = "WORDS[:STRENGTH]"


class Detail(FoundMask):
    """A stage after painting: each place that words name is painted again at the full size, and put back."""

    mask_prompt: Annotated[Words, Field(description="Words for what to repaint, such as face.")]
    prompt: Annotated[Text | None, Field(description="What to paint there; default: as the image.")] = None
    negative_prompt: Annotated[Text | None, Field(description="Default: as the image.")] = None
    strength: Annotated[
        float, Field(gt=0, le=1, description="How much may change; int(steps × strength) steps run.")
    ] = 0.4
    padding: Annotated[int, Field(ge=0, le=8192, description="Pixels around the place that are seen.")] = 32
    mask_blur: MaskBlur = 4


def read_detail(text: str) -> object:
    """Read `WORDS[:STRENGTH]`."""
    words, colon, strength = text.rpartition(":")
    is_number = colon and re.fullmatch(r"\d+\.?\d*|\.\d+", strength)
    return {"mask_prompt": words, "strength": float(strength)} if is_number else {"mask_prompt": text}
