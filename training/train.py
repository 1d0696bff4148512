"""Train the postcards model: draw its world, then its autoencoder, then its UNet and text encoder; resume
anywhere.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline
from diffusers.training_utils import EMAModel, compute_snr
from transformers import CLIPTokenizer

from data import batches, captioned, draw_all, drawing, to_tensor
from networks import (
    Denoiser,
    build_autoencoder,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    enlarge_autoencoder,
)
from sdapp.diffusion.devices import has_bfloat16

NOISE_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
SNR_GAMMA = 5.0  # min-SNR weighting (Hang et al. 2023)
KEEP_LATENTS = 0.05  # weight of the distance to the latents of the model that training starts from
CHECKPOINT_SECONDS = 60.0
Step = Callable[[int], torch.Tensor]


# --- the loop that both stages share ------------------------------------------------------------------------


@dataclass
class Stage:
    """What a stage trains, and where it keeps its checkpoint."""

    name: str
    model: torch.nn.Module
    config: dict[str, Any]
    folder: Path
    accelerator: Accelerator

    def run(self, loss_of: Step) -> None:
        """Take steps until `config['steps']`; the learning rate warms up over 200 steps, then falls to 0 by a
        cosine.
        """
        steps, peak = self.config["steps"], self.config["learning_rate"]
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        optimizer = self.accelerator.prepare(optimizer)
        ema = EMAModel(self.model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
        ema.to(self.accelerator.device)
        path, done = self.folder / f"{self.name}.checkpoint.pt", 0
        if path.exists():
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            done = state["step"]
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            ema.load_state_dict(state["ema"])
            print(f"{self.name}: resumed at step {done}", flush=True)
        started = saved = time.monotonic()
        for step in range(done, steps):
            rate = peak * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(step)
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(self.model.parameters())
            if step % 100 == 0:
                pace = (step - done + 1) * self.config["batch"] / (time.monotonic() - started)
                print(
                    f"{self.name}: step {step}/{steps}  loss {loss.item():.4f}  {pace:.0f} samples/s",
                    flush=True,
                )
            if time.monotonic() - saved > CHECKPOINT_SECONDS or step == steps - 1:
                saved = time.monotonic()
                state = {"step": step + 1, "model": self.model.state_dict(), "ema": ema.state_dict()}
                state["optimizer"] = optimizer.state_dict()
                torch.save(state, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
        ema.copy_to(self.model.parameters())


# --- autoencoder --------------------------------------------------------------------------------------------


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images.diff(dim=-1), images.diff(dim=-2)


def train_autoencoder(config: dict[str, Any], images: np.ndarray, accelerator: Accelerator) -> AutoencoderKL:
    """L1 on pixels and their gradients, a little KL; then the latents are scaled to unit variance.

    With `start`, a model of images of half the size, its weights are a beginning and its latents a guide: so
    its UNet has little to learn again.
    """
    folder = Path(config["folder"])
    done = folder / "vae"
    if done.exists():
        return AutoencoderKL.from_pretrained(done).to(accelerator.device)
    smaller = None
    if start := config.get("start"):
        smaller = AutoencoderKL.from_pretrained(Path(start) / "vae", dtype=torch.float32)
        smaller.to(accelerator.device).requires_grad_(False)
    built = enlarge_autoencoder(smaller, config) if smaller else build_autoencoder(config)
    vae = accelerator.prepare(built)
    indices = batches(len(images), config["autoencoder"]["batch"], config["seed"])

    def loss_of(_: int) -> torch.Tensor:
        target = to_tensor(images[next(indices)], accelerator.device).contiguous()
        with accelerator.autocast():
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        output = output.float()
        gradients = sum(F.l1_loss(a, b) for a, b in zip(edges(output), edges(target), strict=True))
        loss = F.l1_loss(output, target) + 0.5 * gradients + 1e-6 * posterior.kl().mean()
        if not smaller:
            return loss
        with torch.no_grad(), accelerator.autocast():
            known = smaller.encode(F.avg_pool2d(target, 2)).latent_dist.mean
        return loss + KEEP_LATENTS * F.mse_loss(posterior.mean.float(), known.float())

    Stage("autoencoder", vae, config["autoencoder"], folder, accelerator).run(loss_of)
    vae = accelerator.unwrap_model(vae).eval()
    latents = encode(vae, images[:2000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    print(
        f"autoencoder: PSNR {psnr(vae, config):.2f} dB, scaling factor {vae.config.scaling_factor}",
        flush=True,
    )
    vae.save_pretrained(done)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """The posterior means of drawings, unscaled: float [N, 4, H/f, W/f], on the CPU."""
    parts = [
        vae.encode(to_tensor(images[start : start + 100], vae.device)).latent_dist.mean.float().cpu()
        for start in range(0, len(images), 100)
    ]
    return torch.cat(parts)


@torch.no_grad()
def psnr(vae: AutoencoderKL, config: dict[str, Any], count: int = 500) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of drawings that training did not see."""
    first = config["drawings"]
    target = np.stack([drawing(first + i, config) for i in range(count)])
    latents = encode(vae, target)
    output = torch.cat([vae.decode(part.to(vae.device)).sample.float().cpu() for part in latents.split(100)])
    error = ((output.clamp(-1, 1) - to_tensor(target, "cpu")) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


# --- text encoder and UNet ----------------------------------------------------------------------------------


def train_denoiser(
    config: dict[str, Any], latents: torch.Tensor, tokenizer: CLIPTokenizer, accelerator: Accelerator
) -> Denoiser:
    """Predict the noise (epsilon) from scaled latents [N, 4, h, w] and fresh captions of their scenes."""
    if start := config.get("start"):
        kept = StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32, vae=None)
        denoiser = Denoiser(kept.unet, kept.text_encoder)
    else:
        denoiser = Denoiser(build_unet(config), build_text_encoder(config, tokenizer))
    denoiser = accelerator.prepare(denoiser.to(memory_format=torch.channels_last))
    noise_schedule = DDPMScheduler(**NOISE_SCHEDULE)
    device, fed = accelerator.device, captioned(config, len(latents), tokenizer)
    latents = latents.to(device)

    def loss_of(_: int) -> torch.Tensor:
        chosen, ids = (part.to(device, non_blocking=True) for part in next(fed))
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        times = torch.randint(0, noise_schedule.config.num_train_timesteps, (len(clean),), device=device)
        noisy = noise_schedule.add_noise(clean, noise, times)
        snr = compute_snr(noise_schedule, times)
        weight = snr.clamp(max=SNR_GAMMA) / snr
        with accelerator.autocast():
            predicted = denoiser(noisy.contiguous(memory_format=torch.channels_last), times, ids)
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return (error * weight).mean()

    Stage("unet", denoiser, config["unet"], Path(config["folder"]), accelerator).run(loss_of)
    return accelerator.unwrap_model(denoiser)


def export(config: dict[str, Any], vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer) -> Path:
    """Write the model as a diffusers folder of float16 safetensors."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = Path(config["folder"]) / "model"
    pipe.to("cpu", torch.float16).save_pretrained(folder)
    return folder


def main(config_path: str) -> None:
    config = yaml.safe_load(Path(config_path).read_text(encoding="utf-8"))
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config["seed"])
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else has_bfloat16() is not False
    accelerator = Accelerator(mixed_precision="bf16" if fast else "no")
    images = draw_all(config, folder)
    vae = train_autoencoder(config, images, accelerator)
    latents = encode(vae, images) * vae.config.scaling_factor
    tokenizer = build_tokenizer()
    denoiser = train_denoiser(config, latents, tokenizer, accelerator)
    print(f"model: {export(config, vae, denoiser, tokenizer)}")


if __name__ == "__main__":
    main(sys.argv[1])
