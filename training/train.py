"""Train the postcards model: draw its world, then its autoencoder, then its UNet and text encoder; resume anywhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline
from diffusers.training_utils import EMAModel, compute_snr
from transformers import CLIPTokenizer

from captions import caption_with_position
from drawing import draw
from networks import Denoiser, build_autoencoder, build_text_encoder, build_tokenizer, build_unet
from scenes import Scene, sample_scene

NOISE_SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
EMPTY_CAPTIONS = 0.1  # share; classifier-free guidance needs them (Ho & Salimans 2022)
SNR_GAMMA = 5.0  # min-SNR weighting (Hang et al. 2023)
CHECKPOINT_SECONDS = 240.0
Step = Callable[[int], torch.Tensor]


# --- drawings -----------------------------------------------------------------------------------------------------


def drawing(index: int, size: int, seed: int) -> np.ndarray:
    """The picture of scene `index`: uint8, [size, size, 3]."""
    rng = Random(f"{seed}/{index}")
    return np.asarray(draw(sample_scene(rng), size, rng))


def scene(index: int, seed: int) -> Scene:
    return sample_scene(Random(f"{seed}/{index}"))


def draw_all(config: dict[str, Any], folder: Path) -> np.ndarray:
    """All training drawings, uint8 [N, size, size, 3], mapped from disk."""
    path, count = folder / "drawings.npy", config["drawings"]
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            picture = partial(drawing, size=config["size"], seed=config["seed"])
            pictures = np.stack(list(pool.map(picture, range(count), chunksize=500)))
        np.save(path.with_suffix(".part.npy"), pictures)
        path.with_suffix(".part.npy").replace(path)
    return np.load(path, mmap_mode="r")


# --- the loop that both stages share ------------------------------------------------------------------------------


@dataclass
class Stage:
    """What a stage trains, and where it keeps its checkpoint."""

    name: str
    model: torch.nn.Module
    config: dict[str, Any]
    folder: Path
    accelerator: Accelerator

    def run(self, loss_of: Step) -> None:
        """Take steps until `config['steps']`; the learning rate warms up over 200 steps, then falls to 0 by a cosine."""
        steps, peak = self.config["steps"], self.config["learning_rate"]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
        optimizer = self.accelerator.prepare(optimizer)
        ema = EMAModel(self.model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
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
                print(f"{self.name}: step {step}/{steps}  loss {loss.item():.4f}  {pace:.0f} samples/s", flush=True)
            if time.monotonic() - saved > CHECKPOINT_SECONDS or step == steps - 1:
                saved = time.monotonic()
                state = {"step": step + 1, "model": self.model.state_dict(), "ema": ema.state_dict()}
                state["optimizer"] = optimizer.state_dict()
                torch.save(state, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
        ema.copy_to(self.model.parameters())


def batches(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Endless shuffled indices, [batch]; every drawing once an epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield np.sort(order[start : start + batch])


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] → float [N, 3, H, W] in -1 … 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- autoencoder --------------------------------------------------------------------------------------------------


def edges(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pictures.diff(dim=-1), pictures.diff(dim=-2)


def train_autoencoder(config: dict[str, Any], pictures: np.ndarray, accelerator: Accelerator) -> AutoencoderKL:
    """L1 on pixels and on their gradients, with a trace of KL; then the latents are scaled to unit variance."""
    folder = Path(config["folder"])
    done = folder / "vae"
    if done.exists():
        return AutoencoderKL.from_pretrained(done).to(accelerator.device)
    vae = accelerator.prepare(build_autoencoder(config).to(memory_format=torch.channels_last))
    indices = batches(len(pictures), config["autoencoder"]["batch"], config["seed"])

    def loss_of(_: int) -> torch.Tensor:
        target = to_tensor(pictures[next(indices)]).to(accelerator.device, memory_format=torch.channels_last)
        with accelerator.autocast():
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        output = output.float()
        gradients = sum(F.l1_loss(a, b) for a, b in zip(edges(output), edges(target), strict=True))
        return F.l1_loss(output, target) + 0.5 * gradients + 1e-6 * posterior.kl().mean()

    Stage("autoencoder", vae, config["autoencoder"], folder, accelerator).run(loss_of)
    vae = accelerator.unwrap_model(vae).eval()
    latents = encode(vae, pictures[:2000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    print(f"autoencoder: PSNR {psnr(vae, config):.2f} dB, scaling factor {vae.config.scaling_factor}", flush=True)
    vae.save_pretrained(done)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """The posterior means of drawings, unscaled: float [N, 4, H/f, W/f], on the CPU."""
    parts = [
        vae.encode(to_tensor(pictures[start : start + 100]).to(vae.device)).latent_dist.mean.float().cpu()
        for start in range(0, len(pictures), 100)
    ]
    return torch.cat(parts)


@torch.no_grad()
def psnr(vae: AutoencoderKL, config: dict[str, Any]) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of 500 drawings that training did not see."""
    first = config["drawings"]
    target = np.stack([drawing(first + i, config["size"], config["seed"]) for i in range(500)])
    latents = encode(vae, target)
    output = torch.cat([vae.decode(part.to(vae.device)).sample.float().cpu() for part in latents.split(100)])
    error = ((output.clamp(-1, 1) - to_tensor(target)) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


# --- text encoder and UNet ----------------------------------------------------------------------------------------


def train_denoiser(
    config: dict[str, Any], latents: torch.Tensor, tokenizer: CLIPTokenizer, accelerator: Accelerator
) -> Denoiser:
    """Predict the noise (epsilon) from scaled latents [N, 4, h, w] and fresh captions of their scenes."""
    denoiser = Denoiser(build_unet(config), build_text_encoder(config, tokenizer))
    denoiser = accelerator.prepare(denoiser.to(memory_format=torch.channels_last))
    noise_schedule = DDPMScheduler(**NOISE_SCHEDULE)
    rng, batch = Random(config["seed"]), config["unet"]["batch"]
    indices = batches(len(latents), batch, config["seed"] + 1)

    def captions(chosen: np.ndarray) -> torch.Tensor:
        texts = [
            "" if rng.random() < EMPTY_CAPTIONS else caption_with_position(scene(i, config["seed"]), rng)
            for i in chosen.tolist()
        ]
        return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def loss_of(_: int) -> torch.Tensor:
        chosen = next(indices)
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        times = torch.randint(0, noise_schedule.config.num_train_timesteps, (batch,))
        noisy = noise_schedule.add_noise(clean, noise, times)
        snr = compute_snr(noise_schedule, times)
        weight = snr.clamp(max=SNR_GAMMA) / snr
        move = partial(torch.Tensor.to, device=accelerator.device, non_blocking=True)
        with accelerator.autocast():
            predicted = denoiser(move(noisy).contiguous(memory_format=torch.channels_last), move(times), move(captions(chosen)))
        error = (predicted.float() - move(noise)).square().mean(dim=(1, 2, 3))
        return (error * move(weight)).mean()

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
    accelerator = Accelerator(mixed_precision="bf16")
    pictures = draw_all(config, folder)
    vae = train_autoencoder(config, pictures, accelerator)
    latents = encode(vae, pictures) * vae.config.scaling_factor
    tokenizer = build_tokenizer()
    denoiser = train_denoiser(config, latents, tokenizer, accelerator)
    print(f"model: {export(config, vae, denoiser, tokenizer)}")


if __name__ == "__main__":
    main(sys.argv[1])
