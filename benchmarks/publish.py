"""Pictures a second that are published (encoded, on the disk, renamed): python benchmarks/publish.py [PICTURES] [--size 512]

Noise over a gradient stands in for a picture, so that a PNG of it is about as large as one of a photograph.
"""

import argparse
import os
import platform
import tempfile
import time
from importlib.metadata import version

import numpy as np
from PIL import Image

from sdapp.config import validate
from sdapp.jobs import plan
from sdapp.layers import Layer
from sdapp.models import locate
from sdapp.outputs import Record, Result
from sdapp.publishing import saved


def picture(size: int) -> Image.Image:
    slope = np.linspace(0, 200, size)
    values = slope[:, None, None] + np.random.default_rng(0).normal(20, 6, (size, size, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def main(pictures: int, size: int) -> None:
    for name in ("png", "jpeg", "webp"):
        with tempfile.TemporaryDirectory() as folder:
            config = validate(
                Layer({"prompt": "a cat", "seed": 1, "count": pictures, "output": {"dir": folder, "format": name}})
            )
            record = Record("", "", {}, "cpu", "float32", 20, 8, 0.1, "", {})
            jobs, image = plan(config, locate(config.model)), picture(size)
            started, before = time.perf_counter(), time.process_time()
            paths = [saved(Result(job, index, record, image), config.output).path for index, job in enumerate(jobs)]
            wall, spent = time.perf_counter() - started, time.process_time() - before
            mean = sum(path.stat().st_size for path in paths if path) / pictures
        each = f"{1000 * wall / pictures:6.1f} ms each, {1000 * spent / pictures:6.1f} ms of processors"
        print(f"{name:<6}{pictures / wall:7.1f} pictures a second, {each}, {mean / 1000:6.0f} kB")
    print(f"{size}x{size}, one writer; {platform.machine()}, {os.cpu_count()} cores, Pillow {version('pillow')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", type=int, nargs="?", default=50)
    parser.add_argument("--size", type=int, default=512)
    main(**vars(parser.parse_args()))
