"""What sdapp adds to one picture of a warm model, beside the bare pipeline call: python benchmarks/overhead.py [PAIRS]

Both sides paint the same job from the same weights, in turns, and save a PNG; each pair has a prompt of its own.
`--model`, `--device` and `--size` as in sdapp.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from sdapp import schedulers
from sdapp.config import validate
from sdapp.jobs import Job, plan
from sdapp.layers import Layer
from sdapp.loading import load, quiet
from sdapp.models import locate


def seconds(paint: Callable[[Job], None], job: Job) -> tuple[float, float]:
    """Wall time and processor time."""
    started, before = time.perf_counter(), time.process_time()
    paint(job)
    return time.perf_counter() - started, time.process_time() - before


def main(pairs: int, model: str, device: str, size: int) -> None:
    quiet(verbose=False)
    folder = tempfile.TemporaryDirectory()
    asked = {"model": model, "device": device, "prompt": "a cat", "seed": 7, "width": size, "height": size}
    config = validate(Layer(asked | {"output": {"dir": folder.name}}))
    located = locate(config.model)
    painter, [first] = load(located, config), plan(config, located)
    pipe = StableDiffusionPipeline.from_pretrained(located.path, dtype=painter.dtype, safety_checker=None).to(painter.device)
    pipe.scheduler = schedulers.build(config.scheduler.resolve(), painter.scheduler_config, [0])
    pipe.set_progress_bar_config(disable=True)

    def bare(job: Job) -> None:
        generator = torch.Generator("cpu").manual_seed(job.seed)
        guidance = {"num_inference_steps": job.steps, "guidance_scale": job.guidance_scale}
        image = pipe(job.prompt, **guidance, width=size, height=size, generator=generator).images[0]
        image.save(Path(folder.name) / "bare.png")

    def ours(job: Job) -> None:
        for result in painter.paint([job]):
            result.save(config.output)

    ratios: list[tuple[float, ...]] = []
    for number in range(pairs + 1):
        # In turns, and every other time the other way round: a slow moment of the machine falls on both.
        job = first.model_copy(update={"prompt": f"{first.prompt} {number}"})
        sides = [seconds(paint, job) for paint in ((ours, bare) if number % 2 else (bare, ours))]
        mine, theirs = sides if number % 2 else sides[::-1]
        ratios += [tuple(a / b for a, b in zip(mine, theirs, strict=True))] if number else []
    folder.cleanup()
    for name, column in zip(("wall time", "processor time"), zip(*ratios, strict=True), strict=True):
        quarters = statistics.quantiles(column, n=4)
        print(f"{name:<16}sdapp / bare {statistics.median(column):6.3f}  (quartiles {quarters[0]:.3f} to {quarters[2]:.3f})")
    print(
        f"{located.name}, {size}x{size}, {first.steps} steps, {pairs} pairs; {platform.machine()}, {os.cpu_count()} cores, ",
        end="",
    )
    print(f"{painter.device}, {painter.dtype}, torch {version('torch')}, diffusers {version('diffusers')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=int, nargs="?", default=20)
    for name, default in (("model", "postcards"), ("device", "auto")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--size", type=int, default=64)
    main(**vars(parser.parse_args()))
