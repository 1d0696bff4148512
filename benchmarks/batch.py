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
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch

from sdapp.batches.executors import LocalExecutor
from sdapp.diffusion.devices import choose_device
from sdapp.diffusion.memory import memory_in_use, memory_taken
from sdapp.jobs import Job
from sdapp.pipelines import USUAL_BATCH
from sdapp.records import Record
from sides import (
    Settings,
    Side,
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

# TFLOP of sd15 at 512x512: of a UNet call for one sample (a guided step has two), and of decoding an image.
UNET, DECODE = 0.803, 2.515
ByHand = Callable[[Sequence[Job], Path], None]


@dataclass
class Seen:
    """What was seen of one side in its last round."""

    first: float = 0.0  # seconds until the first image
    peak: int = 0  # bytes
    notes: tuple[str, ...] = ()


def theirs(
    bare: ByHand, jobs: Sequence[Job], device: torch.device, size: int, seen: Seen, folder: Path
) -> None:
    """Paint the jobs with plain calls of the pipeline, `size` at a time."""
    memory_in_use(device)  # the peak counts from now on
    started = time.perf_counter()
    for at in range(0, len(jobs), size):
        bare(jobs[at : at + size], folder)
        if at == 0:
            seen.first = time.perf_counter() - started
    seen.peak = memory_taken(device, 0)


def ours(file: Path, wanted: Settings, executor: LocalExecutor, seen: Seen, folder: Path) -> None:
    """Paint the prompt file as `sdapp batch` does."""
    started, records = time.perf_counter(), list[Record]()
    for result in paint(file, wanted, folder, executor):
        assert result.record, result.error
        if not records:
            seen.first = time.perf_counter() - started
        records.append(result.record)
    seen.peak = max(record.peak_memory or 0 for record in records)
    seen.notes = records[-1].optimizations + records[-1].notes


def in_process(asked: argparse.Namespace, both: Settings, root: Path) -> None:
    """The loop beside the same call with lists of prompts and a batch of each size, all on warm models."""
    file = prompt_file(root / "prompts.txt", asked.prompts)
    # Beside `auto`, only sizes that have settled are compiled.
    sized = both | {"batch_size": asked.batch_size[0]}
    works = {how: work_of(file, sized | {"compile": how}) for how in asked.compile}
    executors = {how: LocalExecutor() for how in asked.compile}
    for how, work in works.items():
        executors[how].painter(work)
    jobs = next(iter(works.values())).jobs
    bare, device, seen = by_hand(both), choose_device(both["device"]), defaultdict[str, Seen](Seen)
    sides = dict[str, Side]()
    most = max((size for size in asked.batch_size if isinstance(size, int)), default=USUAL_BATCH)
    for name, size in (("loop", 1), (f"lists of {most}", most)):
        sides[name] = partial(theirs, bare, jobs, device, size, seen[name])
    for how, size in product(asked.compile, asked.batch_size):
        name = f"sdapp, batch_size {size}" + (f", compile {how}" if len(asked.compile) > 1 else "")
        wanted = both | {"batch_size": size, "compile": how}
        sides[name] = partial(ours, file, wanted, executors[how], seen[name])
    seconds = report(in_turns(sides, asked.rounds, root), asked.prompts)
    for name, each in seen.items():
        facts = [f"{name}: the first image after {each.first:.3f} s"]
        if name != "loop":
            apart = furthest(root / name / str(asked.rounds), root / "loop" / str(asked.rounds))
            facts += [f"pixels at most {apart} of 255 apart from those of the loop", *each.notes]
        if both["device"].startswith("cuda"):
            share = limit(asked, jobs, seconds[name])
            facts.append(f"peak memory {each.peak / 1e9:.2f} GB, the weights of all sides in it{share}")
        print("; ".join(facts))


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
