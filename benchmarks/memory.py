"""How the memory of a process grows over many jobs, and its peak: python benchmarks/memory.py [--jobs 10000]
[--batch-size 8] [--steps 1]

Paints 100 images at a time, with one step each, because a leak would be per job, not per step. Growth is
counted after the first 100. Run it twice for a model of random weights: the first run also makes them.
"""

import argparse
import gc
import tempfile
import time

import psutil
import torch

from sdapp.diffusion.memory import memory_taken
from sdapp.jobs import LoadKey
from sdapp.models.locate import locate
from sdapp.outputs.encode import encode
from sdapp.outputs.writer import save_result, write_results
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.validation import validate
from sides import flags, settings, tell_machine

FIRST = 100


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"steps": asked.steps, "batch_size": asked.batch_size}
    process, held, on_gpu = psutil.Process(), dict[int, float](), 0
    with tempfile.TemporaryDirectory() as folder:
        config = validate(Layer(both | {"prompt": "a cat", "seed": 1, "output": {"dir": folder}}))
        model = locate(config.model)
        first, output, at_once = plan(config, model)[0], config.output, min(FIRST, asked.jobs)
        started = time.perf_counter()
        painter = load(LoadKey.of(config, model))
        print(f"loaded in {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        for done in range(0, asked.jobs, at_once):  # a prompt of its own each, as in a prompt file
            some = [
                first.model_copy(update={"prompt": f"a cat {done + i}", "seed": done + i})
                for i in range(at_once)
            ]
            painted = painter.paint(some, asked.batch_size)
            for result in write_results(
                painted, lambda result: encode(result, output), lambda result: save_result(result, output)
            ):
                assert result.path, result.error
                assert result.record
                on_gpu = max(on_gpu, result.record.peak_memory or 0)
                result.path.unlink()
            gc.collect()
            held[done + at_once] = process.memory_info().rss / 1e6
    for done in sorted({min(held), *list(held)[:: max(1, len(held) // 8)], max(held)}):
        print(f"{done:7} jobs {held[done]:8.0f} MB")
    seconds = time.perf_counter() - started
    print(
        f"growth since the first {min(held)}: {held[max(held)] - held[min(held)]:.1f} MB, "
        f"{seconds:.1f} s for {max(held)}"
    )
    print(
        f"peak: {memory_taken(torch.device('cpu'), 0) / 1e6:.0f} MB"
        + (f", on the GPU {on_gpu / 1e6:.0f} MB" if on_gpu else "")
    )
    tell_machine(both)


if __name__ == "__main__":
    parser = flags(__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1)
    main(parser.parse_args())
