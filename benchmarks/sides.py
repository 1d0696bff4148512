"""What the benchmarks share: options, the plain pipeline call, timing several sides in turns, and the line
about the machine.
"""

import argparse
import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

import sdapp
from models import MODELS, folder
from sdapp.batches.executors import LocalExecutor
from sdapp.batches.prompt_file import PromptFile
from sdapp.diffusion.devices import DTYPES, choose_device, choose_dtype
from sdapp.diffusion.loading import quiet
from sdapp.diffusion.noise import Float32Noise
from sdapp.diffusion.solvers import build_scheduler
from sdapp.jobs import Job, Work
from sdapp.models.files import BUILT_IN
from sdapp.models.locate import locate
from sdapp.records import Result
from sdapp.settings.layers import Layer

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
THINGS = ("house on a beach", "cat in a meadow", "ship on the ocean", "tree in the snow")
SKIES = ("at sunset", "at night")
Settings = dict[str, Any]
Side = Callable[[Path], object]  # is given an empty folder
Spent = tuple[float, float]  # seconds on the wall, and of processors


def flags(doc: str | None, model: str = BUILT_IN) -> argparse.ArgumentParser:
    """The flags of every benchmark that paints."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--model", choices=MODELS, default=model)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto")
    parser.add_argument(
        "--size",
        type=int,
        help="else 64 for postcards, 256 (CPU) for quarter, 1024 (GPU) for sdxl, or 512",
    )
    return parser


def rounds(parser: argparse.ArgumentParser, default: int = 3) -> None:
    """Add the flag that says how often each side has its turn."""
    parser.add_argument(
        "--rounds", type=int, default=default, help="after one that does not count; with 0 that one counts"
    )


def batch_size(text: str) -> int | str:
    """As on a command line."""
    return text if text == "auto" else int(text)


def settings(asked: argparse.Namespace) -> Settings:
    """The settings of both sides, with nothing left open; the model is built if it is not there."""
    quiet(verbose=False)
    device = choose_device(asked.device)
    dtype = choose_dtype(asked.dtype, device)
    own = {BUILT_IN: 64, "quarter": 256} if device.type == "cpu" else {BUILT_IN: 64, "sdxl": 1024}
    size = asked.size or own.get(asked.model, 512)
    name = str(dtype).removeprefix("torch.")
    return {
        "model": str(folder(asked.model, dtype)),
        "device": str(device),
        "dtype": name,
        "width": size,
        "height": size,
    }


def by_hand(settings: Settings) -> Callable[[Sequence[Job], Path], None]:
    """The pipeline as one calls it without sdapp, on weights of its own: one call for jobs that differ in
    prompt and seed.

    An image is saved under the id of its job.
    """
    family = locate(settings["model"]).family
    pipe = getattr(diffusers, family.pipelines["txt2img"]).from_pretrained(
        settings["model"], dtype=DTYPES[settings["dtype"]], **family.components, **family.options
    )
    pipe.to(settings["device"]).set_progress_bar_config(disable=True)
    config, current = dict(pipe.scheduler.config), None

    def paint(jobs: Sequence[Job], folder: Path) -> None:
        nonlocal current
        job = jobs[0]
        if job.scheduler != current:  # with the options that it has in sdapp, so that the images are the same
            built, current = (
                build_scheduler(job.scheduler.resolve(), config, [job.seed]),
                job.scheduler,
            )
            pipe.scheduler = type(built).from_config(built.config)
        with Float32Noise():  # the noise of sdapp
            images = pipe(
                [job.prompt for job in jobs],
                num_inference_steps=job.steps,
                guidance_scale=job.guidance_scale,
                width=job.width,
                height=job.height,
                generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            ).images
        for job, image in zip(jobs, images, strict=True):
            image.save(folder / f"{job.id}.png")

    return paint


# --- batches ------------------------------------------------------------------------------------------------


def prompts(count: int) -> list[str]:
    """So many prompts, each another."""
    those = [f"a {colour} {thing} {sky}" for colour, thing, sky in product(COLOURS, THINGS, SKIES)]
    return [those[i % len(those)] + (f" {i // len(those)}" if i >= len(those) else "") for i in range(count)]


def prompt_file(path: Path, count: int) -> Path:
    """A file of so many prompts, each with a seed of its own."""
    path.write_text("".join(f"{prompt} --d {seed}\n" for seed, prompt in enumerate(prompts(count))))
    return path


def paint(file: Path, settings: Settings, folder: Path, executor: LocalExecutor) -> Iterator[Result]:
    """A prompt file as `sdapp.batch` paints it, with images named after their jobs."""
    output = {"dir": str(folder), "name": "{id}"}
    return sdapp.batch(file, executor=executor, **settings, output=output)


def work_of(file: Path, settings: Settings) -> Work:
    """The images of a prompt file as work, to load its model before anything is measured."""
    prompts = PromptFile.open(file, [Layer(settings)])
    jobs = [item.job for item in prompts.items()]
    calls = sum(job.unet_calls for job in jobs)
    return Work(prompts.load, jobs, prompts.config.batch_size, unet_calls=calls)


def furthest(ours: Path, theirs: Path) -> int:
    """How far, of 255, the pixels of two folders are apart at the most; what they have is the same jobs."""
    found = {path.name: path for path in ours.rglob("*.png")}
    apart = [
        np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(found[path.name]))
        for path in theirs.iterdir()
    ]
    return max(int(np.abs(difference).max()) for difference in apart)


# --- turns --------------------------------------------------------------------------------------------------


def in_turns(sides: Mapping[str, Side], rounds: int, root: Path) -> dict[str, list[Spent]]:
    """What each side takes each time. The last run of a side leaves its files in `root/SIDE/ROUNDS`."""
    taken: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        # Every other time the other way round: a slow moment of the machine falls on all.
        for name in list(sides)[:: 1 if number % 2 else -1]:
            (where := root / name / str(number)).mkdir(parents=True)
            measured = _spent(sides[name], where)
            taken[name] += [measured] if number or not rounds else []
    return taken


def _spent(side: Side, where: Path) -> Spent:
    before, started = _processors(), time.perf_counter()
    side(where)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started, _processors() - before


def _processors() -> float:
    """Seconds of processors that this process has had, and those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def report(taken: Mapping[str, list[Spent]], images: int = 0) -> dict[str, float]:
    """Print the medians of each side, and their ratio to the first, round by round; gives the seconds on the
    wall.
    """
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in taken.items()
    }
    width = 2 + max(map(len, medians))
    for name, (wall, processors) in medians.items():
        pace = f"{images / wall:9.2f} images a second" if images else ""
        print(f"{name:<{width}}{wall:9.3f} s{processors:9.3f} s of processors{pace}")
    (first, those), *others = taken.items()
    for name, runs in others:
        ratios = [
            (wall / theirs[0], processors / theirs[1])
            for (wall, processors), theirs in zip(runs, those, strict=True)
        ]
        wall, processors = map(_middle, zip(*ratios, strict=True))
        least = min(runs)[0] / min(those)[0]  # what other work on the machine disturbs least
        print(
            f"{name} / {first}: {wall} of the time, {processors} of the processors; "
            f"fastest / fastest {least:.3f}"
        )
    return {name: wall for name, (wall, _) in medians.items()}


def _middle(ratios: tuple[float, ...]) -> str:
    if len(ratios) == 1:
        return f"{ratios[0]:.3f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f})"


def tell_machine(settings: Settings) -> None:
    """Print what was used: the settings of both sides, the hardware, the versions."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    said = [f"{key} {Path(value).name if key == 'model' else value}" for key, value in settings.items()]
    said += (
        [torch.cuda.get_device_name(settings["device"])]
        if settings.get("device", "").startswith("cuda")
        else []
    )
    said += [
        found[1] if found else platform.machine(),
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
    ]
    said += [f"{package} {version(package)}" for package in ("torch", "diffusers", "transformers", "pillow")]
    print(", ".join([*said, f"Python {platform.python_version()}"]))
