"""Distil a tiny autoencoder for previews from that of postcards: python training/tiny.py
training/postcards-64-tiny.yaml
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderTiny

from data import batches, draw_all, to_tensor
from sdapp.models.files import POSTCARDS
from train import Stage, edges, encode


def build(channels: tuple[int, ...]) -> AutoencoderTiny:
    """The layout of TAESD (Bohan 2023) with a block at each size."""
    blocks = (1,) * len(channels)
    return AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )


def train(config: dict[str, Any], accelerator: Accelerator) -> AutoencoderTiny:
    """Learn the scaled latents that the teacher makes of a drawing, and the pixels that it makes of those."""
    folder = Path(config["folder"])
    images = draw_all(config, folder)
    teacher = (
        AutoencoderKL.from_pretrained(POSTCARDS / "vae", dtype=torch.float32)
        .to(accelerator.device)
        .requires_grad_(False)
    )
    latents = encode(teacher, images)
    tiny = accelerator.prepare(build(tuple(config["tiny"]["channels"])))
    indices = batches(len(images), config["tiny"]["batch"], config["seed"])

    def loss_of(_: int) -> torch.Tensor:
        chosen = next(indices)
        own = latents[chosen].to(accelerator.device)
        exact, scaled = teacher.decode(own).sample, own * teacher.config.scaling_factor
        found = tiny.encode(to_tensor(images[chosen], accelerator.device)).latents
        output = tiny.decode(scaled).sample
        gradients = sum(F.l1_loss(a, b) for a, b in zip(edges(output), edges(exact), strict=True))
        return F.l1_loss(output, exact) + 0.5 * gradients + 0.1 * F.mse_loss(found, scaled)

    Stage("tiny", tiny, config["tiny"], folder, accelerator).run(loss_of)
    return accelerator.unwrap_model(tiny).eval()


def main(config_path: str) -> None:
    config = yaml.safe_load(Path(config_path).read_text(encoding="utf-8"))
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    train(config, Accelerator()).save_pretrained(folder / "model")
    print(folder / "model")


if __name__ == "__main__":
    main(sys.argv[1])
