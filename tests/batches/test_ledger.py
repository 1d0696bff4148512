"""The ledger as a file that several runs and several versions write."""

import json
import os
from pathlib import Path

import pytest

import sdapp as package
from sdapp.batches.ledger import LEDGER_FILE, Line, append_line, read_ledger
from sdapp.outputs.files import overwrite


def test_fields_of_a_later_version_are_kept(tmp_path: Path) -> None:
    row = {"id": "ab", "status": "done", "file": "a.png", "prompt_line": 3, "stars": 5, "more": {"x": [1]}}
    (tmp_path / LEDGER_FILE).write_text(json.dumps(row) + "\n")
    [line], _ = read_ledger(tmp_path)
    assert (line.file, line.prompt_line) == ("a.png", 3)
    append_line(tmp_path, line)
    written = json.loads((tmp_path / LEDGER_FILE).read_text().splitlines()[1])
    assert {key: written[key] for key in row} == row


def test_what_is_no_line_is_left_out(tmp_path: Path) -> None:
    append_line(tmp_path, Line("ab", "failed", prompt_files=("prompts.txt",)))
    with (tmp_path / LEDGER_FILE).open("a") as file:
        file.write('[]\n{"id": 3, "status": "done"}\n{"id": "cd", "sta')
    append_line(tmp_path, Line("ef", "failed"))
    assert [(line.id, line.prompt_files) for line in read_ledger(tmp_path)[0]] == [
        ("ab", ("prompts.txt",)),
        ("ef", ()),
    ]


def test_a_ledger_is_read_on_from_a_place_and_anew_if_it_was_rewritten(tmp_path: Path) -> None:
    append_line(tmp_path, Line("ab", "done"))
    place = read_ledger(tmp_path)[1]
    append_line(tmp_path, Line("cd", "done"))
    assert [line.id for line in read_ledger(tmp_path, place)[0]] == ["cd"]
    lines = [Line(job_id, "done").encode() for job_id in ("ef", "ab", "cd", "gh")]  # longer than before
    overwrite(tmp_path / LEDGER_FILE, lines)
    assert [line.id for line in read_ledger(tmp_path, place)[0]] == ["ef", "ab", "cd", "gh"]


def test_a_line_that_another_run_adds_while_the_ledger_is_rewritten_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder, number, sync = tmp_path / "cats.txt", tmp_path / "night", iter(range(99)), os.fsync

    def slow_sync(handle: int) -> None:
        if (folder / LEDGER_FILE).exists():
            append_line(folder, Line(f"{next(number):012x}", "failed", prompt_files=("others.txt",)))
        sync(handle)

    file.write_text("a cat --seed 1 --steps 1\n")
    monkeypatch.setattr(os, "fsync", slow_sync)
    for _ in range(2):
        list(package.batch(file, output={"dir": folder}))
    found = [line.id for line in read_ledger(folder)[0] if line.status == "failed"]
    assert found == [f"{each:012x}" for each in range(next(number))]
    assert found
