"""Prompt files painted to the last line: resumed after any kill, each image once, whatever the packing."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from peak_memory import LINUX, peak_memory
from sdapp.batches.executors import LocalExecutor
from sdapp.batches.leases import Leases
from sdapp.batches.ledger import LEDGER_FILE
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.run import Batch
from sdapp.errors import ConfigError
from sdapp.jobs import LoadKey
from sdapp.metadata.record import read_image
from sdapp.outputs.files import this_host
from sdapp.pipelines import Painter
from sdapp.prompts.templates import choose
from sdapp.records import Result as Painted
from sdapp.settings.layers import Layer

Run = Callable[..., Result]
PROMPTS = [
    f"a {colour} {thing}"
    for colour in ("red", "blue", "white", "black")
    for thing in ("cat", "house", "ship")
]
FAILS = "--scheduler unipc --set scheduler.options.solver_type=other"  # when it is painted
FAST = ("--set", "steps=1", "--seed", 7, "--out", "night")


def write(lines: list[str], name: str = "prompts.txt") -> Path:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(name)


def images(folder: str | Path = "night") -> dict[str, np.ndarray]:
    return {
        path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(Path(folder).glob("*.png"))
    }


def alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """The same names, and pixels within 2 of 255."""
    return one.keys() == other.keys() and all(np.abs(one[name] - other[name]).max() <= 2 for name in one)


def ledger(folder: str = "night") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / LEDGER_FILE).read_text().splitlines()]


def jobs(folder: str | Path = "night") -> dict[str, dict[str, Any]]:
    return {path.name: read_image(path)["job"] for path in Path(folder).glob("*.png")}


# --- one run ------------------------------------------------------------------------------------------------


def test_every_line_becomes_an_image_and_a_line_of_the_ledger(sdapp: Run) -> None:
    result = sdapp("batch", write(["# a comment", *PROMPTS[:3], "", "a tree --s 2 --d 9 --n a cat"]), *FAST)
    assert result.exit_code == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == sorted(str(path) for path in Path("night").glob("*.png"))
    rows = ledger()
    assert [row["prompt_line"] for row in rows] == [2, 3, 4, 6]
    assert [row["status"] for row in rows] == ["done"] * 4
    last = jobs()[rows[3]["file"]]
    assert (last["prompt"], last["steps"], last["seed"], last["negative_prompt"]) == ("a tree", 2, 9, "a cat")


def test_a_second_run_paints_nothing_and_an_edited_line_alone_is_painted_again(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:4]), *FAST)
    before = {path: path.stat().st_mtime_ns for path in Path("night").glob("*.png")}
    again = sdapp("batch", write(PROMPTS[:4]), *FAST)
    assert again.stdout == ""
    assert "4 done, 0 failed before, 0 to paint" in again.stderr
    edited = sdapp("batch", write([PROMPTS[2], "a castle", PROMPTS[0], PROMPTS[3]]), *FAST)
    assert len(edited.stdout.splitlines()) == 1
    assert "a-castle" in edited.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_without_a_seed_one_is_drawn_once_and_kept(sdapp: Run) -> None:
    quick = ("--set", "steps=1", "--out", "night")
    sdapp("batch", write(PROMPTS[:2]), *quick)
    assert "2 done" in sdapp("batch", write(PROMPTS[:2]), *quick).stderr
    other = sdapp("batch", write(PROMPTS[:2]), *quick, "--seed", 1)
    assert other.exit_code == 73
    assert "was begun with --seed" in other.stderr


@pytest.mark.parametrize(("mode", "seeds"), [("increment", [7, 8, 9, 10]), ("same", [7, 8, 7, 8])])
def test_lines_without_a_seed_get_one_by_the_mode(mode: str, seeds: list[int], sdapp: Run) -> None:
    sdapp("batch", write([f"{prompt} --count 2" for prompt in PROMPTS[:2]]), *FAST, "--seeds", mode)
    assert [row["seed"] for row in ledger()] == seeds


def test_errors_of_every_line_come_together_before_anything_is_painted(sdapp: Run) -> None:
    result = sdapp(
        "batch",
        write(["a cat --stpes 3", "a ship", "a tree --scheduler eulr", "a house --strength 2"]),
        *FAST,
    )
    assert result.exit_code == 2
    for number, word in ((1, "--steps"), (3, "euler"), (4, "task.kind")):
        assert any(f"prompts.txt:{number}" in line and word in line for line in result.stderr.splitlines())
    assert not Path("night").exists()


def test_a_dry_run_counts_and_touches_nothing(sdapp: Run) -> None:
    result = sdapp("batch", write([*PROMPTS[:3], PROMPTS[0]]), *FAST, "--dry-run")
    assert "3 images: 0 done, 0 failed before, 3 to paint with 3 UNet calls" in result.stderr
    assert result.stdout.splitlines()[0].startswith("line 1\tseed ")
    assert [line.split("\t")[2] for line in result.stdout.splitlines()] == PROMPTS[:3]
    assert not Path("night").exists()


def test_tasks_may_change_from_line_to_line(sdapp: Run, house: Path, mask: Path) -> None:
    lines = [
        "a cat",
        f"a castle --image {house.name} --strength 0.6",
        f"a tree --image {house.name} --mask {mask.name}",
    ]
    result = sdapp("batch", write(lines), "--set", "steps=2", "--seed", 7, "--out", "night")
    assert result.exit_code == 0, result.stderr
    assert [jobs()[row["file"]]["task"]["kind"] for row in ledger()] == ["txt2img", "img2img", "inpaint"]


def test_the_choices_of_a_prompt_follow_its_seed(sdapp: Run) -> None:
    line = "a {red|blue|white|black|green|pink} cat --count 6"
    sdapp("batch", write([line]), *FAST)
    sdapp("batch", write(["a tree", line]), *FAST, "--out", "other")
    prompts = [job["prompt"] for job in jobs().values()]
    assert len(set(prompts)) > 1
    without_line = [{name.partition("-")[2] for name in images(*folder)} for folder in ((), ("other",))]
    assert without_line[0] < without_line[1]


def test_packing_changes_neither_names_nor_ledger_nor_images(sdapp: Run) -> None:
    lines = [
        f"{prompt} --s {1 + i % 2} --n {'tree' if i % 3 else 'cat'}" for i, prompt in enumerate(PROMPTS[:8])
    ]
    for size, folder in ((1, "one"), (4, "four")):
        sdapp("batch", write(lines), "--seed", 7, "--out", folder, "--set", f"batch_size={size}")
    assert alike(images("one"), images("four"))
    assert [row["id"] for row in ledger("one")] == [row["id"] for row in ledger("four")]
    sizes = {read_image(path)["record"]["batch_size"] for path in Path("four").glob("*.png")}
    assert sizes == {4}


def test_the_ledger_can_be_lost_and_is_made_anew(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:3]), *FAST)
    before = ledger()
    (Path("night") / LEDGER_FILE).unlink()
    assert "3 done" in sdapp("batch", write(PROMPTS[:3]), *FAST).stderr
    assert ledger() == before


def test_a_line_that_a_full_disk_cut_off_spoils_no_other(sdapp: Run) -> None:
    lines = [PROMPTS[0], f"a tree {FAILS}", f"a ship {FAILS}"]
    assert sdapp("batch", write(lines[:2]), *FAST).exit_code == 3
    path = Path("night") / LEDGER_FILE
    path.write_bytes(path.read_bytes()[:-9])
    assert sdapp("batch", write(lines), *FAST).exit_code == 3
    assert [row["status"] for row in ledger()] == ["done", "failed", "failed"]
    assert (
        sdapp("batch", write(lines), *FAST, "--dry-run").stderr.count("1 done, 2 failed before, 0 to paint")
        == 1
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe with a name")
def test_what_only_has_the_name_of_an_image_stops_nothing(tmp_path: Path) -> None:
    night = tmp_path / "night"
    (night / "folder.png").mkdir(parents=True)
    (night / "link.png").symlink_to("nowhere")
    (night / "text.png").write_text("no image")
    os.mkfifo(night / "pipe.png")  # opening it would wait for ever
    write(PROMPTS[:1], str(tmp_path / "prompts.txt"))
    code = "from sdapp.cli import app; app(['batch', 'prompts.txt', '--out', 'night', '--dry-run'])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "0 done, 0 failed before, 1 to paint" in run.stderr


def test_a_ledger_that_cannot_be_read_is_told(sdapp: Run) -> None:
    (Path("night") / LEDGER_FILE).mkdir(parents=True)
    result = sdapp("batch", write(PROMPTS[:1]), *FAST)
    assert result.exit_code == 73
    assert LEDGER_FILE in result.stderr


def test_two_runs_that_begin_a_folder_at_once_without_a_seed_have_the_same(
    tmp_path: Path, sdapp: Run
) -> None:
    file, layers = write(PROMPTS[:3]), [Layer({"output": {"dir": "other"}})]
    one, other = (PromptFile.open(file, layers) for _ in range(2))
    before = one.begun
    assert other.begun != before
    assert not one.keep_seeds()
    assert other.keep_seeds()
    assert one.begun == other.begun == before
    command = [
        sys.executable,
        "-m",
        "sdapp.cli",
        "batch",
        "prompts.txt",
        "--out",
        "night",
        "--set",
        "steps=1",
    ]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(run.communicate()[1].count(b"error"), run.returncode) for run in runs] == [(0, 0)] * 3
    assert len(images()) == len(ledger()) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"base_seed": 7}', '{"base_seed": 7, "seeds": "none"}'])
def test_a_broken_state_is_told_with_a_mend_that_mends(text: str, sdapp: Run) -> None:
    Path("night").mkdir()
    state = Path("night") / "batch.json"
    state.write_text(text)
    result = sdapp("batch", write(PROMPTS[:1]), *FAST)
    assert result.exit_code == 73
    assert "delete it and give --seed" in result.stderr
    state.unlink()
    assert sdapp("batch", write(PROMPTS[:1]), *FAST).exit_code == 0


def test_the_ledger_names_the_files_that_are_there(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:2]), *FAST)
    (Path("night") / ledger()[0]["file"]).unlink()
    sdapp("batch", write(PROMPTS[:2]), *FAST, "--prune", "--yes")
    sdapp("batch", write([*PROMPTS[:2], "a castle"]), *FAST, "--set", "output.format=webp")
    assert [Path(row["file"]).suffix for row in ledger()] == [".webp"] * 3
    sdapp("batch", write(PROMPTS[1:2]), *FAST)
    [row, *others] = ledger()
    assert (Path(row["file"]).suffix, row["unet_calls"], others) == (".png", 1, [])
    sdapp("batch", write([*PROMPTS[:2], "a castle"]), *FAST, "--shard", "1/999983")
    assert [(row["prompt_line"], Path(row["file"]).suffix) for row in ledger()] == [(2, ".png")]


def test_a_job_that_fails_is_kept_with_its_reason_and_the_rest_go_on(sdapp: Run) -> None:
    lines = ["a cat", f"a tree {FAILS}", "a ship"]
    result = sdapp("batch", write(lines), *FAST)
    assert result.exit_code == 3
    assert [row["status"] for row in ledger()] == ["done", "failed", "done"]
    assert "unipc: other is not implemented" in ledger()[1]["error"]
    again = sdapp("batch", write(lines), *FAST)
    assert again.exit_code == 3
    assert "2 done, 1 failed before, 0 to paint" in again.stderr
    assert "1 to paint" in sdapp("batch", write(lines), *FAST, "--retry-failed").stderr
    mended = sdapp("batch", write(["a cat", "a tree", "a ship"]), *FAST)
    assert mended.exit_code == 0
    assert [row["status"] for row in ledger()] == ["done"] * 3


def test_an_image_whose_record_does_not_fit_its_format_fails_alone(sdapp: Run) -> None:
    choice = (
        "{a cat|" + "a dog " * 12_000 + "}"
    )  # recorded as it stands in the file, which a JPEG has no room for
    seed = next(seed for seed in range(99) if choose(choice, seed, None)[0] == "a cat")
    result = sdapp(
        "batch", write(["a ship", f"{choice} --d {seed}", "a tree"]), *FAST, "--set", "output.format=jpeg"
    )
    assert result.exit_code == 3, result.stderr
    assert [row["status"] for row in ledger()] == ["done", "failed", "done"]
    assert "use png or webp" in ledger()[1]["error"]


def test_prompts_may_come_from_standard_input(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sdapp.cli",
        "batch",
        "-",
        "--out",
        "night",
        "--seed",
        "7",
        "--set",
        "steps=1",
    ]
    run = subprocess.run(
        command, cwd=tmp_path, input="a cat\na ship\n", capture_output=True, text=True, check=True
    )
    assert len(run.stdout.splitlines()) == 2


def test_errors_of_lines_that_come_are_told_also_with_skip_invalid(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdapp.cli", "batch", "-", "--skip-invalid"]
    run = subprocess.run(
        command, cwd=tmp_path, input="a cat --steps many\n", capture_output=True, text=True, check=False
    )
    assert (run.returncode, "<stdin>:1:7: steps: must be a whole number" in run.stderr) == (3, True), (
        run.stderr
    )


# --- kills --------------------------------------------------------------------------------------------------


def start(folder: Path, out: str, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sdapp.cli", "batch", "prompts.txt", "--seed", "7", "--out", out, *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


KILLS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def test_a_signal_while_the_model_is_loaded_ends_a_batch_at_once(sdapp: Run) -> None:
    write(PROMPTS)
    run = start(Path(), "night")
    assert run.stderr is not None
    assert b"to paint with" in run.stderr.readline()
    time.sleep(0.8)  # it imports torch now
    run.send_signal(signal.SIGINT)
    assert b"stopped: 0 done, 12 left" in run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert not list(Path("night").glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")
@pytest.mark.parametrize(
    "options",
    [
        ("--kills", "24", "--jobs", "60"),
        ("--kills", "0", "--jobs", "32", "--together", "8"),
        ("--kills", "4", "--jobs", "24", "--together", "3", "--seed", "1"),
    ],
)
def test_batches_killed_at_every_point_or_run_together_end_as_an_undisturbed_one(
    options: tuple[str, ...],
) -> None:
    run = subprocess.run([sys.executable, str(KILLS), *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    kills = re.search(r"^(\d+) kills in", run.stdout, re.MULTILINE)
    assert kills
    assert int(kills[1]) >= int(options[1])
    assert "as in an undisturbed run" in run.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_batch_at_the_next_step_and_says_what_is_left(number: int, sdapp: Run) -> None:
    write(PROMPTS)
    run = start(Path(), "night", "--set", "steps=40", "--set", "batch_size=1")
    while not list(Path("night").glob("*.png")):
        time.sleep(0.01)
        assert run.poll() is None
    run.send_signal(number)
    stderr = run.communicate()[1].decode()
    assert run.returncode == 128 + number
    assert "run the same command again to continue" in stderr
    done = len(list(Path("night").glob("*.png")))
    assert f"{done} done, {len(PROMPTS) - done} left" in stderr
    assert not list(Path("night").glob(".*"))


# --- what goes wrong, in one job or on the disk -------------------------------------------------------------


def open_batch(
    lines: list[str], keep: Callable[[object], None] | None = None, **settings: Any
) -> tuple[Batch, Painter]:
    from sdapp.pipelines import load

    prompts = PromptFile.open(
        write(lines), [Layer({"steps": 2, "seed": 7, "output": {"dir": "night"}} | settings)]
    )
    run = Batch(prompts.items, prompts.config, prompts.load, keep=keep)
    run.begin()
    return run, load(LoadKey.of(prompts.config, prompts.model))


def painting(run: Batch, painter: Painter, *hooks: Any) -> Iterator[Painted]:
    """Paint a batch with a model that is loaded."""
    return run.paint(LocalExecutor(loader=lambda *_: painter), run.survey(), *hooks)


@pytest.mark.parametrize(
    ("part", "call"),
    [("text._pipe.text_encoder", 2), ("denoiser.unet", 3), ("denoiser.unet", 4), ("vae.decoder", 2)],
)
def test_memory_that_runs_out_within_a_job_leaves_the_others_as_they_are(
    part: str, call: int, sdapp: Run
) -> None:
    lines = [f"{prompt} --n a dog" for prompt in PROMPTS[:4]]
    assert sdapp("batch", write(lines), "--set", "steps=2", "--seed", 7, "--out", "calm").exit_code == 0
    run, painter = open_batch(lines, batch_size=2)
    calls = 0

    def fail(_module: Any, _arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    attrgetter(part)(painter.model).register_forward_pre_hook(fail)
    results = list(painting(run, painter))
    assert [result.error for result in results] == [None] * 4
    assert alike(images("night"), images("calm"))


@pytest.mark.parametrize("part", ["denoiser.unet", "vae.decoder"])
def test_numbers_that_are_not_finite_fail_one_job_and_leave_the_others_as_they_are(
    part: str, sdapp: Run
) -> None:
    sdapp("batch", write(PROMPTS[:4]), "--set", "steps=2", "--seed", 7, "--out", "calm")
    run, painter = open_batch(
        PROMPTS[:4], keep=lambda _: hook.remove(), batch_size=2
    )  # when the first batch is painted

    def poison(_module: Any, _arguments: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple) else output
        tensor[1] = float("nan")
        return output

    module = attrgetter(part)(painter.model)
    hook = module.register_forward_hook(poison)
    painted = list(painting(run, painter))
    assert [result.error is None for result in painted] == [True, False, True, True]
    assert "not finite" in str(painted[1].error)
    calm = images("calm")
    assert alike(images("night"), {name: calm[name] for name in images("night")})
    assert len(images("night")) == 3


@pytest.mark.skipif(not hasattr(os, "link"), reason="the third point is a hard link")
@pytest.mark.parametrize("point", ["write", "fsync", "link"])
def test_a_disk_that_fills_up_ends_the_batch_with_74_and_it_goes_on_later(
    point: str, sdapp: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    real = {"fsync": os.fsync, "link": os.link, "write": io.open}
    images_begun = 0

    def failing(*arguments: Any, **more: Any) -> Any:
        nonlocal images_begun
        is_image = {"fsync": True, "link": str(arguments[-1]).endswith(".png"), "write": "xb" in arguments}[
            point
        ]
        images_begun += is_image
        if is_image and images_begun >= 4:
            raise full
        return real[point](*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(io if point == "write" else os, "open" if point == "write" else point, failing)
        stopped = sdapp("batch", write(PROMPTS[:6]), *FAST)
    assert stopped.exit_code == 74, stopped.stderr
    assert "free some space" in stopped.stderr
    assert 0 < len(images()) < 6
    assert not list(Path("night").glob(".*"))
    assert sdapp("batch", write(PROMPTS[:6]), *FAST).exit_code == 0
    sdapp("batch", write(PROMPTS[:6]), *FAST, "--out", "calm")
    assert alike(images("night"), images("calm"))


@pytest.mark.parametrize(
    "error", [ValueError("what upstream says"), RuntimeError("CUDA error: an illegal instruction")]
)
def test_whatever_goes_wrong_in_a_pipeline_fails_one_job_and_the_rest_go_on(
    error: Exception, sdapp: Run
) -> None:
    run, painter = open_batch(PROMPTS[:3], batch_size=1)

    def fail(_module: Any, _arguments: Any) -> None:
        hook.remove()
        raise error

    hook = painter.model.denoiser.unet.register_forward_pre_hook(fail)
    results = list(painting(run, painter))
    assert [result.error is None for result in results] == [False, True, True]
    assert results[0].error == f"{type(error).__name__}: {error}"
    assert ledger()[0]["status"] == "failed"


def test_a_prompt_file_that_is_deleted_while_it_is_painted_is_painted_to_its_end(sdapp: Run) -> None:
    run, painter = open_batch(PROMPTS[:3], batch_size=1)
    painted = painting(run, painter)
    next(painted)
    Path("prompts.txt").unlink()
    assert len(list(painted)) == 2


# --- folders that are shared or cleared ---------------------------------------------------------------------


def test_shards_are_the_whole_together(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS), *FAST, "--out", "whole")
    for number in (1, 2, 3):
        assert (
            sdapp("batch", write(PROMPTS), *FAST, "--out", "parts", "--shard", f"{number}/3").exit_code == 0
        )
        assert len(images("parts")) > 0
    assert alike(images("whole"), images("parts"))
    assert [row["id"] for row in ledger("whole")] == [row["id"] for row in ledger("parts")]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(shard: str, sdapp: Run) -> None:
    result = sdapp("batch", write(PROMPTS), "--shard", shard)
    assert result.exit_code == 2
    assert "--shard" in result.stderr


def test_a_job_that_another_run_holds_is_waited_for_and_taken_over_when_it_dies(
    tmp_path: Path, sdapp: Run
) -> None:
    run, painter = open_batch(PROMPTS[:3], batch_size=1)
    [first, *_] = run.items()
    other = Leases(run.folder)
    assert other.claim(first.job.id)
    waits: list[str] = []

    def wait(who: str) -> None:
        waits.append(who)
        other.release(first.job.id)

    painted = [result.job.id for result in painting(run, painter, None, wait)]
    assert painted[-1] == first.job.id
    assert len(painted) == 3
    assert waits == [f"1 are being painted by process {os.getpid()} on {this_host()}"]


def test_a_run_that_lost_its_lease_leaves_the_image_to_who_took_it_over(sdapp: Run) -> None:
    run, painter = open_batch(PROMPTS[:3], batch_size=1)
    [first, *_] = run.items()
    other = Leases(run.folder)
    at_the_end: list[int] = []

    def sleep(*_: int) -> None:
        """As a machine does that is suspended; the first job's lease is old by then."""
        lease = run.folder / f".sdapp-{first.job.id}.lease"
        if lease.exists() and not other.holds(first.job.id) and not at_the_end:
            os.utime(lease, (0, 0))
            assert other.claim(first.job.id)

    def wait(_: str) -> None:
        at_the_end.append(len(images()))
        other.release(first.job.id)  # it died

    painted = [result.job.id for result in painting(run, painter, sleep, wait)]
    assert at_the_end == [2]
    assert painted[-1] == first.job.id
    assert len(images()) == len(painted) == 3


def test_the_last_of_several_runs_clears_up_after_those_that_died_meanwhile(sdapp: Run) -> None:
    run, painter = open_batch(PROMPTS[:2], batch_size=1)
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    holder = json.dumps({"host": this_host(), "process": died.pid, "started": 1.0})

    def leave() -> None:
        """As a run does that is killed between publishing an image and giving its lease back."""
        (run.folder / ".sdapp-0123456789ab.lease").write_text(holder)
        (run.folder / f".sdapp-{this_host()}-{died.pid}-ab.part").touch()

    for _ in painting(run, painter):
        leave()
    assert not list(run.folder.glob(".*"))
    assert [row["prompt_line"] for row in ledger()] == [1, 2]


def test_prune_lists_what_no_line_asks_for_and_removes_it_only_when_told(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:4]), *FAST)
    gone = {str(Path("night") / row["file"]) for row in ledger()[2:]}
    listed = sdapp("batch", write(PROMPTS[:2]), *FAST, "--prune")
    assert set(listed.stdout.splitlines()) == gone
    assert len(images()) == 4
    assert sdapp("batch", write(PROMPTS[:2]), *FAST, "--prune", "--yes").exit_code == 0
    assert len(images()) == len(ledger()) == 2
    assert sdapp("batch", write(PROMPTS[:2]), *FAST, "--yes").exit_code == 2


def test_prune_refuses_where_next_to_nothing_is_asked_for(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:4]), *FAST)
    other = (*FAST, "--steps", 3)
    refused = sdapp("batch", write(PROMPTS[:4]), *other, "--prune", "--yes")
    assert refused.exit_code == 73
    assert "the prompt file with these settings asks for 0 of 4 images" in refused.stderr
    assert len(images()) == 4
    assert len(sdapp("batch", write(PROMPTS[:4]), *other, "--prune").stdout.splitlines()) == 4


def test_prune_leaves_the_images_of_other_prompt_files_alone(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:3], "one.txt"), *FAST)
    sdapp("batch", write(PROMPTS[2:5], "two.txt"), *FAST)
    assert len(images()) == 5
    pruned = sdapp("batch", write(PROMPTS[3:4], "two.txt"), *FAST, "--prune", "--yes")
    assert pruned.exit_code == 0
    assert len(pruned.stdout.splitlines()) == 1
    assert "3 images of another prompt file (../one.txt)" in pruned.stderr
    assert "3 done, 0 failed before, 0 to paint" in sdapp("batch", "one.txt", *FAST).stderr
    refused = sdapp("batch", write(["a tree"], "three.txt"), *FAST, "--prune", "--yes")
    assert refused.exit_code == 73
    assert len(images()) == 4


def test_a_folder_of_an_older_version_is_pruned_with_care(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:4]), *FAST)
    path = Path("night") / LEDGER_FILE
    old = [{key: value for key, value in row.items() if key != "prompt_files"} for row in ledger()]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert len(sdapp("batch", write(PROMPTS[:3]), *FAST, "--prune", "--yes").stdout.splitlines()) == 1
    path.unlink()
    sdapp("batch", write(["a tree"], "other.txt"), *FAST)  # the first three are nobody's now
    left = sdapp("batch", write(["a tree"], "third.txt"), *FAST, "--prune", "--yes")
    assert len(images()) == 4
    assert "left alone" in left.stderr


def test_the_ledger_is_not_rewritten_while_another_run_writes_to_it(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:2]), *FAST)
    path = Path("night") / LEDGER_FILE
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    before = path.read_bytes()
    with Leases(Path("night")) as other:
        assert other.claim("0123456789ab")
        assert "2 done" in sdapp("batch", write(PROMPTS[:2]), *FAST).stderr
        assert path.read_bytes() == before
    sdapp("batch", write(PROMPTS[:2]), *FAST)
    assert [row["prompt_line"] for row in ledger()] == [1, 2]


def test_failures_of_another_prompt_file_stay_in_the_ledger(sdapp: Run) -> None:
    sdapp("batch", write([f"a tree {FAILS}"], "one.txt"), *FAST)
    sdapp("batch", write(["a cat"], "two.txt"), *FAST)
    assert [row["status"] for row in ledger()] == ["done", "failed"]
    assert "1 failed before, 0 to paint" in sdapp("batch", "one.txt", *FAST).stderr


def test_what_a_foreign_image_could_not_carry_over_is_told(sdapp: Run) -> None:
    info = PngInfo()
    info.add_text(
        "parameters", "a <lora:x:1> cat\nSteps: 1, Sampler: DDIM, CFG scale: 5, Seed: 9, Size: 64x64"
    )
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    result = sdapp("batch", write(PROMPTS[:1]), "--config", "theirs.png", "--out", "night", "--dry-run")
    assert result.stderr.count("not carried over: LoRA") == 1


def test_a_note_on_an_image_is_told_once_for_all_of_them(sdapp: Run) -> None:
    long = "a red cat " + "and a blue ship " * 30
    result = sdapp("batch", write([f"{long} --count 3"]), *FAST, "--set", "prompt_syntax=plain")
    assert result.stderr.count("the text encoder reads 77 tokens") == 1


def test_a_dry_run_or_an_empty_prompt_file_prunes_nothing(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:2]), *FAST)
    told = sdapp("batch", write(PROMPTS[:1]), *FAST, "--prune", "--yes", "--dry-run")
    assert len(told.stdout.splitlines()) == 1
    assert (
        "images in the folder: 1 asked for, 1 not; with the same options, --prune --yes removes these"
        in told.stderr
    )
    listed = sdapp("batch", write(PROMPTS[:1]), *FAST, "--prune", "--json")
    assert json.loads(listed.stdout) == {"path": told.stdout.strip()}
    assert len(images()) == 2
    empty = sdapp("batch", write(["# all of them are comments"]), *FAST, "--prune", "--yes")
    assert empty.exit_code == 2
    assert "asks for no image" in empty.stderr
    assert len(images()) == 2


def test_without_its_base_seed_a_folder_is_not_pruned(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:2]), "--set", "steps=1", "--out", "night")
    (Path("night") / "batch.json").unlink()
    result = sdapp("batch", write(PROMPTS[:2]), "--set", "steps=1", "--out", "night", "--prune", "--yes")
    assert result.exit_code == 73
    assert len(images()) == 2


def test_how_lines_get_their_seeds_is_kept_as_well(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:2]), *FAST, "--seeds", "same")
    assert "2 done" in sdapp("batch", write(PROMPTS[:2]), *FAST).stderr
    other = sdapp("batch", write(PROMPTS[:2]), *FAST, "--seeds", "increment")
    assert other.exit_code == 73
    assert "was begun with --seeds same" in other.stderr


# --- what a dry run knows -----------------------------------------------------------------------------------


def test_an_estimate_rests_on_what_this_machine_did_before(sdapp: Run) -> None:
    assert "time and disk unknown" in sdapp("batch", write(PROMPTS[:4]), *FAST, "--dry-run").stderr
    sdapp("batch", write(PROMPTS[:2]), *FAST)
    told = sdapp("batch", write(PROMPTS[:4]), *FAST, "--dry-run").stderr
    assert re.search(r"2 to paint with 2 UNet calls; a few seconds, [\d.]+ kB of .* free", told)


def test_a_dry_run_says_what_of_a_prompt_is_not_read_and_what_is_asked_for_twice(sdapp: Run) -> None:
    long = "a red cat " + "and a blue ship " * 30
    told = sdapp("batch", write(["a cat", long, "a cat"]), *FAST, "--dry-run").stderr
    assert "line 2: prompt: 2 chunks of up to 75 tokens: 75 + 48" in told
    plain = sdapp("batch", write([long]), *FAST, "--dry-run", "--set", "prompt_syntax=plain").stderr
    assert "line 1: prompt: the text encoder reads 77 tokens; not read: " in plain
    assert "1 asked for more than once" in told


def test_a_dry_run_lists_a_line_an_image_or_json(sdapp: Run) -> None:
    lines = write(['{"prompt": "a cat\\nand a\\tship", "seed": 3}', '{"prompt": "a tree"}'], "two.jsonl")
    first, _ = sdapp("batch", lines, *FAST, "--dry-run").stdout.splitlines()
    assert first == "line 1\tseed 3\ta cat and a ship"
    rows = [
        json.loads(row) for row in sdapp("batch", lines, *FAST, "--dry-run", "--json").stdout.splitlines()
    ]
    assert [(row["line"], row["seed"], row["job"]["prompt"]) for row in rows] == [
        (1, 3, "a cat\nand a\tship"),
        (2, rows[1]["job"]["seed"], "a tree"),
    ]


def test_a_dry_run_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat " * 100 + "\n")
    code = """import sys
from sdapp.cli import app
try:
    app(["batch", "prompts.txt", "--dry-run"])
finally:
    print("torch" in sys.modules)"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "3 chunks" in run.stderr
    assert run.stdout.splitlines()[-1] == "False"


def test_input_files_that_are_missing_are_told_with_all_the_other_errors(sdapp: Run) -> None:
    lines = ["a cat --image none.png", "a ship --steps 0", "a tree --image gone.png"]
    result = sdapp("batch", write(lines), "--out", "night", "--dry-run")
    assert result.exit_code == 2
    for number, word in ((1, "none.png"), (2, "steps"), (3, "gone.png")):
        assert any(f"prompts.txt:{number}" in line and word in line for line in result.stderr.splitlines())


@pytest.mark.skipif(not LINUX, reason="the kernel of Linux counts")
def test_the_memory_of_a_dry_run_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = {}
    for lines in (100, 20_000):
        (tmp_path / "prompts.txt").write_text("".join(f"a red house number {i}\n" for i in range(lines)))
        code = "from sdapp.cli import app\napp(['batch', 'prompts.txt', '--dry-run'], standalone_mode=False)"
        peaks[lines] = peak_memory(code, tmp_path)
    assert peaks[20_000] - peaks[100] < 10_000_000  # a fifth of the lines, a fifth of the 50 MB


# --- for scripts --------------------------------------------------------------------------------------------


def test_a_script_gets_each_image_as_it_lands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdapp

    monkeypatch.chdir(tmp_path)
    settings = {"steps": 1, "seed": 7, "output": {"dir": "night"}}
    results = sdapp.batch(write(["a {red|blue} cat", "a ship"]), **settings)
    first = next(results)
    assert first.path is not None
    assert first.path.exists()
    assert len(images()) < 2 or first.record.batch_size == 2
    [second] = list(results)
    assert second.choices == {}
    assert list(sdapp.batch("prompts.txt", **settings)) == []
    with pytest.raises(ConfigError, match="--shard"):
        sdapp.batch("prompts.txt", shard="3/2", **settings)


def test_the_end_of_a_batch_says_what_became_of_it(sdapp: Run) -> None:
    result = sdapp("batch", write(["a cat", f"a tree {FAILS}", "a ship"]), *FAST)
    time = r"[\d.]+ s"
    said = f"2 done, 1 failed in {time}, {time} an image; the slowest, of line [13], took {time}"
    assert re.search(f"^note: {said}; images and ledger.jsonl are in night$", result.stderr, re.MULTILINE)
    assert "the slowest" not in sdapp("batch", "prompts.txt", *FAST).stderr  # nothing was left


def test_choices_are_recorded_in_the_image(sdapp: Run) -> None:
    Path("animal.txt").write_text("cat\ndog\n")
    sdapp("batch", write(["a {red|blue} __animal__"]), *FAST)
    [path] = Path("night").glob("*.png")
    content = read_image(path)
    colour, animal = content["choices"]["{red|blue}"], content["choices"]["__animal__"]
    assert content["job"]["prompt"] == f"a {colour} {animal}"


def test_one_json_line_an_image_says_everything(sdapp: Run) -> None:
    result = sdapp("batch", write(PROMPTS[:2]), *FAST, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["job"]["prompt"] for row in rows] == PROMPTS[:2]
    assert all(Path(row["path"]).exists() and row["record"]["unet_calls"] == 1 for row in rows)


def test_auto_paints_several_images_at_a_time(sdapp: Run) -> None:
    sdapp("batch", write([f"{prompt} --count 3" for prompt in PROMPTS]), *FAST, "--set", "batch_size=auto")
    sizes = [read_image(path)["record"]["batch_size"] for path in Path("night").glob("*.png")]
    assert len(sizes) == 36
    assert max(sizes) >= 2
