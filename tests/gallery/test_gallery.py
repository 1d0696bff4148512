"""`sdapp report` on a folder of images: what the page says, in which order, and what is kept from run to run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image

from conftest import POSTCARDS
from made_batches import FAILED, make_batch
from sdapp.api import plan_images
from sdapp.batches.prompt_file import PromptFile
from sdapp.prompts.files import read_prompts
from sdapp.prompts.txt import write_line
from sdapp.settings.layers import Layer

Sdapp = Callable[..., Result]
LINES = """\
a red house --seed 3 --n tree --s 12
# a comment
a {white|black} cat --count 3 --tag cats
a ship --cfg_scale 3|5 --sampler ddim
a \\{red\\} \\__house\\__ "so called", -- with dashes --seed 5
"""


def shown(folder: Path) -> list[dict[str, Any]]:
    page = (folder / "gallery.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text(LINES)
    make_batch(tmp_path / "prompts.txt", tmp_path / "night", failing=[5])
    return tmp_path / "night"


def test_a_batch_is_shown_in_the_order_of_its_file_with_failures_in_their_place(
    night: Path, sdapp: Sdapp
) -> None:
    done = sdapp("report", "night")
    assert (done.exit_code, done.stdout) == (0, "night/gallery.html\n")
    entries = shown(night)
    assert [entry["line"] for entry in entries] == [1, 3, 3, 3, 4, 4, 5]
    assert [entry.get("status") for entry in entries] == ["done"] * 6 + ["failed"]
    assert entries[-1]["message"] == FAILED
    assert entries[-1]["prompt"] == 'a {red} __house__ "so called", -- with dashes'
    assert [entry["file"][:7] for entry in entries[:6]] == [
        "0001-a-", "0003-1-", "0003-2-", "0003-3-", "0004-1-", "0004-2-",
    ]  # fmt: skip
    assert entries[0]["settings"] == {
        "scheduler": "dpm++2m-karras", "steps": "12", "guidance_scale": "7.5", "width": "64", "height": "64",
        "seed": "3", "negative_prompt": "tree",
    }  # fmt: skip
    assert entries[1]["labels"] == {"tag": "cats"}
    assert "thumbnail" not in entries[0]  # it is small itself


def test_the_line_that_is_copied_asks_for_the_same_image(night: Path, sdapp: Sdapp) -> None:
    sdapp("report", "night")
    (night / "again.txt").write_text("".join(f"{entry['copy']}\n" for entry in shown(night)[:6]))
    done = sdapp("batch", "night/again.txt", "--out", "night", "--dry-run")
    assert "6 images: 6 done" in done.stderr


@pytest.mark.parametrize(
    "prompt",
    ["a house", 'a "house"', "--steps 3", "a -s 20", " a ", "", "# a", "{a|b} __c__", "cat.png", "a\\{b", "a – b –steps 3"],
)  # fmt: skip
def test_a_written_line_is_read_as_it_was_meant(prompt: str, tmp_path: Path) -> None:
    job = {
        "prompt": prompt,
        "negative_prompt": "a, 'b' {c}",
        "seed": 7,
        "scheduler": {"name": "ddim", "options": {}},
    }
    (tmp_path / "f.txt").write_text(write_line(job) + "\n")
    (entry,) = read_prompts(tmp_path / "f.txt")
    escaped = re.sub(r"([{}]|__)", r"\\\1", prompt)
    assert entry.values == {
        "prompt": escaped, "negative_prompt": "a, 'b' \\{c\\}", "seed": 7, "scheduler.name": "ddim",
    }  # fmt: skip


def test_a_prompt_of_several_lines_is_written_as_json(tmp_path: Path) -> None:
    job = {"prompt": "a\nb", "seed": 7, "width": 64, "height": 32}
    (tmp_path / "f.jsonl").write_text(write_line(job) + "\n")
    (entry,) = read_prompts(tmp_path / "f.jsonl")
    assert entry.values == {"prompt": "a\nb", "seed": 7, "width": 64, "height": 32}


UPSCALE = {"scale": 1.5, "strength": 0.5, "scheduler": "ddim"}
SIDES = {"left": 8, "top": 16}


@pytest.mark.parametrize(
    "change",
    [
        {"upscale": UPSCALE},
        {"task": {"kind": "outpaint", "image": "house.png", "sides": SIDES}, "upscale": UPSCALE},
        {"task": {"kind": "upscale", "image": "house.png"}, "upscale": 2},
        {"original_size": [512, 640], "crop": [0, 8], "guidance_interval": [0, 0.5]},
        {
            "detail": [
                {"mask_prompt": "house", "prompt": 'a "blue" {house}', "strength": 0.5},
                {"mask_prompt": "hut"},
            ]
        },
        {"task": {"kind": "inpaint", "image": "house.png", "mask_prompt": "the house", "mask_growth": 2}},
    ],
)
def test_a_written_line_has_every_setting_of_the_image(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, house: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if house != tmp_path / "house.png":
        shutil.copy(house, "house.png")
    config = {"prompt": "a red house", "seed": 7, "steps": 10, **change}
    job = plan_images([Layer(config)]).work.jobs[0]
    Path("f.txt").write_text(write_line(job.to_data()) + "\n")
    assert [item.job.id for item in PromptFile.open(Path("f.txt"), []).items()] == [job.id]


def test_a_written_line_names_controlnets(tmp_path: Path) -> None:
    control = {"model": "./net", "image": "./dots.png", "scale": 0.5, "start": 0.0, "end": 0.8, "sha256": "0"}
    (tmp_path / "f.txt").write_text(write_line({"prompt": "a", "control": [control, control]}) + "\n")
    (entry,) = read_prompts(tmp_path / "f.txt")
    found = {
        "model": f"{tmp_path}/./net",
        "image": str(tmp_path / "dots.png"),
        "scale": 0.5,
        "start": 0,
        "end": 0.8,
    }
    assert entry.values["control"] == [found, found]


def test_thumbnails_are_made_once_and_go_with_their_images(tmp_path: Path, sdapp: Sdapp) -> None:
    (tmp_path / "prompts.txt").write_text("a house\na cat\n")
    results = make_batch(tmp_path / "prompts.txt", tmp_path / "night", side=512)
    thumbnails = tmp_path / "night" / "thumbnails"
    assert sdapp("report", "night").exit_code == 0
    first = {path: path.stat().st_mtime_ns for path in thumbnails.glob("*.webp")}
    assert [Image.open(path).size for path in first] == [(320, 320)] * 2
    assert sdapp("report", "night").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in thumbnails.glob("*.webp")} == first
    assert results[0].path
    results[0].path.unlink()
    assert sdapp("report", "night").exit_code == 0
    assert len([*thumbnails.glob("*.webp")]) == len(shown(tmp_path / "night")) == 1


def test_what_has_no_settings_is_left_out_and_counted(night: Path, sdapp: Sdapp) -> None:
    Image.new("RGB", (8, 8)).save(night / "plain.png")
    (night / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (night / "ledger.jsonl").unlink()  # as in a folder of `sdapp generate`
    done = sdapp("report", "night", "--json")
    assert "note: 2 images without settings inside left out" in done.stderr
    assert json.loads(done.stdout) == {"path": "night/gallery.html", "images": 6, "failed": 0, "unread": 2}


def test_other_folders_are_refused_with_what_is_missing(tmp_path: Path, sdapp: Sdapp) -> None:
    (tmp_path / "empty").mkdir()
    done = sdapp("report", "empty")
    assert done.exit_code == 65
    assert "empty: has no images, no ledger.jsonl of a batch and no comparison.json" in done.stderr
    done = sdapp("report", "nowhere")
    assert done.exit_code == 66
    assert "nowhere: there is no such folder" in done.stderr


def test_texts_cannot_leave_their_script(tmp_path: Path, sdapp: Sdapp) -> None:
    (tmp_path / "prompts.txt").write_text("a house </script><script>alert(1)</script> & \u2028 <!--\n")
    make_batch(tmp_path / "prompts.txt", tmp_path / "night")
    assert sdapp("report", "night").exit_code == 0
    page = (tmp_path / "night" / "gallery.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert (
        shown(tmp_path / "night")[0]["prompt"] == "a house </script><script>alert(1)</script> & \u2028 <!--"
    )


# --- lists of images, as the page saves them ---------------------------------------------------------------------


def test_a_list_of_images_is_a_prompt_file(night: Path, sdapp: Sdapp) -> None:
    images = sorted(night.glob("*.png"))
    (night.parent / "starred.txt").write_text(
        "# 6 starred images\n" + "".join(f"{path}\n" for path in images)
    )
    done = sdapp("batch", "starred.txt", "--out", "night", "--dry-run")
    assert "6 images: 6 done" in done.stderr
    (night.parent / "more.txt").write_text(f"night/{images[0].name} --steps 30 --size 32x32\n")
    done = sdapp("batch", "more.txt", "--out", "other", "--dry-run", "--json")
    job = json.loads(done.stdout)["job"]
    assert (job["steps"], job["width"], job["seed"]) == (30, 32, 3)
    assert (job["prompt"], job["negative_prompt"]) == ("a red house", "tree")


def test_a_line_that_ends_like_an_image_is_no_prompt(night: Path, sdapp: Sdapp) -> None:
    (night.parent / "list.txt").write_text("night/gone.png\n")
    done = sdapp("batch", "list.txt", "--out", "night", "--dry-run")
    assert done.exit_code == 2
    assert "error: list.txt:1:1: image: cannot read " in done.stderr
    assert 'give a prompt as --prompt "…"' in done.stderr


def test_images_of_another_model_are_refused(night: Path, sdapp: Sdapp, tmp_path: Path) -> None:
    image = min(night.glob("*.png"))
    (tmp_path / "other-model").symlink_to(POSTCARDS)
    (night.parent / "list.txt").write_text(f"{image}\n")
    done = sdapp("batch", "list.txt", "--model", "./other-model", "--out", "other", "--dry-run")
    assert done.exit_code == 2
    assert "the image was made with model postcards, but this batch has " in done.stderr


def test_replay_says_which_image_of_a_list_is_missing(night: Path, sdapp: Sdapp) -> None:
    (night / "starred.txt").write_text("# a list\ngone.png\n")
    done = sdapp("replay", "night/starred.txt")
    assert done.exit_code == 66
    assert "night/gone.png" in done.stderr
    assert sdapp("replay", "night/none.txt").exit_code == 66
