"""Each benchmark runs from end to end at its smallest. What it measures is no test's business."""

import json
import runpy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sdapp
from conftest import BENCHMARKS
from original_layout import random_original

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
    "engines.py": "--rounds 1 --model quarter --size 64",
    "scale.py": "sizes --upto 100 --only plan paint resume gallery",
    "peers.py": "commands --only sdapp --rounds 0 --steps 1 --prompts 2",
}
SIDED = RUNS.keys() - {
    "busy.py", "engines.py", "memory.py", "peers.py", "planning.py", "recognise.py", "scale.py", "shortcuts.py",
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
    scripts = {path.name for path in BENCHMARKS.glob("*.py")}
    scripts -= {"models.py", "sides.py", "activations.py", "painters.py"}
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


def test_programs_paint_from_a_folder_and_from_one_file_with_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peers import paint, print_pace, single_file

    made = tmp_path / "narrow"
    pipe = random_original(0)
    pipe.save_pretrained(made)
    whole = single_file(made, torch.float32)
    assert single_file(made, torch.float32) == whole
    parts = sdapp.load(whole, dtype="float32", device="cpu").pipelines["txt2img"].components
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = parts[part].state_dict(), getattr(pipe, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    same = {"prompt": "a cat", "seed": 7, "guidance_scale": 7.5, "size": 64, "steps": 3, "dtype": "float32"}
    for program, model in (("sdapp", whole), ("diffusers", made)):
        (where := tmp_path / program / "0").mkdir(parents=True)
        paint(same | {"program": program, "model": str(model)}, where)
        assert len(json.loads((where / "times.json").read_text())["steps"]) == 2  # between three
    print_pace({"sdapp": tmp_path / "sdapp", "diffusers": tmp_path / "diffusers"})
    ours, theirs = capsys.readouterr().out.splitlines()[1:]
    assert ours.endswith(" 0.00 of 255")
    assert theirs.startswith("diffusers ")


def test_a_peer_is_installed_with_what_it_requires_but_for_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peers

    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    peer = peers.Peer("paints[server]==2.0")
    assert peer.installed() is None
    info = tmp_path / "paints/lib/python3/site-packages/paints-2.0.dist-info/METADATA"
    info.parent.mkdir(parents=True)
    extra = "fastapi>=1; extra == 'server'", "pytest; extra == 'dev'", "win; sys_platform == 'win32'"
    needs = "".join(f"Requires-Dist: {each}\n" for each in ("torch==2.8.0", "numpy<3,>=2", *extra))
    info.write_text(f"Metadata-Version: 2.1\nName: paints\nVersion: 2.0\n{needs}")
    assert peers.required(peer) == ["numpy<3,>=2", "fastapi>=1"]
    assert peers.required(replace(peer, any_version=True)) == ["numpy", "fastapi"]
