"""The models of the benchmarks: postcards, and random weights in the shape of Stable Diffusion 1.5, or with a
quarter of its width.
"""

import math
import tempfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdapp.models.files import BUILT_IN, POSTCARDS

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


def build(shape: Shape, device: str = "cpu") -> StableDiffusionPipeline:
    """A pipeline of this shape in float32: weights from a normal distribution of 0.02, norms and biases as
    they begin.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(POSTCARDS / "tokenizer", local_files_only=True)
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    words = CLIPTextConfig(
        hidden_size=shape.text, intermediate_size=4 * shape.text, num_attention_heads=shape.text // 64, **ends
    )
    groups = math.gcd(32, *shape.unet)
    with torch.device(device):
        text_encoder = CLIPTextModel(words)
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=shape.unet,
            cross_attention_dim=shape.text,
            norm_num_groups=groups,
        )
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=shape.vae,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    for weight in chain(unet.parameters(), vae.parameters(), text_encoder.parameters()):
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.02)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
