"""The ledger as a file that several runs and several versions write."""

import json
import os
from pathlib import Path

import pytest

import sdapp as package
from sdapp.batches.ledger import LEDGER_FILE, LastLines, Ledger, Line, append_line, read_ledger
from sdapp.outputs.files import overwrite


def test_fields_of_a_later_version_are_kept(tmp_path: Path) -> None:
    row = {"id": "ab", "status": "done", "file": "a.png", "prompt_line": 3, "stars": 5, "more": {"x": [1]}}
    (tmp_path / LEDGER_FILE).write_text(json.dumps(row) + "\n")
    [line] = read_ledger(tmp_path)
    assert (line.file, line.prompt_line) == ("a.png", 3)
    append_line(tmp_path, line)
    written = json.loads((tmp_path / LEDGER_FILE).read_text().splitlines()[1])
    assert {key: written[key] for key in row} == row


def test_what_is_no_line_is_left_out(tmp_path: Path) -> None:
    append_line(tmp_path, Line("ab", "failed", prompt_files=("prompts.txt",)))
    with (tmp_path / LEDGER_FILE).open("a") as file:
        file.write('[]\n{"id": 3, "status": "done"}\n{"id": "cd", "sta')
    append_line(tmp_path, Line("ef", "failed"))
    assert [(line.id, line.prompt_files) for line in read_ledger(tmp_path)] == [
        ("ab", ("prompts.txt",)),
        ("ef", ()),
    ]


def test_a_ledger_is_read_on_from_a_place_and_anew_if_it_was_rewritten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert [*ledger.lines()] == []
    append_line(tmp_path, Line("ab", "done"))
    assert [line.id for _, line in ledger.lines()] == ["ab"]
    append_line(tmp_path, Line("cd", "done"))
    with (tmp_path / LEDGER_FILE).open("ab") as file:
        file.write(b'{"id": "xy", "sta')  # another run is writing it
    assert [line.id for _, line in ledger.lines()] == ["cd"]
    assert not ledger.has_more()
    lines = [Line(job_id, "done").encode() for job_id in ("ef", "ab", "cd", "gh")]  # longer than before
    overwrite(tmp_path / LEDGER_FILE, lines)
    assert [line.id for _, line in ledger.lines()] == ["ef", "ab", "cd", "gh"]
    assert ledger.is_rewritten


def test_only_the_last_line_of_a_job_counts(tmp_path: Path) -> None:
    for job_id, status in (("ab", "failed"), ("cd", "done"), ("ab", "done"), ("ef", "failed")):
        append_line(tmp_path, Line(job_id, status))
    asked = {"ab": 0, "xy": 1}
    with LastLines(Ledger(tmp_path), asked.get, len(asked)) as lines:
        assert (lines.asked(0), lines.asked(1)) == (Line("ab", "done"), None)
        assert [line.id for line in lines.others()] == ["cd", "ef"]


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
    found = [line.id for line in read_ledger(folder) if line.status == "failed"]
    assert found == [f"{each:012x}" for each in range(next(number))]
    assert found
