"""Each benchmark runs from end to end at its smallest. What it measures is no test's business."""

import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import BENCHMARKS

RUNS = {
    "overhead.py": "--rounds 2 --steps 1",
    "batch.py": "--rounds 1 --steps 1 --prompts 3 --batch-size 2 auto",
    "cold.py": "image --rounds 0 --steps 1",
    "grid.py": "--rounds 0 --schedulers ddim euler --steps 2 --seeds 1 2 --batch-size 2",
    "busy.py": "--model postcards --steps 1 --prompts 2",
    "memory.py": "--jobs 100 --size 16",
    "shortcuts.py": "--prompts 1 --steps 4",
    "publish.py": "--rounds 0 --images 2 --size 16",
    "recognise.py": "--rounds 1 --shapes sd15",
    "planning.py": "--lines 10",
    "together.py": "--rounds 0 --steps 1 --count 1",
    "scale.py": "sizes --upto 100 --only plan paint resume gallery",
}
SIDED = RUNS.keys() - {
    "busy.py", "memory.py", "planning.py", "recognise.py", "scale.py", "shortcuts.py",
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_a_benchmark_says_what_both_sides_took_and_on_which_machine(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *more = run.split()
    monkeypatch.setattr(sys, "argv", [script, *more, *RUNS[run].split()])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__.split('+')[0]}" in lines[-1]
    assert any(" / " in line and "of the time" in line for line in lines) == (run in SIDED)
    for line in lines:
        if "pixels at most" in line:
            assert int(line.split("at most ")[1].split()[0]) <= 2


def test_every_benchmark_is_run() -> None:
    scripts = {path.name for path in BENCHMARKS.glob("*.py")} - {"models.py", "sides.py", "activations.py"}
    # kills.py runs in test_batch.py, cluster.py in test_cluster.py; gallery.py needs Chromium.
    assert scripts == {run.split()[0] for run in RUNS} | {"kills.py", "cluster.py", "gallery.py"}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (
            "sdxl",
            {
                "unet": 2_567_463_684,
                "vae": 83_653_863,
                "text_encoder": 123_060_480,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
)
def test_a_full_shape_is_as_large_as_the_real_one(name: str, sizes: dict[str, int]) -> None:
    from models import SHAPES, build

    parts = build(SHAPES[name], "meta").components
    assert {part: sum(weight.numel() for weight in parts[part].parameters()) for part in sizes} == sizes


def test_a_quarter_is_built_once_and_paints() -> None:
    from models import folder
    from sdapp import generate

    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary)
        made = folder("quarter", torch.bfloat16, cache)
        assert [path.name for path in cache.iterdir()] == ["quarter-bfloat16"]
        assert folder("quarter", torch.bfloat16, cache) == made
        settings = {"model": str(made), "dtype": "float32", "width": 64, "height": 64, "steps": 2}
        result = generate("a cat", seed=7, **settings)
    assert result.error is None
    assert np.asarray(result.image).std() > 10
