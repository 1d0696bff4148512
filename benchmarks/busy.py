"""Measure which share of the time the model works while a batch is painted and saved: python
benchmarks/busy.py [--prompts 16] [--batch-size 4]

Prints the shares of the time after loading, like `sdapp batch --profile`. UNet, encode and decode should have
nearly all of it; waiting for images to be saved nearly nothing. On a GPU, the program waits for each part
while it is measured. `--trace FILE` paints a second batch with torch.profiler, without these waits: which
operators and kernels take the time, how long the GPU works, and a timeline for https://ui.perfetto.dev.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

from torch.autograd import DeviceType
from torch.profiler import profile

from sdapp.batches.executors import LocalExecutor
from sdapp.pipelines import USUAL_BATCH
from sdapp.profiling import profiled
from sides import Settings, batch_size, flags, paint, prompt_file, settings, tell_machine

BUSY = ("encode", "UNet", "decode")
TRACED_STEPS = 4
KINDS = {"cpu": DeviceType.CPU, "device": DeviceType.CUDA}


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"steps": asked.steps, "batch_size": asked.batch_size}
    with tempfile.TemporaryDirectory() as temporary:
        folder, executor, said = Path(temporary), LocalExecutor(), list[str]()
        file, warm = prompt_file(folder / "prompts.txt", asked.prompts), prompt_file(folder / "warm.txt", 1)
        for _ in paint(warm, both, folder / "warm", executor):
            pass  # what a device makes ready for its first image is not counted
        with profiled(said.append):
            for result in paint(file, both, folder, executor):
                assert result.path, result.error
    print(said[0])
    share = dict(re.findall(r"^(\w+) .* ([\d.]+)%$", said[0], re.MULTILINE))
    print(
        f"busy: {sum(float(share[part]) for part in BUSY):.1f}% ({', '.join(BUSY)}); "
        f"waiting: {share['waiting']}%"
    )
    print(f"{asked.prompts} images")
    if asked.trace:
        trace(asked.trace, executor, both)
    tell_machine(both)


def trace(file: Path, executor: LocalExecutor, both: Settings) -> None:
    """One batch of few steps, so that the timeline can still be opened."""
    prompts = both["batch_size"] if isinstance(both["batch_size"], int) else USUAL_BATCH
    with tempfile.TemporaryDirectory() as temporary:
        folder, asked_for = Path(temporary), both | {"steps": TRACED_STEPS}
        lines = prompt_file(folder / "prompts.txt", prompts)
        with profile() as profiler:
            started = time.perf_counter()
            painted = list(paint(lines, asked_for, folder, executor))
            seconds = time.perf_counter() - started
    profiler.export_chrome_trace(str(file))
    averages, kind = profiler.key_averages(), "device" if both["device"].startswith("cuda") else "cpu"
    print(averages.table(sort_by=f"self_{kind}_time_total", row_limit=20, max_name_column_width=60))
    rows = [row for row in averages if row.device_type == KINDS[kind] and not row.is_user_annotation]
    at_work = (
        sum(getattr(row, f"self_{kind}_time_total") for row in rows) / 1e6
    )  # an operator has that of its kernels again
    print(
        f"{kind} at work for {at_work:.2f} s of {seconds:.2f} s, "
        f"{len(painted)} images of {TRACED_STEPS} steps; {file}"
    )


if __name__ == "__main__":
    parser = flags(__doc__, model="quarter")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=batch_size, default="auto")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a timeline of torch.profiler, .json or .json.gz"
    )
    main(parser.parse_args())
