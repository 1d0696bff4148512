"""64 prompts beside a loop that calls the diffusers pipeline for each: python benchmarks/batch.py [BATCH_SIZE]"""

import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from sdapp import schedulers
from sdapp.config import RunConfig, validate
from sdapp.jobs import Job, plan
from sdapp.layers import Layer
from sdapp.loading import load, quiet
from sdapp.models import POSTCARDS, locate
from sdapp.pipelines import Painter

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
THINGS = ("house on a beach", "cat in a meadow", "ship on the ocean", "tree in the snow")
SKIES = ("at sunset", "at night")
PROMPTS = [f"a {colour} {thing} {sky}" for colour in COLOURS for thing in THINGS for sky in SKIES]
ROUNDS = 3


def loop(pipe: StableDiffusionPipeline, config: RunConfig, folder: Path) -> None:
    """What one would write by hand."""
    for seed, prompt in enumerate(PROMPTS):
        generator = torch.Generator("cpu").manual_seed(seed)
        image = pipe(
            prompt,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            generator=generator,
            height=64,
            width=64,
        ).images[0]
        image.save(folder / f"{seed}.png")


def batch(painter: Painter, jobs: list[Job], config: RunConfig, folder: Path) -> None:
    output = config.output.model_copy(update={"dir": str(folder), "name": "{seed}"})
    for result in painter.paint(jobs, config.batch_size):
        result.save(output)


def main(batch_size: int) -> None:
    quiet(verbose=False)
    config = validate(Layer({"batch_size": batch_size, "prompt": "a cat"}))
    model = locate(config.model)
    painter = load(model, config)
    jobs = [plan(config.model_copy(update={"prompt": text}), model, [seed])[0] for seed, text in enumerate(PROMPTS)]
    pipe = StableDiffusionPipeline.from_pretrained(POSTCARDS, dtype=painter.dtype, safety_checker=None).to(painter.device)
    pipe.scheduler = schedulers.build(config.scheduler.resolve(), painter.scheduler_config, [0])
    pipe.set_progress_bar_config(disable=True)
    seconds: dict[str, list[float]] = {"loop": [], "sdapp": []}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(ROUNDS + 1):  # the first is not counted
            for name in seconds:
                folder = Path(temporary) / f"{name}-{number}"
                folder.mkdir()
                started = time.perf_counter()
                loop(pipe, config, folder) if name == "loop" else batch(painter, jobs, config, folder)
                seconds[name] += [time.perf_counter() - started] if number else []
        folders = [Path(temporary) / f"{name}-1" for name in seconds]
        furthest = max(distance(*(folder / f"{seed}.png" for folder in folders)) for seed in range(len(PROMPTS)))
    medians = {name: sorted(times)[ROUNDS // 2] for name, times in seconds.items()}
    for name, median in medians.items():
        every = ", ".join(f"{taken:.2f}" for taken in seconds[name])
        print(f"{name:<8}{median:7.2f} s  {len(PROMPTS) / median:6.2f} pictures a second  ({every})")
    print(f"ratio   {medians['loop'] / medians['sdapp']:7.2f}")
    print(f"batch_size {batch_size}; pixels at most {furthest} of 255 apart")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {painter.device}, ", end="")
    print(f"torch {version('torch')}, diffusers {version('diffusers')}")


def distance(one: Path, other: Path) -> int:
    return int(np.abs(np.asarray(Image.open(one)).astype(int) - np.asarray(Image.open(other))).max())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
