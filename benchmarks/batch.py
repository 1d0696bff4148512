"""Compare a prompt file with a loop that calls the diffusers pipeline for each prompt: python
benchmarks/batch.py [--prompts 64]

A third side calls the pipeline with lists of prompts, as long as the largest batch. sdapp's side is a whole
batch: it reads the file, leases the images, saves them and writes the ledger. With `--batch-size auto`, a
first round that does not count finds the size. `--processes` compares `sdapp batch` with `diffusers-cli run`,
which computes all prompts in one call (with one seed, so its images differ); both load the model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

from sdapp.batches.executors import LocalExecutor
from sdapp.diffusion.devices import choose_device
from sdapp.diffusion.memory import memory_in_use, memory_taken
from sdapp.jobs import Job
from sdapp.pipelines import USUAL_BATCH
from sdapp.records import Record
from sides import (
    Settings,
    batch_size,
    by_hand,
    flags,
    furthest,
    in_turns,
    paint,
    prompt_file,
    prompts,
    report,
    rounds,
    settings,
    tell_machine,
    work_of,
)

UNET, DECODE = (
    0.803,
    2.515,
)  # TFLOP of sd15 at 512x512: a call for one sample, of which a guided step has two; an image


def in_process(asked: argparse.Namespace, both: Settings, root: Path) -> None:
    """The loop beside the same call with lists of prompts and a batch of each size, all on warm models."""
    file = prompt_file(root / "prompts.txt", asked.prompts)
    sized = both | {
        "batch_size": asked.batch_size[0]
    }  # beside `auto`, only sizes that have settled are compiled
    works = {how: work_of(file, sized | {"compile": how}) for how in asked.compile}
    executors = {how: LocalExecutor() for how in asked.compile}
    for how, work in works.items():
        executors[how].painter(work)
    jobs = next(iter(works.values())).jobs
    bare, device = by_hand(both), choose_device(both["device"])
    peaks, first, said = dict[str, int](), dict[str, float](), dict[str, tuple[str, ...]]()

    def theirs(name: str, size: int, folder: Path) -> None:
        memory_in_use(device)  # the peak counts from now on
        started = time.perf_counter()
        for at in range(0, len(jobs), size):
            bare(jobs[at : at + size], folder)
            first[name] = time.perf_counter() - started if at == 0 else first[name]
        peaks[name] = memory_taken(device, 0)

    def ours(name: str, how: str, size: int | str, folder: Path) -> None:
        started = time.perf_counter()
        records, asked_for = list[Record](), both | {"batch_size": size, "compile": how}
        for result in paint(file, asked_for, folder, executors[how]):
            assert result.record, result.error
            first[name] = first[name] if records else time.perf_counter() - started
            records.append(result.record)
        peaks[name] = max(record.peak_memory or 0 for record in records)
        said[name] = records[-1].optimizations + records[-1].notes

    most = max((size for size in asked.batch_size if isinstance(size, int)), default=USUAL_BATCH)
    sides = {"loop": partial(theirs, "loop", 1), (lists := f"lists of {most}"): partial(theirs, lists, most)}
    for how, size in product(asked.compile, asked.batch_size):
        name = f"sdapp, batch_size {size}" + (f", compile {how}" if len(asked.compile) > 1 else "")
        sides[name] = partial(ours, name, how, size)
    seconds = report(in_turns(sides, asked.rounds, root), asked.prompts)
    for name in sides:
        print(f"{name}: the first image after {first[name]:.3f} s", end="")
        if name != "loop":
            apart = furthest(root / name / str(asked.rounds), root / "loop" / str(asked.rounds))
            made_by = ", ".join(said.get(name, ()))
            print(
                f"; pixels at most {apart} of 255 apart from those of the loop{made_by and f'; {made_by}'}",
                end="",
            )
        if both["device"].startswith("cuda"):
            share = limit(asked, jobs, seconds[name])
            print(f"; peak memory {peaks[name] / 1e9:.2f} GB, the weights of all sides in it{share}", end="")
        print()


def limit(asked: argparse.Namespace, jobs: Sequence[Job], seconds: float) -> str:
    """Which share of what the GPU could compute was computed, where the work is known."""
    if asked.model != "sd15" or jobs[0].width != 512:
        return ""
    work = sum(2 * UNET * job.unet_calls + DECODE for job in jobs)
    return f", {work / seconds / asked.peak_tflops:.1%} of {asked.peak_tflops:g} TFLOP/s"


def as_processes(asked: argparse.Namespace, both: Settings, root: Path) -> None:
    """`sdapp batch` beside `diffusers-cli run`, both with the model's own scheduler."""
    file = prompt_file(root / "prompts.txt", asked.prompts)
    size, dtype, device = both["width"], both["dtype"], both["device"]
    call = {
        "prompt": prompts(asked.prompts),
        "num_inference_steps": asked.steps,
        "width": size,
        "height": size,
    }
    theirs = [*f"diffusers.commands.diffusers_cli run --device-map {device} --dtype {dtype} --seed 0".split(),
              "--model", both["model"], "--pipeline-kwargs", json.dumps(call), "--output", "./"]  # fmt: skip
    options = f"--size {size}x{size} --device {device} --dtype {dtype} --steps {asked.steps} --scheduler pndm"
    ours = [*f"sdapp.cli batch {file} {options} --set batch_size={asked.batch_size[0]}".split()]
    ours += ["--model", both["model"]]

    def run(command: list[str], folder: Path) -> None:
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, cwd=folder)

    sides = {"diffusers-cli run": partial(run, theirs), "sdapp batch": partial(run, ours)}
    report(in_turns(sides, asked.rounds, root), asked.prompts)
    painted = [len(list((root / name / str(asked.rounds)).rglob("*.png"))) for name in sides]
    assert painted == [asked.prompts] * 2, f"{painted} images"


if __name__ == "__main__":
    parser = flags(__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--batch-size", type=batch_size, nargs="+", default=["auto"], metavar="N", help="one or several"
    )
    parser.add_argument(
        "--compile", choices=("auto", "on", "off"), nargs="+", default=["auto"], help="of sdapp's side"
    )
    parser.add_argument(
        "--peak-tflops", type=float, default=990, help="of the GPU; else that of an H100 in float16, dense"
    )
    parser.add_argument("--processes", action="store_true", help="whole commands, beside `diffusers-cli run`")
    rounds(parser)
    asked = parser.parse_args()
    both = settings(asked) | {"steps": asked.steps}
    with tempfile.TemporaryDirectory() as temporary:
        (as_processes if asked.processes else in_process)(asked, both, Path(temporary))
    tell_machine(both)
