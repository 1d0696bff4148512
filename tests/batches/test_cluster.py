"""Batches on a Ray cluster that runs on this machine, of two nodes with a CPU each."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

import sdapp as package
from cluster import Blank, nodes
from conftest import BENCHMARKS
from sdapp.batches.cluster import RayExecutor
from sdapp.batches.executors import Loader, load_painter
from sdapp.errors import UnavailableError
from sdapp.jobs import Job, Work
from sdapp.metadata.record import read_image
from sdapp.records import Result
from sdapp.settings.hardware import ExecutorChoice

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"
WAIT = 0.05  # seconds that the painter of these tests takes for an image


class Slow(Blank):
    """Takes its time, and takes its process down with it at the prompt `poison`."""

    seconds = WAIT

    def paint(self, jobs: list[Job], *more: Any) -> Iterator[Result]:
        if any("poison" in job.prompt for job in jobs):
            os._exit(1)
        return super().paint(jobs, *more)


def slow(_work: Work, _model: Any) -> Any:
    return Slow()


def narrow(folder: str, work: Work, model: Any) -> Any:
    """The painter of the worker that loads first has room for two images, and waits for the other worker."""
    painter, wide = load_painter(work, model), Path(folder, "wide")

    def run_out(_unet: Any, arguments: Any) -> None:
        while not wide.exists():
            time.sleep(WAIT)
        if len(arguments[0]) > 2 * 2:  # with guidance, an image has two rows
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    try:
        Path(folder, "narrow").touch(exist_ok=False)
        painter.model.denoiser.unet.register_forward_pre_hook(run_out)
    except FileExistsError:
        wide.touch()
    return painter


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # Workers import what these tests define.
    sys.path.insert(0, str(Path(__file__).parent))
    with nodes(1, 1) as cluster:
        yield cluster.address
    sys.path.remove(str(Path(__file__).parent))


def batch(
    address: str, folder: Path, lines: list[str], loader: Loader = slow, **settings: Any
) -> dict[str, Result]:
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n")
    there = RayExecutor(ExecutorChoice(kind="ray", address=address), loader=loader)
    given = {"output": {"dir": str(folder / "out")}, "seed": 7, "width": 16, "height": 16} | settings
    return {each.job.prompt: each for each in package.batch(folder / "prompts.txt", executor=there, **given)}


def workers() -> list[psutil.Process]:
    """The processes of workers that have started."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if (each.info["cmdline"] or [""])[0].startswith("ray::Worker")]


def test_a_cluster_paints_what_one_machine_paints(
    address: str, sdapp: Callable[..., Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    kinds = ("", " --steps 2", " --guidance-scale 1", " --scheduler euler-a")
    lines = [f"a red house {number}{kinds[number % 4]}" for number in range(200)]
    (tmp_path / "prompts.txt").write_text("\n".join(lines) + "\n")
    same = ("batch", "prompts.txt", "--model", tiny(), "--steps", 1, "--size", "32x32", "--seed", 7)
    here = sdapp(*same, "--out", "here")
    there = sdapp(*same, "--out", "there", "--ray", address)
    assert (here.exit_code, there.exit_code) == (0, 0), there.stderr
    assert "painting on a Ray cluster" in there.stderr
    images = sorted(path.name for path in (tmp_path / "here").glob("*.png"))
    assert len(images) == 200
    assert images == sorted(path.name for path in (tmp_path / "there").glob("*.png"))
    for name in images:
        one, other = tmp_path / "here" / name, tmp_path / "there" / name
        assert read_image(one)["job"] == read_image(other)["job"]
        apart = np.abs(np.asarray(Image.open(one)).astype(int) - np.asarray(Image.open(other)))
        assert apart.max() <= 2
    again = sdapp(*same, "--out", "there", "--ray", address)
    assert again.stdout == ""


def test_workers_save_images_themselves_in_a_shared_folder(address: str, tmp_path: Path) -> None:
    output = {"dir": str(tmp_path / "out"), "shared": True}
    found = batch(address, tmp_path, ["a cat", "a ship"], output=output)
    assert sorted(found) == ["a cat", "a ship"]
    for result in found.values():
        assert result.path is not None
        assert result.image is not None
        assert result.image.size == (16, 16)
        assert read_image(result.path)["record"]["job_id"] == result.job.id
    assert len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()) == 2


def test_what_a_dead_worker_held_is_painted_elsewhere(address: str, tmp_path: Path) -> None:
    def kill() -> None:
        for _ in range(2):
            while not workers():
                time.sleep(0.05)
            time.sleep(5 * WAIT)
            workers()[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = batch(address, tmp_path, [f"a house {number}" for number in range(80)], batch_size=2)
    assert not killer.is_alive()
    assert len(found) == 80
    assert {result.error for result in found.values()} == {None}
    assert len(list((tmp_path / "out").glob("*.png"))) == 80


def test_memory_that_runs_out_on_a_worker_makes_only_its_batches_smaller(
    address: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    given = {"model": str(tiny()), "steps": 1, "width": 32, "height": 32}
    lines = [f"a house {number}" for number in range(24)]
    loader = partial(narrow, str(tmp_path))
    found = batch(address, tmp_path, lines, loader=loader, batch_size=4, **given).values()
    assert [result.error for result in found] == [None] * 24
    records = [result.record for result in found if result.record]
    assert {record.batch_size for record in records} in ({1, 4}, {2, 4})
    for record in records:
        assert (record.batch_size < 4) == any("memory ran out" in note for note in record.notes)


def test_an_image_that_kills_its_workers_fails_alone(address: str, tmp_path: Path) -> None:
    found = batch(address, tmp_path, ["a cat", "a poison house", "a ship", "a tree"], batch_size=4)
    assert {prompt for prompt, result in found.items() if result.error is None} == {
        "a cat",
        "a ship",
        "a tree",
    }
    assert str(found["a poison house"].error).startswith("3 workers died while they painted it")


def test_results_of_generate_come_in_order(address: str) -> None:
    there = RayExecutor(ExecutorChoice(kind="ray", address=address), loader=slow)
    results = package.generate(prompt="a cat", seed=7, count=9, width=16, height=16, executor=there)
    assert [result.job.seed for result in results] == [*range(7, 16)]


def test_a_killed_driver_continues(tmp_path: Path) -> None:
    arguments = ["faults", "--kills", "1", "--drivers", "1", "--images", "150"]
    command = [sys.executable, str(BENCHMARKS / "cluster.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "'driver': 1" in run.stdout
    assert "2 starts; 150 images, each once and whole" in run.stdout


def test_a_cluster_that_is_not_there_or_too_small_is_an_error_with_the_way_out(
    address: str, sdapp: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match=r"a worker needs 64 CPUs and 0 GPUs, which no node has"):
        RayExecutor(ExecutorChoice(kind="ray", address=address, cpus=64))
    (tmp_path / "prompts.txt").write_text("a cat\n")
    code = "from sdapp.cli import run; run()"
    command = [sys.executable, "-c", code, "batch", "prompts.txt", "--ray", "127.0.0.1:1"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 69
    assert "ray start --head" in run.stderr


def test_the_examples_are_valid(sdapp: Callable[..., Any]) -> None:
    for path in (EXAMPLES / "ray-cluster.yaml", EXAMPLES / "kuberay-job.yaml"):
        assert yaml.safe_load(path.read_text())
    job = yaml.safe_load((EXAMPLES / "kuberay-job.yaml").read_text())
    assert job["kind"] == "RayJob"
    assert "sdapp batch" in job["spec"]["entrypoint"]
    script = EXAMPLES / "slurm-array.sh"
    subprocess.run(["bash", "-n", script], check=True)
    line = next(line for line in script.read_text().splitlines() if line.startswith("sdapp batch"))
    assert '--shard "$((SLURM_ARRAY_TASK_ID + 1))/$SLURM_ARRAY_TASK_COUNT"' in line
