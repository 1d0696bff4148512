"""Batches on a Ray cluster: `simulate` shows where it stops scaling; the others start a small cluster here.

python benchmarks/cluster.py simulate [--images 10000000] [--pace 2.0] [--driver 0.001]
python benchmarks/cluster.py driver --images 2000      what this process spends per image; its memory
python benchmarks/cluster.py faults --kills 20         workers, nodes and the driver are killed
python benchmarks/cluster.py overhead --images 32      two workers, compared with one run here
"""

import argparse
import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

import sdapp
from models import folder as model_folder
from sdapp.batches.cluster import HELD, TOGETHER, RayExecutor
from sdapp.diffusion.memory import memory_taken
from sdapp.jobs import Job, Work
from sdapp.metadata.record import read_image
from sdapp.records import Record, Result
from sdapp.settings.hardware import ExecutorChoice
from sides import tell_machine

SECONDS_TO_LOAD = (20.0, 60.0)  # uniform: from a warm and from a cold disk
SPREAD = 0.05  # of the time of a pack: standard deviation over its mean
SLOW = (0.02, 3.0)  # one worker in fifty is three times as slow
HOURS_BETWEEN_DEATHS = 200.0  # of one worker, exponential


class Blank:
    """A painter that paints nothing: the cost of everything else is left."""

    seconds = 0.0

    def together(self, _job: Job, batch_size: Any) -> int:
        return TOGETHER if batch_size == "auto" else int(batch_size)

    def paint(self, jobs: list[Job], *_: Any) -> Iterator[Result]:
        for index, job in enumerate(jobs):
            time.sleep(self.seconds)
            record = Record(job.id, "", {}, "none", "float32", 0, 1, self.seconds, "", {})
            yield Result(job, index, record, Image.new("RGB", (job.width, job.height)))


def blank(_work: Work, _model: Any) -> Any:
    return Blank()


def slow_blank(_work: Work, _model: Any) -> Any:
    painter = Blank()
    painter.seconds = 0.1
    return painter


# --- a simulation -------------------------------------------------------------------------------------------


def simulate(images: int, pace: float, driver: float, seed: int = 0) -> None:
    """Print how long a batch takes with more and more workers.

    `pace` is the seconds an image takes on a worker, `driver` those that the driver spends on it. Packs have
    16 images; a worker holds two of them, so it only waits if the driver is late.
    """
    print(f"{images:,} images, {pace} s each, packs of {TOGETHER}, driver {driver * 1000:g} ms an image")
    print(f"{'workers':>8} {'hours':>10} {'speedup':>8} {'of ideal':>9} {'deaths':>7} {'driver busy':>12}")
    for workers in (1, 8, 64, 256, 512, 1000, 2000):
        hours, deaths = _finish(images, pace, driver, workers, random.Random(seed))
        speedup = images * pace / 3600 / hours
        busy = min(1.0, images * driver / 3600 / hours)
        print(f"{workers:8} {hours:10.2f} {speedup:8.1f} {speedup / workers:9.1%} {deaths:7} {busy:12.1%}")


def _finish(
    images: int, pace: float, driver: float, workers: int, chance: random.Random
) -> tuple[float, int]:
    """Return the hours until the last image is published, and how many workers died."""
    left, published, deaths = -(-images // TOGETHER), 0.0, 0
    slowness = [SLOW[1] if chance.random() < SLOW[0] else 1.0 for _ in range(workers)]
    dies = [chance.expovariate(1 / HOURS_BETWEEN_DEATHS) * 3600 for _ in range(workers)]
    ends: list[tuple[float, int, bool]] = []  # when a worker has loaded (False) or painted a pack (True)

    def begin(worker: int, now: float, loads: bool) -> None:
        taken = TOGETHER * pace * slowness[worker] * max(0.5, chance.gauss(1, SPREAD))
        end = now + (chance.uniform(*SECONDS_TO_LOAD) if loads else taken)
        heapq.heappush(ends, (end, worker, not loads))

    for worker in range(workers):
        begin(worker, 0.0, loads=True)
    while left:
        now, worker, painted = heapq.heappop(ends)
        if now > dies[worker]:  # its pack goes back; a new worker takes its place and loads
            deaths += 1
            dies[worker] = now + chance.expovariate(1 / HOURS_BETWEEN_DEATHS) * 3600
            begin(worker, now, loads=True)
            continue
        if painted:
            left -= 1
            published = max(published, now) + TOGETHER * driver
        # Its next pack is there, unless the driver is so late that it has not even taken the one before.
        begin(worker, max(now, published - (HELD - 1) * TOGETHER * pace), loads=False)
    return published / 3600, deaths


# --- a cluster on this machine ------------------------------------------------------------------------------


@contextmanager
def nodes(*cpus: int) -> Iterator[Any]:
    """A cluster with one node for each number of CPUs, on this machine."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Workers import what is loaded here.
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False})
    try:
        for number in cpus[1:]:
            cluster.add_node(num_cpus=number)
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


def prompt_file(folder: Path, lines: int, more: str = "") -> Path:
    path = folder / "prompts.txt"
    path.write_text("".join(f"a red house number {number}{more}\n" for number in range(lines)))
    return path


def driver(images: int, size: int = 512) -> None:
    """Print the processor time of this process per image, and how its memory grows."""
    with tempfile.TemporaryDirectory() as temporary, nodes(2) as cluster:
        path = prompt_file(Path(temporary), images)
        executor = RayExecutor(ExecutorChoice(kind="ray", address=cluster.address), loader=blank)
        process, done = psutil.Process(), 0
        settings = {"output": {"dir": f"{temporary}/out"}, "width": size, "height": size, "seed": 7}
        memory, begun = [process.memory_info().rss], time.perf_counter()
        results = sdapp.batch(path, executor=executor, **settings)
        planned = time.perf_counter() - begun
        for done, _ in enumerate(results, 1):
            if done == 1:
                begun, spent = time.perf_counter(), sum(process.cpu_times()[:2])
            if done in (1, images):
                memory.append(process.memory_info().rss)
        spent = sum(process.cpu_times()[:2]) - spent
        wall = time.perf_counter() - begun
        memory.append(memory_taken(torch.device("cpu"), 0))  # the peak
    print(
        f"{done} images of {size}x{size}: planned in {planned:.1f} s; then {done / wall:.0f} images a second,"
    )
    print(f"with {1000 * spent / done:.2f} ms of processor time an image in this process;")
    grown = [f"{(each - memory[0]) / 1e6:.0f}" for each in memory[1:]]
    print("its memory grew by {} MB to the first image, {} MB to the last; {} MB at most".format(*grown))
    tell_machine({})


def overhead(images: int) -> None:
    """Compare two workers with one run in this process, of the same file, on the same cores."""
    model = model_folder("quarter", torch.float32)
    with tempfile.TemporaryDirectory() as temporary:
        path = prompt_file(Path(temporary), images, " --steps 4 --width 256 --height 256")
        command = [
            sys.executable,
            "-c",
            "from sdapp.cli import run; run()",
            "batch",
            str(path),
            "--model",
            str(model),
            "--seed",
            "7",
        ]
        seconds = {}
        with nodes(2) as cluster:
            for name, more in (("here", []), ("cluster", ["--ray", cluster.address])):
                begun = time.perf_counter()
                out = ["--out", f"{temporary}/{name}"]
                subprocess.run([*command, *out, *more], check=True, stdout=subprocess.DEVNULL)
                seconds[name] = time.perf_counter() - begun
    print(f"two workers {seconds['cluster']:.1f} s, one run here {seconds['here']:.1f} s, loading included: ")
    print(f"{seconds['here'] / seconds['cluster']:.2f} of the throughput")
    tell_machine({})


def faults(kills: int, images: int, drivers: int) -> None:
    """Kill workers, nodes and the driver; see that every image is there once and whole."""
    chance, killed = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary, nodes(1, 1, 1) as cluster:
        path = prompt_file(Path(temporary), images)
        code = f"import cluster; cluster.drive({str(path)!r}, {temporary + '/out'!r}, {cluster.address!r})"
        command = [sys.executable, "-c", code]
        todo = ["driver"] * drivers + ["other"] * kills
        chance.shuffle(todo)
        added, starts = [], 0
        while True:
            starts += 1
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while run.poll() is None:
                time.sleep(chance.uniform(1, 3))
                while todo and run.poll() is None and not (workers := _workers()):
                    time.sleep(0.02)
                if todo and run.poll() is None:
                    kind = todo.pop()
                    if kind == "driver":
                        run.kill()
                    elif added and chance.random() < 0.2:
                        cluster.remove_node(added.pop(), allow_graceful=False)
                        kind = "node"
                    else:
                        with suppress(psutil.NoSuchProcess):
                            psutil.Process(chance.choice(workers)).kill()
                        kind = "worker"
                    killed[kind] += 1
                if len(added) < 2 and chance.random() < 0.3:
                    added.append(cluster.add_node(num_cpus=1))
            if run.wait() == 0:
                break
        found = Counter(read_image(each)["record"]["job_id"] for each in Path(temporary, "out").glob("*.png"))
        lines = Path(temporary, "out", "ledger.jsonl").read_text().splitlines()
        ledger = {line["id"]: line for line in map(json.loads, lines)}
    assert len(found) == images, f"{len(found)} of {images} images"
    assert set(found.values()) == {1}, "an image is there twice"
    assert len(ledger) == images
    assert not [line["error"] for line in ledger.values() if line["status"] != "done"]
    print(f"killed {dict(killed)}; {starts} starts; {images} images, each once and whole")
    tell_machine({})


def drive(path: str, out: str, address: str) -> None:
    """What is killed: paint the rest of a prompt file."""
    executor = RayExecutor(ExecutorChoice(kind="ray", address=address), loader=slow_blank)
    size = {"width": 64, "height": 64, "seed": 7, "batch_size": 4}
    for _ in sdapp.batch(path, executor=executor, output={"dir": out}, **size):
        pass


def _workers() -> list[int]:
    """The processes of workers that paint now."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0] == "ray::Worker.paint":
            found.append(process.pid)
    return found


COMMANDS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (simulate, driver, faults, overhead)
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    flags: dict[str, dict[str, Any]] = {
        "simulate": {"images": 10_000_000, "pace": 2.0, "driver": 0.001},
        "driver": {"images": 2000, "size": 512},
        "faults": {"kills": 20, "images": 400, "drivers": 5},
        "overhead": {"images": 32},
    }
    for name, defaults in flags.items():
        command = commands.add_parser(name)
        for flag, default in defaults.items():
            command.add_argument(f"--{flag}", type=type(default), default=default)
    chosen = vars(parser.parse_args())
    COMMANDS[chosen.pop("command")](**chosen)
