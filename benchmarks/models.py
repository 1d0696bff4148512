"""The models of the benchmarks: postcards, and random weights in the shape of Stable Diffusion 1.5, of a
quarter of its width, or of SDXL.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdapp.models.files import BUILT_IN, POSTCARDS

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


@dataclass(frozen=True)
class Shape:
    """The widths of a model with the layers of Stable Diffusion 1.5 or, with two text encoders, of SDXL."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: tuple[int, ...]  # of each text encoder

    @property
    def is_xl(self) -> bool:
        return len(self.text) == 2


SHAPES = {
    "quarter": Shape((80, 160, 320, 320), (32, 64, 128, 128), (192,)),
    "sd15": Shape((320, 640, 1280, 1280), (128, 256, 512, 512), (768,)),
    "sdxl": Shape((320, 640, 1280), (128, 256, 512, 512), (768, 1280)),
}
# What the UNet of SDXL has and that of Stable Diffusion 1.5 has not.
XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}
MODELS = (BUILT_IN, *SHAPES)


def folder(name: str, dtype: torch.dtype, cache: Path = CACHE) -> Path:
    """The diffusers folder of a model in this dtype; one of random weights is built the first time."""
    if name == BUILT_IN:
        return POSTCARDS
    made = cache / f"{name}-{str(dtype).removeprefix('torch.')}"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=cache
        ) as half:  # so that one that was stopped is not taken for whole
            build(SHAPES[name]).to(dtype).save_pretrained(Path(half) / name)
            (Path(half) / name).rename(made)
    return made


def build(shape: Shape, device: str = "cpu") -> Any:
    """A pipeline of this shape in float32: weights from a normal distribution of 0.02, norms and biases as
    they begin.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(POSTCARDS / "tokenizer", local_files_only=True)
    with torch.device(device):
        unet = _unet(shape)
        vae = AutoencoderKL(
            sample_size=1024 if shape.is_xl else 512,
            block_out_channels=shape.vae,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            scaling_factor=0.13025 if shape.is_xl else 0.18215,
        )
        text_encoder = CLIPTextModel(_words(shape.text[0], 12, tokenizer))
        second = (
            CLIPTextModelWithProjection(_words(shape.text[1], 32, tokenizer, "gelu")) if shape.is_xl else None
        )
    for part in filter(None, (unet, vae, text_encoder, second)):
        for weight in part.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.02)
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "unet": unet}
    if shape.is_xl:
        return StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=second,
            tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(**SCHEDULE),
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        **parts,
        scheduler=PNDMScheduler(skip_prk_steps=True, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet(shape: Shape) -> UNet2DConditionModel:
    added = XL | {
        "attention_head_dim": tuple(width // 64 for width in shape.unet),
        "projection_class_embeddings_input_dim": shape.text[-1] + 6 * 256,
    }
    return UNet2DConditionModel(
        sample_size=128 if shape.is_xl else 64,
        block_out_channels=shape.unet,
        cross_attention_dim=sum(shape.text),
        norm_num_groups=math.gcd(32, *shape.unet),
        **(added if shape.is_xl else {}),
    )


def _words(
    width: int, layers: int, tokenizer: CLIPTokenizer, activation: str = "quick_gelu"
) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 64,
        num_hidden_layers=layers,
        projection_dim=width,
        hidden_act=activation,
        **{f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")},
    )
