"""Prompt files painted to the last line: resumed after any kill, each picture once, whatever the packing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from sdapp.ledger import LEDGER, finished
from sdapp.outputs import read_picture

Run = Callable[..., Result]
PROMPTS = [f"a {colour} {thing}" for colour in ("red", "blue", "white", "black") for thing in ("cat", "house", "ship")]
FAST = ("--set", "steps=1", "--seed", 7, "--out", "night")


def write(lines: list[str], name: str = "prompts.txt") -> Path:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(name)


def pictures(folder: str | Path = "night") -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(Path(folder).glob("*.png"))}


def alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """The same names, and pixels within 2 of 255."""
    return one.keys() == other.keys() and all(np.abs(one[name] - other[name]).max() <= 2 for name in one)


def ledger(folder: str = "night") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / LEDGER).read_text().splitlines()]


def jobs(folder: str | Path = "night") -> dict[str, dict[str, Any]]:
    return {path.name: read_picture(path)["job"] for path in Path(folder).glob("*.png")}


# --- one run ------------------------------------------------------------------------------------------------------


def test_every_line_becomes_a_picture_and_a_line_of_the_ledger(sdapp: Run) -> None:
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
    result = sdapp("batch", write(["a cat --stpes 3", "a ship", "a tree --scheduler eulr", "a house --strength 2"]), *FAST)
    assert result.exit_code == 2
    for number, word in ((1, "--steps"), (3, "euler"), (4, "task.kind")):
        assert any(f"prompts.txt:{number}" in line and word in line for line in result.stderr.splitlines())
    assert not Path("night").exists()


def test_a_dry_run_counts_and_touches_nothing(sdapp: Run) -> None:
    result = sdapp("batch", write([*PROMPTS[:3], PROMPTS[0]]), *FAST, "--dry-run")
    assert "3 pictures: 0 done, 0 failed before, 3 to paint with 3 UNet calls" in result.stderr
    assert result.stdout.splitlines()[0].startswith("line 1\tseed ")
    assert [line.split("\t")[2] for line in result.stdout.splitlines()] == PROMPTS[:3]
    assert not Path("night").exists()


def test_tasks_may_change_from_line_to_line(sdapp: Run, house: Path, mask: Path) -> None:
    lines = ["a cat", f"a castle --image {house.name} --strength 0.6", f"a tree --image {house.name} --mask {mask.name}"]
    result = sdapp("batch", write(lines), "--set", "steps=2", "--seed", 7, "--out", "night")
    assert result.exit_code == 0, result.stderr
    assert [jobs()[row["file"]]["task"]["kind"] for row in ledger()] == ["txt2img", "img2img", "inpaint"]


def test_the_choices_of_a_prompt_follow_its_seed(sdapp: Run) -> None:
    line = "a {red|blue|white|black|green|pink} cat --count 6"
    sdapp("batch", write([line]), *FAST)
    sdapp("batch", write(["a tree", line]), *FAST, "--out", "other")
    prompts = [job["prompt"] for job in jobs().values()]
    assert len(set(prompts)) > 1
    assert set(pictures()) < set(pictures("other"))


def test_packing_changes_neither_names_nor_ledger_nor_pictures(sdapp: Run) -> None:
    lines = [f"{prompt} --s {1 + i % 2} --n {'tree' if i % 3 else 'cat'}" for i, prompt in enumerate(PROMPTS[:8])]
    for size, folder in ((1, "one"), (4, "four")):
        sdapp("batch", write(lines), "--seed", 7, "--out", folder, "--set", f"batch_size={size}")
    assert alike(pictures("one"), pictures("four"))
    assert [row["id"] for row in ledger("one")] == [row["id"] for row in ledger("four")]
    sizes = {read_picture(path)["record"]["batch_size"] for path in Path("four").glob("*.png")}
    assert sizes == {4}


def test_the_ledger_can_be_lost_and_is_made_anew(sdapp: Run) -> None:
    sdapp("batch", write(PROMPTS[:3]), *FAST)
    before = ledger()
    (Path("night") / LEDGER).unlink()
    assert "3 done" in sdapp("batch", write(PROMPTS[:3]), *FAST).stderr
    assert [(row["id"], row["file"], row["status"]) for row in ledger()] == [
        (row["id"], row["file"], row["status"]) for row in before
    ]  # fmt: skip


def test_a_job_that_fails_is_kept_with_its_reason_and_the_rest_go_on(sdapp: Run) -> None:
    lines = ["a cat", "a tree --set clip_skip=9", "a ship"]
    result = sdapp("batch", write(lines), *FAST)
    assert result.exit_code == 3
    assert [row["status"] for row in ledger()] == ["done", "failed", "done"]
    assert "clip_skip" in ledger()[1]["error"]
    again = sdapp("batch", write(lines), *FAST)
    assert again.exit_code == 3
    assert "2 done, 1 failed before, 0 to paint" in again.stderr
    assert "1 to paint" in sdapp("batch", write(lines), *FAST, "--retry-failed").stderr
    mended = sdapp("batch", write(["a cat", "a tree", "a ship"]), *FAST)
    assert mended.exit_code == 0
    assert [row["status"] for row in ledger()] == ["done"] * 3


def test_prompts_may_come_from_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdapp.cli", "batch", "-", "--out", "night", "--seed", "7", "--set", "steps=1"]
    run = subprocess.run(command, cwd=tmp_path, input="a cat\na ship\n", capture_output=True, text=True, check=True)
    assert len(run.stdout.splitlines()) == 2


# --- kills --------------------------------------------------------------------------------------------------------


def start(folder: Path, out: str, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sdapp.cli", "batch", "prompts.txt", "--seed", "7", "--out", out, *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_a_batch_killed_again_and_again_ends_with_what_an_undisturbed_one_has(sdapp: Run) -> None:
    write([f"{prompt} --count 2" for prompt in PROMPTS])
    calm = sdapp("batch", "prompts.txt", "--seed", 7, "--set", "steps=3", "--out", "calm")
    assert calm.exit_code == 0
    chance = random.Random(0)
    kills = 0
    while True:
        run = start(Path(), "night", "--set", "steps=3")
        wanted = len(list(Path("night").glob("*.png"))) + chance.randint(1, 5)
        while run.poll() is None and len(list(Path("night").glob("*.png"))) < wanted:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        if run.poll() is not None:
            break
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += 1
        assert len(finished(Path("night"))) == len(list(Path("night").glob("*.png"))), "every picture under its name is whole"
    assert kills >= 3
    assert alike(pictures("night"), pictures("calm"))
    assert [row["id"] for row in ledger("night")] == [row["id"] for row in ledger("calm")]
    assert sorted(path.suffix for path in Path("night").iterdir() if path.suffix != ".png") == [".json", ".jsonl"]


def test_only_what_no_living_run_is_writing_is_swept_away(tmp_path: Path) -> None:
    from sdapp.leases import sweep
    from sdapp.outputs import this_host, unfinished

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ours, theirs = unfinished(tmp_path), tmp_path / ".sdapp-elsewhere-1-ab.part"
    dead, old = tmp_path / f".sdapp-{this_host()}-{ended.pid}-ab.part", tmp_path / ".sdapp-elsewhere-2-ab.part"
    for part in (ours, theirs, dead, old):
        part.touch()
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, theirs])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_batch_at_the_next_step_and_says_what_is_left(number: int, sdapp: Run) -> None:
    write(PROMPTS)
    run = start(Path(), "night", "--set", "steps=40")
    while not list(Path("night").glob("*.png")):
        time.sleep(0.01)
        assert run.poll() is None
    run.send_signal(number)
    stderr = run.communicate()[1].decode()
    assert run.returncode == 128 + number
    assert "run the same command again to go on" in stderr
    done = len(list(Path("night").glob("*.png")))
    assert f"{done} done, {len(PROMPTS) - done} left" in stderr
    assert not list(Path("night").glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file-size limits are POSIX's")
def test_a_full_disk_ends_with_74_and_nothing_half_written(sdapp: Run) -> None:
    import errno

    from sdapp.errors import DiskFullError
    from sdapp.outputs import publish

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(DiskFullError) as full:
            publish(b"x", Path(), "a", ".png")
    assert full.value.exit_code == 74
    assert list(Path().iterdir()) == []
