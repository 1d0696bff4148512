"""The families of Stable Diffusion: one row for each, found from a model's files without torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdapp.models import originals
from sdapp.models.originals import Config


@dataclass(frozen=True)
class Family:
    """What all models of a kind have in common; the config files of a folder may give other sizes."""

    name: str
    mark: str  # a regular expression on `Model.marks`
    layout: Config  # the parts of a single file, see `originals`
    pipelines: Mapping[str, str]  # kind of task → class of diffusers
    components: Mapping[str, Any]  # arguments for `from_pretrained`: what is not loaded
    options: Mapping[str, Any]  # further arguments for the constructor of a pipeline
    text_encoders: Mapping[str, str] = field(default_factory=lambda: {"text_encoder": "tokenizer"})
    unet_values: int = 130  # that a call of the UNet holds at once, for each pixel and row
    latent_channels: int = 4
    latent_scale: int = 8  # pixels per latent, along one side
    latent_scaling: float = 0.18215  # factor between the latents of the autoencoder and those of the UNet
    reads_sizes: bool = False  # its UNet is told the original size of an image, and where it was cropped
    # Colours in -1 … 1 of a latent, roughly: a row of red, green and blue for each channel (as in ComfyUI).
    latent_colours: tuple[tuple[float, float, float], ...] = (
        (0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    )  # fmt: skip
    colour_bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    overflows_in_float16: bool = False  # its autoencoder does, unless the config says `force_upcast: false`

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """The folders of a diffusers model that hold weights."""
        return ("unet", "vae", *self.text_encoders)


def family_of_width(width: int) -> str:
    """The name of the family whose UNets read text embeddings of a width."""
    names = [each.name for each in FAMILIES if re.search(each.mark, f"context {width}")]
    return names[0] if names else f"a model with text embeddings {width} wide"


def _pipelines(name: str) -> dict[str, str]:
    tasks = {"txt2img": "", "img2img": "Img2Img", "inpaint": "Inpaint"}
    return {task: f"{name}{part}Pipeline" for task, part in tasks.items()}


_SD: Mapping[str, Any] = {
    "pipelines": _pipelines("StableDiffusion"),
    "components": {"safety_checker": None, "feature_extractor": None},
    "options": {"requires_safety_checker": False},
}
# `context` is the width of the text embeddings that the UNet reads. A model that fits no mark is the first.
FAMILIES = (
    Family("Stable Diffusion 1.x", r"^context 768$", originals.STABLE_DIFFUSION_1, **_SD),
    Family(
        "Stable Diffusion 2.x",
        r"^context 1024$|^cond_stage_model\.model\.",
        originals.STABLE_DIFFUSION_2,
        **_SD,
    ),
    Family(
        "Stable Diffusion XL",
        r"^context 2048$|^added text_time$|^pipeline StableDiffusionXL|^conditioner\.embedders\.1\."
        r"|\.label_emb\.0\.0\.",
        originals.SDXL,
        pipelines=_pipelines("StableDiffusionXL"),
        components={},
        options={"add_watermarker": False},
        text_encoders={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
        latent_scaling=0.13025,
        unet_values=79,
        latent_colours=(
            (0.3651, 0.4232, 0.4341),
            (-0.2533, -0.0042, 0.1068),
            (0.1076, 0.1111, -0.0362),
            (-0.3165, -0.2492, -0.2188),
        ),
        colour_bias=(0.1084, -0.0175, -0.0011),
        reads_sizes=True,
        overflows_in_float16=True,
    ),
)
