"""Measure what each shortcut saves, and how far its images are from the exact ones: python
benchmarks/shortcuts.py [--out FOLDER]

Paints each prompt and seed exactly and with each shortcut, in turns, with one loaded model. Work is the
number of floating-point operations of the UNet; time is that of a whole image. `--model`, `--device` and
`--vae` are those of sdapp; `--out` keeps the images.
"""

import argparse
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from sdapp.comparisons.metrics import psnr, ssim
from sdapp.diffusion.loading import quiet
from sdapp.jobs import Job, LoadKey
from sdapp.models.vae import locate_model
from sdapp.pipelines import Painter, load
from sdapp.planning import plan
from sdapp.records import Result
from sdapp.settings.layers import Layer
from sdapp.validation import validate

PROMPTS = (
    "a red house on a beach at sunset",
    "a black cat in a meadow by day",
    "an oil painting of a ship on the ocean",
    "a castle in the mountains at night",
    "a green tree in the snow by day",
    "a pencil sketch of a house in the desert",
)
SHORTCUTS: dict[str, dict[str, object]] = {
    "exact": {},
    "guidance_interval [0, 0.5]": {"guidance_interval": [0.0, 0.5]},
    "guidance_interval [0.1, 0.8]": {"guidance_interval": [0.1, 0.8]},
    "cache_interval 2": {"cache_interval": 2},
    "cache_interval 3": {"cache_interval": 3},
    "[0, 0.5] and cache 2": {"guidance_interval": [0.0, 0.5], "cache_interval": 2},
}


def work(painter: Painter, job: Job) -> int:
    """Floating-point operations of the UNet for an image."""
    with FlopCounterMode(display=False) as counter:
        list(painter.paint([job]))
    return sum(counter.get_flop_counts()["UNet2DConditionModel"].values())


def main(model: str, device: str, vae: str | None, out: str | None, prompts: int, steps: int) -> None:
    quiet(verbose=False)
    config = validate(
        Layer({"model": model, "device": device, "prompt": PROMPTS[0], "seed": 7, "count": 2, "steps": steps})
    )
    found = locate_model(config.model, config.revision, config.vae)
    painter, seeds = load(LoadKey.of(config, found)), plan(config, found)
    shortcuts, painters = dict(SHORTCUTS), dict.fromkeys(SHORTCUTS, painter)
    if vae is not None:
        other = config.model_copy(update={"vae": vae})
        shortcuts["another vae"], painters["another vae"] = (
            {"vae": vae},
            load(LoadKey.of(other, locate_model(other.model, other.revision, other.vae))),
        )
    works = {
        name: work(painters[name], seeds[0].model_copy(update=change)) for name, change in shortcuts.items()
    }
    painted: dict[str, list[Result]] = {name: [] for name in shortcuts}
    for number, job in enumerate(
        job.model_copy(update={"prompt": prompt}) for prompt in PROMPTS[:prompts] for job in seeds
    ):
        names = list(shortcuts)
        for name in (
            names[number % len(names) :] + names[: number % len(names)]
        ):  # a slow moment falls on another each time
            painted[name] += painters[name].paint([job.model_copy(update=shortcuts[name])])
    print(f"{'':<30}{'work':>6}{'time':>6}{'PSNR':>7}{'least':>7}{'SSIM':>7}{'least':>7}")
    for name, results in painted.items():
        pairs = list(zip(results, painted["exact"], strict=True))
        times = statistics.median(one.record.seconds / exact.record.seconds for one, exact in pairs)
        row = f"{name:<30}{works[name] / works['exact']:6.2f}{times:6.2f}"
        for distance, digits in ((psnr, 1), (ssim, 3)):
            values = [distance(one.image, exact.image) for one, exact in pairs]
            row += f"{statistics.mean(values):7.{digits}f}{min(values):7.{digits}f}"
        print(row)
        for number, result in enumerate(results if out else ()):
            Path(out).mkdir(parents=True, exist_ok=True)
            result.image.save(Path(out) / f"{number:02}-{''.join(c for c in name if c.isalnum())}.png")
    versions = f"torch {version('torch')}, diffusers {version('diffusers')}"
    print(f"{found.name}, {seeds[0].steps} steps, {len(painted['exact'])} images; ", end="")
    cores, loaded = os.cpu_count(), painter.model
    print(f"{platform.machine()}, {cores} cores, {loaded.device}, {loaded.dtype}, {versions}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, default in (("model", "postcards"), ("device", "auto"), ("vae", None), ("out", None)):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--steps", type=int, default=20)
    main(**vars(parser.parse_args()))
