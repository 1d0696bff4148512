"""Measure how many images a second are saved, with a plain `image.save` too: python benchmarks/publish.py

The image is noise over a gradient, so that its PNG is about as large as that of a photograph.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdapp.jobs import Job
from sdapp.metadata.record import SUFFIXES
from sdapp.models.locate import locate
from sdapp.outputs.writer import save_result
from sdapp.planning import plan
from sdapp.records import Record, Result
from sdapp.settings.layers import Layer
from sdapp.settings.output import Output
from sdapp.validation import validate
from sides import Side, in_turns, report, rounds, tell_machine


def noise(size: int) -> Image.Image:
    slope = np.linspace(0, 200, size)
    values = slope[:, None, None] + np.random.default_rng(0).normal(20, 6, (size, size, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def bare(jobs: list[Job], image: Image.Image, output: Output, folder: Path) -> None:
    options: dict[str, Any] = {} if output.format == "png" else {"quality": output.quality}
    for job in jobs:
        image.save(folder / f"{job.id}{SUFFIXES[output.format]}", **options)


def ours(jobs: list[Job], image: Image.Image, output: Output, folder: Path) -> None:
    record = Record("", "", {}, "cpu", "float32", 20, 8, 0.1, "", {})
    for index, job in enumerate(jobs):
        save_result(Result(job, index, record, image), output.model_copy(update={"dir": str(folder)}))


def main(asked: argparse.Namespace) -> None:
    config = validate(Layer({"prompt": "a cat", "seed": 1, "count": asked.images}))
    jobs, image = plan(config, locate(config.model)), noise(asked.size)
    for name in SUFFIXES:
        output = validate(Layer({"output": {"format": name}})).output
        sides: dict[str, Side] = {
            "save": partial(bare, jobs, image, output),
            "sdapp": partial(ours, jobs, image, output),
        }
        with tempfile.TemporaryDirectory() as temporary:
            taken = in_turns(sides, asked.rounds, Path(temporary))
            paths = list((Path(temporary) / "sdapp").rglob(f"*{SUFFIXES[name]}"))
            print(f"{name}, {sum(path.stat().st_size for path in paths) / len(paths) / 1000:.0f} kB each:")
        report(taken, asked.images)
    tell_machine({"size": asked.size, "writers": 1})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--size", type=int, default=512)
    rounds(parser)
    main(parser.parse_args())
