"""The families of Stable Diffusion: one row for each, found from a model's files without torch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdapp.models import originals
from sdapp.models.originals import Config


@dataclass(frozen=True)
class Family:
    """What all models of a kind have in common; the config files of a folder may give other sizes."""

    name: str
    marks: frozenset[
        str
    ]  # any of them in a model's marks (see `Model.marks`) shows that it is of this family
    layout: Config  # of a single file
    pipelines: Mapping[str, str]  # kind of task → class of diffusers
    components: Mapping[str, Any]  # arguments for `from_pretrained`: what is not loaded
    options: Mapping[str, Any]  # further arguments for the constructor of a pipeline
    text_encoders: Mapping[str, str] = field(default_factory=lambda: {"text_encoder": "tokenizer"})
    native_size: int = 512  # side in pixels of the images that the model was trained on
    latent_channels: int = 4
    latent_scale: int = 8  # pixels per latent, along one side
    latent_scaling: float = 0.18215  # factor between the latents of the autoencoder and those of the UNet
    overflows_in_float16: bool = False  # its autoencoder does, unless the config says `force_upcast: false`
    is_supported: bool = True  # False: recognized, so that it can be refused by its name

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """The folders of a diffusers model that hold weights."""
        return ("unet", "vae", *self.text_encoders)

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders of a diffusers model that are needed."""
        return ("scheduler", *self.text_encoders.values(), *self.weight_folders)


_NO_CHECKER: Mapping[str, Any] = {"safety_checker": None, "feature_extractor": None}
_SD: Mapping[str, Any] = {
    "pipelines": {
        "txt2img": "StableDiffusionPipeline",
        "img2img": "StableDiffusionImg2ImgPipeline",
        "inpaint": "StableDiffusionInpaintPipeline",
    },
    "components": _NO_CHECKER,
    "options": {"requires_safety_checker": False},
}

# `context` is the width of the text embeddings that the UNet reads. Models without marks are the first.
FAMILIES = (
    Family("Stable Diffusion 1.x", frozenset({"context 768"}), originals.STABLE_DIFFUSION_1, **_SD),
    Family(
        "Stable Diffusion 2.x",
        frozenset({"context 1024", "cond_stage_model"}),
        originals.STABLE_DIFFUSION_2,
        native_size=768,
        **_SD,
    ),
    Family(
        "Stable Diffusion XL",
        frozenset({"context 2048", "text_time", "text_encoder_2", "conditioner.embedders.1"}),
        originals.SDXL,
        pipelines={
            "txt2img": "StableDiffusionXLPipeline",
            "img2img": "StableDiffusionXLImg2ImgPipeline",
            "inpaint": "StableDiffusionXLInpaintPipeline",
        },
        components={},
        options={"add_watermarker": False},
        text_encoders={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
        native_size=1024,
        latent_scaling=0.13025,
        overflows_in_float16=True,
    ),
)
SUPPORTED = tuple(family for family in FAMILIES if family.is_supported)


def find_family(marks: Collection[str]) -> Family:
    """The family that a model with these marks belongs to; the last row of FAMILIES that has one of them."""
    return next((family for family in reversed(FAMILIES) if family.marks & set(marks)), FAMILIES[0])


def list_supported() -> str:
    """The names of the supported families, for messages."""
    return ", ".join(family.name for family in SUPPORTED)
