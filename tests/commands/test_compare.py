"""Comparisons from the first command to the last file, with the built-in model."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

import sdapp as api
from sdapp.cli import app
from sdapp.comparisons import analytic, statistics
from sdapp.comparisons import cells as results
from sdapp.comparisons.cells import Cell, Comparison
from sdapp.comparisons.measure import measure_folder

Run = Callable[..., Result]
PROMPT = "a castle on a beach at night"
CHEAP = ("--set", "compare.references=[dpm++2m-karras@40, heun@20]")
TINY = ("--set", "compare.references=[dpm++2m-karras@4, heun@2]", "--seeds", "1")
STEADY = ("pndm", "ddim", "lms", "dpm++2m", "dpm++2m-karras")
EXAMPLE = (
    "compare",
    PROMPT,
    "--schedulers",
    ",".join((*STEADY, "euler-a")),
    "--steps",
    "5,10,20",
    "--seeds",
    "1,2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of the README at a small size, compared once for all tests, which leave it as it is."""
    found = tmp_path_factory.mktemp("example") / "comparison"
    result = CliRunner().invoke(app, [*EXAMPLE, *CHEAP, "--out", str(found)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        str(found / name) for name in ("report.html", "grid.png", "results.csv")
    ]
    return found


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The example, to be changed."""
    (tmp_path / "copy").mkdir()
    for path in folder.rglob("*"):
        target = tmp_path / "copy" / path.relative_to(folder)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.hardlink_to(path)  # what is written is written anew, never into the file
    return tmp_path / "copy"


def images(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "pictures").glob("*.png")}


def by_place(comparison: Comparison) -> dict[tuple[str, float, int], Cell]:
    return {(cell.scheduler, cell.column, cell.seed): cell for cell in comparison.cells}


# --- the example --------------------------------------------------------------------------------------------


def test_one_folder_has_it_all(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    tables = {"comparison.json", "results.jsonl", "results.csv", "references.jsonl"}
    assert names == tables | {"report.html", "grid.png", "pictures", "latents"}
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert PROMPT in report
    assert "not painted yet" not in report
    assert Image.open(folder / "grid.png").width > 600
    found = results.read_comparison(folder)
    assert (len(found.cells), len(found.references)) == (6 * 3 * 2, 2)
    assert {cell.status for cell in found.cells} == {"done"}
    assert found.hardware.startswith("cpu")
    assert (found.dtype, found.model) == ("float32", "postcards")


def test_unet_calls_are_those_that_were_counted(folder: Path) -> None:
    for cell in results.read_comparison(folder).cells:
        assert cell.unet_calls == cell.column
        assert cell.steps == cell.column - (cell.scheduler == "pndm")
        assert len(cell.timings) == 1
        assert cell.seconds == cell.timings[0] > 0


def test_errors_fall_as_steps_grow_until_the_band(folder: Path) -> None:
    found = results.read_comparison(folder)
    band = statistics.band(found)
    assert band
    for name in STEADY:
        errors = [
            item.solver_error.median
            for item in statistics.summarise(found)
            if item.scheduler == name and item.solver_error
        ]
        at_5, at_10, at_20 = (
            errors  # with guidance, errors at 5 and 10 calls are as large as the image, and may rise
        )
        assert at_20 < band or at_20 < min(at_5, at_10), (name, errors)


def test_every_deterministic_scheduler_falls_on_the_truth_bench() -> None:
    """There the last noise level of the schedule and a few lucky first steps stop the fall, at about 0.03."""
    was = json.loads(
        (Path(__file__).parents[1] / "comparisons" / "analytic.json").read_text(encoding="utf-8")
    )
    assert set(was) == set(analytic.deterministic())
    for name, errors in was.items():
        assert all(later < sooner or later < 0.03 for sooner, later in pairwise(errors.values())), name
        assert errors["50"] < errors["5"] / 3, name


def test_dpm_solver_is_nearer_than_ddim_at_20_calls(folder: Path) -> None:
    ranked = statistics.rank(results.read_comparison(folder), 20)
    assert ranked.index("dpm++2m-karras") < ranked.index("dpm++2m") < ranked.index("ddim")
    assert ranked[-1] == "euler-a"


def test_stochastic_schedulers_have_images_and_times_but_no_error(folder: Path) -> None:
    found = results.read_comparison(folder)
    assert statistics.stochastic(found) == {"euler-a"}
    for cell in found.cells:
        assert (cell.solver_error is None) == (cell.scheduler == "euler-a")
        assert cell.psnr is not None
        assert cell.file is not None
        assert (folder / cell.file).exists()


def test_errors_are_those_of_the_latents_on_disk(folder: Path) -> None:
    found = results.read_comparison(folder)
    solutions = {
        item.seed: load_file(folder / f"latents/{item.id}.safetensors")["latents"]
        for item in found.references
    }
    cell = by_place(found)["ddim", 10, 2]
    ours = load_file(folder / f"latents/{cell.id}.safetensors")["latents"]
    assert ours.shape[0] == 4
    assert cell.solver_error == pytest.approx(math.sqrt(((ours - solutions[2]) ** 2).mean()), rel=1e-5)


def test_the_noise_of_a_seed_is_the_same_for_every_scheduler(folder: Path) -> None:
    """So a scheduler is nearer to the reference of its own seed than to another's, after 5 calls too."""
    found = results.read_comparison(folder)
    latents = {path.stem: load_file(path)["latents"] for path in (folder / "latents").iterdir()}
    solutions = {item.seed: latents[item.id] for item in found.references}
    for cell in found.cells:
        if not cell.stochastic:
            far = {seed: ((latents[cell.id] - end) ** 2).mean() for seed, end in solutions.items()}
            assert min(far, key=lambda seed: far[seed]) == cell.seed, cell


def test_the_table_says_what_the_lines_say(folder: Path) -> None:
    found = results.read_comparison(folder)
    with (folder / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [cell.id for cell in found.cells]
    for row, cell in zip(rows, found.cells, strict=True):
        assert row["solver_error"] == ("" if cell.solver_error is None else repr(cell.solver_error))
        assert row["prompt"] == PROMPT


def test_python_gives_the_same_results_and_paints_nothing_again(copy: Path) -> None:
    before = images(copy)
    settings: dict[str, Any] = {"schedulers": [*STEADY, "euler-a"], "steps": [5, 10, 20], "seeds": [1, 2]}
    found = api.compare(PROMPT, out=copy, references=["dpm++2m-karras@40", "heun@20"], **settings)
    assert images(copy) == before
    assert found == results.read_comparison(copy)
    assert statistics.rank(found, 20)[0] == "dpm++2m-karras"


# --- again, and in part -------------------------------------------------------------------------------------


def test_a_second_run_paints_nothing(copy: Path, sdapp: Run) -> None:
    before, cells = images(copy), results.read_comparison(copy).cells
    again = sdapp(*EXAMPLE, *CHEAP, "--out", copy)
    assert again.exit_code == 0
    assert "40 images, 40 done, 0 to paint with 0 UNet calls" in again.stderr
    assert images(copy) == before
    assert results.read_comparison(copy).cells == cells


def test_another_comparison_in_the_folder_of_one_is_told(copy: Path, sdapp: Run) -> None:
    more, less = (
        sdapp(*EXAMPLE, *CHEAP, "--steps", steps, "--out", copy, "--dry-run") for steps in ("5,10,20,30", "5")
    )
    assert "which the page will not show any more" not in more.stderr
    assert f"{copy}: there are images of other settings, which the page will not show any more" in less.stderr


def test_a_half_finished_folder_is_reported_and_finished(copy: Path, sdapp: Run) -> None:
    before, whole = images(copy), results.read_comparison(copy)
    gone = [whole.cells[0], by_place(whole)["euler-a", 5, 2]]
    for cell in gone:
        (copy / str(cell.file)).unlink()
    (copy / "grid.png").unlink()
    result = sdapp("report", copy)
    assert result.exit_code == 0
    found = results.read_comparison(copy)
    missing = [cell for cell in found.cells if cell.status == "missing"]
    assert [cell.id for cell in missing] == [cell.id for cell in gone]
    assert {(cell.file, cell.solver_error, cell.seconds, cell.psnr) for cell in missing} == {
        (None, None, None, None)
    }
    assert (copy / "grid.png").exists()
    assert "not painted yet" in (copy / "report.html").read_text(encoding="utf-8")
    assert sdapp(*EXAMPLE, *CHEAP, "--out", copy).exit_code == 0
    after = images(copy)
    assert {name for name in after if after[name] != before[name]} == {
        Path(str(cell.file)).name for cell in gone
    }
    for cell, again in zip(whole.cells, results.read_comparison(copy).cells, strict=True):
        assert again.solver_error == (
            pytest.approx(cell.solver_error, rel=1e-3) if cell.solver_error else None
        )


def test_without_its_reference_a_cell_has_no_distance(copy: Path) -> None:
    [first, _] = results.read_comparison(copy).references
    (copy / str(first.file)).unlink()
    (copy / f"latents/{first.id}.safetensors").unlink()
    found = measure_folder(copy)
    assert found.references[0].file is None
    assert found.references[0].distance is None
    assert {cell.solver_error for cell in found.cells if cell.seed == 1} == {None}
    assert all(cell.solver_error for cell in found.cells if cell.seed == 2 and not cell.stochastic)


def test_broken_files_are_failures_that_are_named(copy: Path, sdapp: Run) -> None:
    cells = results.read_comparison(copy).cells
    image, latents = copy / str(cells[0].file), copy / f"latents/{cells[1].id}.safetensors"
    half = image.read_bytes()[:-1000]
    for path, content in ((image, half), (latents, b"no latents")):
        path.unlink()
        path.write_bytes(content)
    assert sdapp("report", copy).exit_code == 0
    first, second, *rest = results.read_comparison(copy).cells
    assert (first.status, second.status) == ("failed", "failed")
    assert image.name in str(first.reason)
    assert "delete it and compare again" in str(first.reason)
    assert latents.name in str(second.reason)
    assert {cell.status for cell in rest} == {"done"}


def test_equal_images_are_infinitely_alike(copy: Path, sdapp: Run) -> None:
    """Their PSNR has no number; all three files and the report can carry that."""
    found = results.read_comparison(copy)
    cell, reference = found.cells[0], found.references[0]
    content = load_file(copy / f"latents/{reference.id}.safetensors")
    (copy / f"latents/{cell.id}.safetensors").unlink()
    save_file(content, copy / f"latents/{cell.id}.safetensors", {"timings": "[]"})
    (copy / str(cell.file)).unlink()
    (copy / str(cell.file)).write_bytes((copy / str(reference.file)).read_bytes())
    result = sdapp("report", copy, "--json")
    line = json.loads(
        result.stdout.splitlines()[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    assert (line["psnr"], line["ssim"], line["solver_error"]) == ("Infinity", 1, 0)
    assert results.read_comparison(copy).cells[0].psnr == math.inf
    assert ",inf," in (copy / "results.csv").read_text(encoding="utf-8-sig").splitlines()[1]
    assert "infinite: the same image" in (copy / "report.html").read_text(encoding="utf-8")


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "sdapp.cli",
        "compare",
        PROMPT,
        "--schedulers",
        "ddim,lms",
        "--steps",
        "2,3,4,5",
        *TINY,
    ]
    command += ["--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    while len(images(out)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = images(out)
    assert 3 <= len(before) < 10
    assert measure_folder(out).cells[0].status == "done"
    result = CliRunner().invoke(app, command[3:], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    after = images(out)
    assert len(after) == 10
    assert {name: after[name] for name in before} == before


# --- other grids --------------------------------------------------------------------------------------------


def test_failed_cells_keep_their_reason(sdapp: Run, predicts_image: Path) -> None:
    grid = ("--schedulers", "dpm++2m-karras,euler-a", "--steps", "2,3", "--seeds", 1, "--timings", 2)
    references = "compare.references=[dpm++2m-karras@4, euler@2]"
    result = sdapp("compare", PROMPT, *grid, "--model", predicts_image, "--set", references)
    assert result.exit_code == 3
    assert "2 of 4 images failed; the report says why" in result.stderr
    found = results.read_comparison(Path("comparison"))
    for cell in found.cells:
        assert cell.status == ("failed" if cell.scheduler == "euler-a" else "done")
        assert ("not implemented yet: sample" in str(cell.reason)) == (cell.status == "failed")
    assert "not implemented yet: sample" in Path("comparison/report.html").read_text(encoding="utf-8")
    assert sdapp("report", "comparison").exit_code == 0


def test_seconds_keep_the_paces_that_were_measured(sdapp: Run) -> None:
    command = ["compare", PROMPT, "--steps", "0.6,30", "--match", "seconds", *TINY]
    first = sdapp(*command, "--schedulers", "ddim,lcm", "--dry-run")
    assert "the steps and the time they need will be known when each scheduler was timed" in first.stderr
    paces = {"ddim": {"fixed": 0.1, "step": 0.1}, "lcm": {"fixed": 0.1, "step": 0.1}}
    Path("comparison").mkdir()
    Path("comparison/paces.json").write_text(json.dumps(paces), encoding="utf-8")
    planned = sdapp(*command[:-1], "1", "--schedulers", "ddim,lcm", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    few = ["compare", PROMPT, "--steps", "0.6", "--match", "seconds", *TINY]
    result = sdapp(*few, "--schedulers", "ddim,lms")  # lms is new
    assert result.exit_code == 0 or "s are too few for a single step of lms" in result.stderr, result.stderr
    kept = json.loads(Path("comparison/paces.json").read_text(encoding="utf-8"))
    assert {name: kept[name] for name in paces} == paces
    assert kept["lms"]["step"] > 0
    again = sdapp(*few, "--schedulers", "ddim,lcm")
    assert again.exit_code == 0
    assert [cell.steps for cell in results.read_comparison(Path("comparison")).cells] == [5, 5]
    too_few = sdapp("compare", PROMPT, "--steps", "0.15", "--match", "seconds", *TINY, "--schedulers", "ddim")
    assert too_few.exit_code == 2
    assert "0.15 s are too few for a single step of ddim" in too_few.stderr


def test_timings_are_repeated_and_the_median_counts(sdapp: Run) -> None:
    result = sdapp("compare", PROMPT, "--schedulers", "ddim", "--steps", "2", *TINY, "--timings", 3)
    assert result.exit_code == 0, result.stderr
    assert "3 images, 0 done, 3 to paint with 27 UNet calls" in result.stderr
    [cell] = results.read_comparison(Path("comparison")).cells
    assert len(cell.timings) == 3
    assert cell.seconds == sorted(cell.timings)[1]


def test_a_dry_run_paints_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    arguments = [*EXAMPLE, "--out", str(tmp_path / "none"), "--dry-run"]
    run = f"from sdapp.cli import app; app({arguments!r}, standalone_mode=False)"
    script = f"import sys; {run}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert re.search(
        r"36 cells and 4 reference images: 40 images, 0 done, 40 to paint with 1218 UNet calls; .* of \d+x\d+",
        done.stderr,
    )
    assert "note: euler-a is stochastic and not ranked: judge it by eye" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_dry_run_lists_its_cells_as_json(sdapp: Run) -> None:
    result = sdapp("compare", "a cat", "--schedulers", "ddim", "--steps", "4,8", *TINY, "--dry-run", "--json")
    rows = [json.loads(row) for row in result.stdout.splitlines()]
    assert [(row["scheduler"], row["steps"], row["status"]) for row in rows] == [
        ("ddim", 4, "missing"),
        ("ddim", 8, "missing"),
    ]


def test_the_truth_bench_needs_no_model(sdapp: Run) -> None:
    result = sdapp("compare", "--truth", "--schedulers", "ddim,heun", "--steps", "5,20")
    assert result.stdout.splitlines() == [
        "scheduler  5       20",
        "heun       0.6716  0.0393 (19)",
        "ddim       0.1472  0.0484",
    ]
    refused = sdapp("compare", "--truth", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    refused = sdapp("compare", "--truth", "--schedulers", "ddim,euler-a")
    assert refused.exit_code == 2
    assert (
        "--truth: euler-a: new noise in every step leads to no exact end, so no error; --schedulers ddim"
        in refused.stderr
    )


def test_what_a_foreign_image_could_not_carry_over_is_told(sdapp: Run) -> None:
    info = PngInfo()
    info.add_text(
        "parameters", "a <lora:x:1> cat\nSteps: 1, Sampler: DDIM, CFG scale: 5, Seed: 9, Size: 64x64"
    )
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    result = sdapp("compare", "--config", "theirs.png", "--schedulers", "ddim", "--steps", "2", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("not carried over: LoRA") == 1


# --- what users get wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PROMPT, "--schedulers", "ddin"], "--schedulers: no scheduler 'ddin', did you mean 'ddim'?"),
        ([PROMPT, "--schedulers", "ddim", "--steps", "0"], "--steps: budgets must be above 0, not 0"),
        ([PROMPT, "--schedulers", "ddim", "--seeds", "1,1"], "--seeds: 1 is in the list more than once"),
        (
            [PROMPT, "--schedulers", "ddim", "--vary", "foo=1"],
            "--vary: compare.vary.foo: cannot vary; allowed here: guidance_scale",
        ),
        ([PROMPT, "--schedulers", "ddim", "--vary", "guidance_scale"], "--vary: write it as KEY=VALUE,VALUE"),
        (
            [PROMPT, "--schedulers", "ddim", "--vary", "eta=0", "--vary", "eta=1"],
            "--vary: eta is given twice",
        ),
        (["--schedulers", "ddim"], "prompt: there is none; give one on the command line"),
    ],
)
def test_errors_say_what_and_where(arguments: list[str], message: str, sdapp: Run) -> None:
    result = sdapp("compare", *arguments)
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr


def test_folders_that_are_none(sdapp: Run) -> None:
    Path("file").touch()
    taken = sdapp("compare", PROMPT, "--schedulers", "ddim", "--out", "file")
    assert (taken.exit_code, "file is a file, not a folder; choose another with --out" in taken.stderr) == (
        73,
        True,
    )
    for name, code in (("file", 66), ("gone", 66), (".", 65)):  # nothing of sdapp is in the last one
        result = sdapp("report", name)
        assert result.exit_code == code
        assert result.stderr.startswith("error: ")
