"""What a batch does with lines that have errors, and which names and seeds its images get."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from made_batches import make_batch

Sdapp = Callable[..., Result]
BAD = "prompt,steps,image\na cat,1,\na white tree,x,\na ship,4,gone.png\n,1,\na tree,1,\n"


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def test_what_is_right_is_painted_and_the_rest_is_in_the_ledger(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(BAD)
    refused = sdapp("batch", "p.csv", "--out", "night")
    assert refused.exit_code == 2
    assert "note: --skip-invalid paints the lines that are right" in refused.stderr
    assert not (tmp_path / "night").exists()
    done = sdapp("batch", "p.csv", "--out", "night", "--seed", "1", "--skip-invalid")
    assert done.exit_code == 3
    assert "error: 3 lines of the prompt file skipped" in done.stderr
    assert done.stderr.count("note: skipped: p.csv:3: steps: must be a whole number") == 1
    rows = ledger(tmp_path / "night")
    assert [(row["prompt_line"], row["status"]) for row in rows] == [
        (2, "done"), (3, "invalid"), (4, "invalid"), (5, "invalid"), (6, "done"),
    ]  # fmt: skip
    assert "gone.png" in rows[2]["error"]
    assert rows[3]["error"] == "p.csv:5: prompt: there is none; give one in the line or in the config"
    assert rows[1]["id"] == "../p.csv:3"
    again = sdapp("batch", "p.csv", "--out", "night", "--skip-invalid")
    assert (again.exit_code, again.stdout) == (3, "")
    assert ledger(tmp_path / "night") == rows
    (tmp_path / "p.csv").write_text(BAD.replace("x", "1").replace("gone.png", "").replace("\n,1,", ""))
    mended = sdapp("batch", "p.csv", "--out", "night")
    assert mended.exit_code == 0
    assert [(row["prompt_line"], row["status"]) for row in ledger(tmp_path / "night")] == [
        (number, "done") for number in range(2, 6)
    ]


def test_a_file_without_any_right_line_is_refused(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,steps\na tree,x\n")
    done = sdapp("batch", "p.csv", "--out", "night", "--skip-invalid")
    assert done.exit_code == 2
    assert "p.csv:2: steps: must be a whole number" in done.stderr
    assert "paints the lines that are right" not in done.stderr


def test_the_page_shows_skipped_lines_in_their_place(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(BAD)
    (tmp_path / "good.csv").write_text("prompt,steps\na cat,1\n")
    make_batch(tmp_path / "good.csv", tmp_path / "night")
    (tmp_path / "night" / "ledger.jsonl").write_text(
        '{"id": "p.csv:3", "status": "invalid", "prompt_line": 3, "error": "p.csv:3: steps: wrong"}\n'
    )
    done = sdapp("report", "night", "--json")
    assert json.loads(done.stdout)["failed"] == 1
    assert "p.csv:3: steps: wrong" in (tmp_path / "night" / "gallery.html").read_text()


def test_a_dry_run_has_the_seeds_and_choices_of_the_run(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a {red|white|black} cat --count 3 --steps 1\na tree --steps 1\n")
    planned = [
        json.loads(line)
        for line in sdapp("batch", "p.txt", "--out", "night", "--dry-run", "--json").stdout.splitlines()
    ]
    assert {"{red|white|black}"} == set(planned[0]["choices"])
    again = sdapp("batch", "p.txt", "--out", "night", "--dry-run", "--json").stdout.splitlines()
    assert [json.loads(line) for line in again] == planned
    done = sdapp("batch", "p.txt", "--out", "night", "--json")
    assert [json.loads(line)["job"] for line in done.stdout.splitlines()] == [each["job"] for each in planned]
    assert not [path for path in (tmp_path / "night").iterdir() if "dry-run" in path.name]


def test_a_seed_may_be_given_after_a_dry_run(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a tree\n")
    sdapp("batch", "p.txt", "--out", "night", "--dry-run")
    done = sdapp("batch", "p.txt", "--out", "night", "--seed", "5", "--dry-run")
    assert done.exit_code == 0


def test_names_sort_like_the_file(tmp_path: Path) -> None:
    lines = [
        "a cat --count 11",
        *(f"a tree {number}" for number in range(3)),
        "a ship --cfg_scale {all:3|5|7}",
    ]
    (tmp_path / "p.txt").write_text("".join(f"{line} --seed 7\n" for line in lines))
    results = make_batch(tmp_path / "p.txt", tmp_path / "night")
    made = [result.path.name for result in results if result.path]
    assert made == names(tmp_path / "night")
    assert made[0] == "0001-01-a-cat-7.png"
    assert made[11:] == [
        "0002-a-tree-0-7.png", "0003-a-tree-1-7.png", "0004-a-tree-2-7.png",
        "0005-1-a-ship-7.png", "0005-2-a-ship-7.png", "0005-3-a-ship-7.png",
    ]  # fmt: skip


def test_the_number_of_a_line_has_as_many_digits_as_the_file_needs(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n" + "\n" * 20_000 + "a tree\n")
    made = [result.number for result in make_batch(tmp_path / "p.txt", tmp_path / "night")]
    assert made == ["00001", "20002"]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{filename}", "my-cat.png"),
        ("{tag}-{id}-{line}", "pets-7a-0002.png"),
        ("{id}", "7a.png"),
    ],
)
def test_columns_in_names(template: str, name: str, sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,filename,tag,id,steps\na cat,my cat.png,pets,7a,1\n")
    sdapp("batch", "p.csv", "--out", "night", "--set", f"output.name={template}")
    assert names(tmp_path / "night") == [name]
    shown = json.loads(sdapp("show", f"night/{name}", "--json").stdout)
    assert shown["labels"] == {"filename": "my cat.png", "tag": "pets", "id": "7a"}


def test_a_folder_with_names_of_before_is_continued(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat --count 2 --steps 1\n")
    results = make_batch(tmp_path / "p.txt", tmp_path / "night")
    old = results[0].path
    assert old
    old.rename(old.with_name(f"a-cat-{results[0].job.seed}-{results[0].job.id}.png"))
    before = names(tmp_path / "night")
    done = sdapp("batch", "p.txt", "--out", "night", "--size", "64x64")
    assert (done.exit_code, done.stdout) == (0, "")
    assert names(tmp_path / "night") == before
