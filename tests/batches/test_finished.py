"""What a run learns, while it paints, of what other runs did in its folder."""

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdapp.batches.finished import Finished
from sdapp.batches.ledger import LEDGER_FILE, Line, append_line
from sdapp.outputs.files import overwrite


def image_of(folder: Path, job_id: str) -> Path:
    """An image with the record of a job."""
    info = PngInfo()
    info.add_text("sdapp", json.dumps({"job": {}, "record": {"job_id": job_id}}))
    Image.new("RGB", (8, 8)).save(folder / f"{job_id}.png", pnginfo=info)
    return folder / f"{job_id}.png"


def looking(folder: Path, **options: bool) -> Finished:
    """One that has just scanned its folder, and will not do so again soon."""
    found = Finished(folder, ".png", **options)
    found._scan_at += 3600
    return found


def test_between_scans_the_ledger_tells_what_other_runs_painted(tmp_path: Path) -> None:
    found = looking(tmp_path)
    image_of(tmp_path, "a" * 12)
    found.look()
    assert not found.done
    append_line(tmp_path, Line("a" * 12, "done", f"{'a' * 12}.png"))
    append_line(tmp_path, Line("b" * 12, "failed"))
    append_line(tmp_path, Line("c" * 12, "done", "gone.png"))
    found.look()
    assert (set(found.done), found.failed) == ({"a" * 12}, {"b" * 12})


def test_after_some_time_or_when_the_ledger_was_rewritten_the_folder_is_scanned(tmp_path: Path) -> None:
    append_line(tmp_path, Line("b" * 12, "failed"))
    found = looking(tmp_path)
    image_of(tmp_path, "a" * 12)  # whose line was lost
    overwrite(tmp_path / LEDGER_FILE, [])
    found.look()
    assert set(found.done) == {"a" * 12}
    image_of(tmp_path, "d" * 12)
    found.look()
    assert "d" * 12 not in found
    found._scan_at = 0
    found.look()
    assert "d" * 12 in found


def test_a_retry_stays_one_when_another_run_rewrites_the_ledger(tmp_path: Path) -> None:
    append_line(tmp_path, Line("b" * 12, "failed", error="memory"))
    found = looking(tmp_path, retry_failed=True)
    overwrite(tmp_path / LEDGER_FILE, [Line("b" * 12, "failed", prompt_line=3, error="memory").encode()])
    found.look()
    assert found.state("b" * 12) == "left"
    found.add("b" * 12, None)
    found.look()
    assert found.state("b" * 12) == "failed"


def test_a_name_that_was_only_reserved_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 12}.png"
    path.touch()
    found = looking(tmp_path)
    image_of(tmp_path, "a" * 12)
    found.refresh()
    assert set(found.done) == {"a" * 12}


def test_a_line_that_names_no_file_of_the_folder_marks_nothing_done(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image_of(tmp_path, "a" * 12)
    for name in (f"../{'a' * 12}.png", 5):
        append_line(tmp_path / "in", Line("a" * 12, "done", name))  # type: ignore[arg-type]
    assert not Finished(tmp_path / "in", ".png").done
