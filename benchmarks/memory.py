"""How the memory of a process grows over many jobs: python benchmarks/memory.py [JOBS] [--batch-size 8] [--device cuda]

In hundreds, one step a picture: what is looked for stays behind once a job, not once a step.
Growth counts from the first hundred on.
"""

import argparse
import gc
import os
import platform
import tempfile
import time
from importlib.metadata import version

import psutil

from sdapp.config import validate
from sdapp.jobs import plan
from sdapp.layers import Layer
from sdapp.loading import load, quiet
from sdapp.models import locate
from sdapp.publishing import published, saved

FIRST = 100


def main(jobs: int, batch_size: int, device: str) -> None:
    quiet(verbose=False)
    process, started, held = psutil.Process(), time.perf_counter(), dict[int, float]()
    with tempfile.TemporaryDirectory() as folder:
        config = validate(Layer({"prompt": "a cat", "seed": 1, "steps": 1, "device": device, "output": {"dir": folder}}))
        model = locate(config.model)
        first, painter, output = plan(config, model)[0], load(model, config), config.output
        for done in range(0, jobs, FIRST):  # a prompt of its own each, as in a prompt file
            some = [first.model_copy(update={"prompt": f"a cat {done + i}", "seed": done + i}) for i in range(FIRST)]
            painted = painter.paint(some, batch_size)
            for result in published(painted, lambda result: result.encoded(output), lambda result: saved(result, output)):
                assert result.path is not None
                result.path.unlink()
            gc.collect()
            held[done + FIRST] = process.memory_info().rss / 1e6
    for done in sorted({min(held), *list(held)[:: max(1, len(held) // 8)], max(held)}):
        print(f"{done:7} jobs {held[done]:8.0f} MB")
    pace = max(held) / (time.perf_counter() - started)
    print(f"growth since the first {FIRST}: {held[max(held)] - held[min(held)]:.1f} MB, at {pace:.1f} jobs a second")
    print(f"{painter.device}, batches of {batch_size}, {platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=int, nargs="?", default=10_000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    main(**vars(parser.parse_args()))
