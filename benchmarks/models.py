"""What the benchmarks paint with: postcards, or random weights in the shape of Stable Diffusion 1.5 or a quarter as wide."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdapp.models import BUILT_IN, POSTCARDS

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


@dataclass(frozen=True)
class Shape:
    """The widths of a model that has the layers of Stable Diffusion 1.5."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int


SHAPES = {
    "quarter": Shape((80, 160, 320, 320), (32, 64, 128, 128), 192),
    "sd15": Shape((320, 640, 1280, 1280), (128, 256, 512, 512), 768),
}
MODELS = (BUILT_IN, *SHAPES)


def folder(name: str, dtype: torch.dtype, cache: Path = CACHE) -> Path:
    """Where a model lies as a diffusers folder in this dtype; one of random weights is built the first time."""
    if name == BUILT_IN:
        return POSTCARDS
    made = cache / f"{name}-{str(dtype).removeprefix('torch.')}"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as half:  # so that one that was stopped is not taken for whole
            build(SHAPES[name]).to(dtype).save_pretrained(Path(half) / name)
            (Path(half) / name).rename(made)
    return made


def build(shape: Shape, device: str = "cpu") -> StableDiffusionPipeline:
    """A pipeline of this shape in float32: every weight drawn from a normal distribution of 0.02, norms and biases as new."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=shape.unet,
            cross_attention_dim=shape.text,
            norm_num_groups=math.gcd(32, *shape.unet),
        )
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=shape.vae,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        pipe = assemble(unet, vae, shape.text, intermediate_size=4 * shape.text, num_attention_heads=shape.text // 64)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        for weight in part.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.02)
    return pipe


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, width: int, prediction_type: str = "epsilon", **text: int
) -> StableDiffusionPipeline:
    """UNet and VAE as a pipeline, with a new text encoder, the tokens of postcards and the schedule of Stable Diffusion."""
    tokenizer = CLIPTokenizer.from_pretrained(POSTCARDS / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **text,
        )
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, prediction_type=prediction_type, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
