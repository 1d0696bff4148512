"""Grids from the first command to the last file, with the built-in model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import sdapp as api
from sdapp.grids import page
from sdapp.grids.folder import read_grid
from sdapp.metadata.record import read_image

Run = Callable[..., Result]
FAST = ("--steps", "2", "--seed", "7")
SMALL = ("a red house", "--x", "guidance_scale=1-3", "--y", "scheduler=ddim,unipc", *FAST)


def images(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "images").glob("*.png")}


def test_exactly_the_asked_images_a_page_and_a_labelled_sheet(sdapp: Run) -> None:
    result = sdapp("grid", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "<dt>All images</dt><dd>2 steps, seed 7, 64 × 64</dd>" in Path("grid/grid.html").read_text("utf-8")
    assert result.stdout.splitlines() == [str(Path("grid", name)) for name in ("grid.html", "grid.png")]
    assert "3 × 2 = 6 cells: 6 images; 0 done, 6 to paint with 12 UNet calls" in result.stderr
    found = {(job["guidance_scale"], job["scheduler"]["name"], job["seed"])
             for job in (read_image(path)["job"] for path in Path("grid/images").glob("*.png"))}  # fmt: skip
    assert found == {(float(g), name, 7) for g in (1, 2, 3) for name in ("ddim", "unipc")}
    sheet = Image.open("grid/grid.png")
    [size] = re.findall(r"contact sheet of (\d+)x(\d+)", result.stderr)
    assert sheet.size == tuple(map(int, size))
    pixels = np.asarray(sheet.convert("RGB"))
    for path in Path("grid/images").glob("*.png"):  # each image is on the sheet, enlarged by 2
        image = np.asarray(Image.open(path).resize((128, 128), Image.Resampling.NEAREST))
        corners = np.argwhere((pixels[:-127, :-127] == image[0, 0]).all(-1))
        assert any((pixels[y : y + 128, x : x + 128] == image).all() for y, x in corners)
    again = sdapp("grid", *SMALL)
    assert "6 done, 0 to paint with 0 UNet calls" in again.stderr


def test_the_sheet_says_what_the_grid_is_as_a1111_does(sdapp: Run) -> None:
    assert sdapp("grid", *SMALL, "--z", "prompt:red=red,blue").exit_code == 0
    with Image.open("grid/grid.png") as sheet:
        text = str(sheet.text["parameters"])  # type: ignore[attr-defined]
    assert text.startswith("a red house\nSteps: 2, Sampler: DDIM")
    assert text.endswith(
        'Script: X/Y/Z plot, X Type: CFG Scale, X Values: "1, 2, 3", Y Type: Sampler, '
        'Y Values: "ddim, unipc", Z Type: Prompt S/R, Z Values: "red, blue"'
    )
    prompts = {cell.place[2]: read_image(Path("grid", str(cell.file)))["job"]["prompt"]
               for cell in read_grid(Path("grid")).cells}  # fmt: skip
    assert prompts == {0: "a red house", 1: "a blue house"}


def test_a_grid_that_grows_keeps_its_images(sdapp: Run) -> None:
    sdapp("grid", "a cat", "--x", "guidance_scale=1-2", "--steps", "2")
    before = images(Path("grid"))  # with a random seed, which the folder keeps
    result = sdapp("grid", "a cat", "--x", "guidance_scale=1-3", "--steps", "2")
    assert "3 images; 2 done, 1 to paint" in result.stderr
    assert before.items() <= images(Path("grid")).items()
    assert "which the page will not show any more" not in result.stderr
    other = sdapp("grid", "a cat", "--x", "guidance_scale=2,5", "--steps", "2", "--dry-run")
    assert "grid: there are images of other settings, which the page will not show any more" in other.stderr


def test_a_kill_costs_only_what_was_being_painted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdapp", "grid", "a cat", "--x", "seed=1-12", "--steps", "30",
               "--set", "batch_size=1", "--out", str(tmp_path / "grid")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 300
    while len(images(tmp_path / "grid")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = images(tmp_path / "grid")
    part = read_grid(tmp_path / "grid")
    assert {cell.status for cell in part.cells} == {"done", "missing"}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(killed)} done, {12 - len(killed)} to paint" in done.stderr
    assert killed.items() <= images(tmp_path / "grid").items()
    assert {cell.status for cell in read_grid(tmp_path / "grid").cells} == {"done"}


def test_each_model_is_loaded_once(sdapp: Run, tiny: Callable[..., Path]) -> None:
    settings = ("--y", f"model=postcards,{tiny()}", "--x", "seed=1-3", "--steps", "2", "--size", "64x64")
    result = sdapp("grid", "a cat", *settings, "--profile")
    assert result.exit_code == 0, result.stderr
    assert "6 images; 0 done, 6 to paint with 12 UNet calls; 2 loads of a model" in result.stderr
    found = read_grid(Path("grid"))
    models = [read_image(Path("grid", str(cell.file)))["job"]["model"] for cell in found.cells]
    assert [model == "postcards" for model in models] == [True] * 3 + [False] * 3
    made = [read_image(Path("grid", str(cell.file)))["record"]["created"] for cell in found.cells]
    assert max(made[:3]) <= min(made[3:])


def test_a_dry_run_paints_nothing_and_lists_the_cells(sdapp: Run) -> None:
    result = sdapp("grid", *SMALL, "--dry-run")
    assert result.stdout.splitlines()[1] == "guidance_scale 2\tscheduler ddim\tseed 7"
    rows = [json.loads(row) for row in sdapp("grid", *SMALL, "--dry-run", "--json").stdout.splitlines()]
    assert rows[5]["axes"] == {"guidance_scale": "3", "scheduler": "unipc"}
    assert rows[5]["job"]["guidance_scale"] == 3
    assert not Path("grid").exists()


def test_report_makes_the_page_again(sdapp: Run) -> None:
    sdapp("grid", "a cat", "--x", "guidance_scale=1-2", *FAST)
    before = Path("grid/grid.html").read_bytes()
    for name in ("grid.html", "grid.png"):
        Path("grid", name).unlink()
    next(Path("grid/images").glob("*-2-7-*.png")).unlink()
    result = sdapp("report", "grid")
    assert result.stdout.splitlines() == [str(Path("grid", name)) for name in ("grid.html", "grid.png")]
    html = Path("grid/grid.html").read_text(encoding="utf-8")
    assert "1 of 2 images are there" in html
    assert before != html.encode()
    cells = [json.loads(line) for line in sdapp("report", "grid", "--json").stdout.splitlines()]
    assert [(cell["axes"]["guidance_scale"], cell["status"]) for cell in cells] == [
        ("1", "done"),
        ("2", "missing"),
    ]


def test_from_python(tmp_path: Path) -> None:
    notes: list[str] = []
    found = api.grid(
        "a cat",
        x={"steps": [2, 3]},
        y="prompt:cat=cat,house",
        out=tmp_path / "g",
        seed=3,
        on_note=notes.append,
    )
    assert [cell.status for cell in found.cells] == ["done"] * 4
    assert [axis.labels for axis in found.axes] == [("2", "3"), ("cat", "house")]
    assert (tmp_path / "g" / page.PAGE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a cat"], "--x: give it, such as --x guidance_scale=3,5,7.5"),
        (["a cat", "--x", "stepz=5"], "--x stepz: there is no such setting, did you mean 'steps'?"),
        (
            ["a cat", "--x", "scheduler=eular,unipc"],
            "--x: scheduler: no scheduler 'eular', did you mean 'euler'?",
        ),
        (["a cat", "--x", "guidance_scale=1-20", "--y", "steps=0,5"], "--y: steps: must be 1 or more, not 0"),
        (
            ["a cat", "--x", "seed=1-101", "--y", "steps=1-100"],
            "a grid of 10,100 images is too large to look at",
        ),
        (["--x", "steps=1,2"], "prompt: there is none; give one on the command line"),
        (["a cat", "--x", "model=no/where.safetensors"], "no/where.safetensors"),
    ],
)
def test_what_cannot_be_painted_is_refused_before_loading(
    arguments: list[str], message: str, sdapp: Run
) -> None:
    result = sdapp("grid", *arguments)
    assert result.exit_code in (2, 66, 69)
    assert message in result.stderr
    assert not Path("grid").exists()


def test_times_of_each_model_are_its_own_and_what_has_no_effect_is_told(
    sdapp: Run, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    models = f"model={tiny()},{tiny(is_xl=True)}"
    result = sdapp(
        "grid",
        "a cat",
        "--x",
        models,
        *FAST,
        "--preview",
        "--set",
        "executor.kind=ray",
        "--upscale",
        1.5,
        "--steps",
        4,
    )
    assert result.exit_code == 0, result.stderr
    [planned] = re.findall(r"contact sheet of (\d+x\d+)", result.stderr)
    assert planned == "{}x{}".format(*Image.open("grid/grid.png").size)
    assert re.search(r"96 (×|\\u00d7) 96", Path("grid/grid.html").read_text())
    assert "executor has no effect here: only batch and compare paint on a cluster" in result.stderr
    assert "while an image is painted, grid/images/preview.png shows it" in result.stderr
    kinds = json.loads((tmp_path / "cache" / "sdapp" / "history.json").read_text())
    assert [sum(str(path) in kind for kind in kinds) for path in (tiny(), tiny(is_xl=True))] == [1, 1]
