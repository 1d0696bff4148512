"""One picture from nothing, beside the shortest diffusers script: python benchmarks/cold.py [RUNS] [--device cuda]

Wall time and processor time; the second is what other work on the machine disturbs less.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

from sdapp.models import POSTCARDS

SCRIPT = """
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({model!r}, dtype=torch.{dtype}, safety_checker=None).to({device!r})
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
generator = torch.Generator("cpu").manual_seed(7)
image = pipe("a red house on a beach", num_inference_steps=20, height=64, width=64, generator=generator).images[0]
image.save("script.png")
"""
SDAPP = "import sys\nfrom sdapp.cli import run\nsys.argv[0] = 'sdapp'\nrun()"


def seconds(command: list[str], folder: str) -> tuple[float, float]:
    """Wall time and processor time of a process."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    wall, after = time.perf_counter() - started, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent


def main(runs: int, device: str) -> None:
    dtype = "float32" if device == "cpu" else "float16"
    script = SCRIPT.format(model=str(POSTCARDS), dtype=dtype, device=device)
    asked = ["generate", "a red house on a beach", "--seed", "7", "--device", device, "--dtype", dtype]
    commands = {"sdapp": [sys.executable, "-c", SDAPP, *asked], "script": [sys.executable, "-c", script]}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs + 1):  # the first fills the page cache, and is not counted
            for name, command in commands.items():
                measured = seconds(command, folder)
                taken[name] += [measured] if number else []
    medians = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in taken.items()}
    for name, (wall, processor) in medians.items():
        print(f"{name:<8}{wall:7.2f} s  {processor:7.2f} s of processors")
    wall, processor = (ours / theirs for ours, theirs in zip(medians["sdapp"], medians["script"], strict=True))
    print(f"{'ratio':<8}{wall:7.2f}    {processor:7.2f}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {device}, Python {platform.python_version()}, ", end="")
    print(f"torch {version('torch')}, diffusers {version('diffusers')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("--device", default="cpu")
    main(**vars(parser.parse_args()))
