"""The columns of a colleague's table: other spellings, columns that are no settings, values that vary."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from sdapp.errors import ConfigError
from sdapp.prompts.files import Entry, read_prompts
from sdapp.prompts.variants import checked_entries

Sdapp = Callable[..., Result]


def entries(folder: Path, text: str, suffix: str = ".csv") -> list[Entry]:
    (folder / f"f{suffix}").write_text(text, encoding="utf-8")
    return [entry for entry, _ in checked_entries(read_prompts(folder / f"f{suffix}"), [])]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("cfg", "guidance_scale"),
        ("CFG", "guidance_scale"),
        ("CFG Scale", "guidance_scale"),
        ("cfg-scale", "guidance_scale"),
        ("CFGScale", "guidance_scale"),
        ("guidanceScale", "guidance_scale"),
        ("Negative Prompt", "negative_prompt"),
        ("NegativePrompt", "negative_prompt"),
        ("negative-prompt", "negative_prompt"),
        ("Denoising Strength", "task.strength"),
        ("STEPS", "steps"),
        ("Sampler Name", "scheduler.name"),
    ],
)
def test_known_columns_are_known_in_every_spelling(name: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"prompt,{name}\na cat,5\n")
    (entry,) = read_prompts(tmp_path / "f.csv")
    assert key in entry.values


def test_other_columns_are_kept_and_change_no_seed(tmp_path: Path) -> None:
    (more,) = entries(tmp_path, "prompt,Tag,ID,File Name,comment,tags\na cat,x|y,007,cat.png,so 1|2,\n")
    (plain,) = entries(tmp_path, "prompt\na cat\n")
    assert more.labels == {"tag": "x|y", "id": "007", "filename": "cat.png", "comment": "so 1|2"}
    assert (more.values, more.content) == (plain.values, plain.content)
    (item,) = entries(tmp_path, '{"prompt": "a cat", "id": 7, "meta": {"by": "me"}}\n', ".jsonl")
    assert item.labels == {"id": "7", "meta.by": "me"}
    (line,) = entries(tmp_path, "a cat --tag x --f cat\n", ".txt")
    assert line.labels == {"tag": "x", "filename": "cat"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("stepz", "stepz: unknown key, did you mean steps?"),
        ("promt2,prompts", "promt2: unknown key, did you mean prompt?"),
        ("styles", "styles: sdapp has no styles"),
        ("Tag,tag", "tag: is a second column for tag; keep one"),
    ],
)
def test_what_looks_like_a_typo_is_refused(header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        entries(tmp_path, f"prompt,{header}\na cat,,\n")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "key", "values"),
    [
        ("a cat --cfg_scale {all:3|5|7}", "guidance_scale", [3, 5, 7]),
        ("a cat --sampler {all:ddim|unipc}", "scheduler.name", ["ddim", "unipc"]),
        (
            "a cat --size {all:64x64|64x32}",
            "size",
            [{"width": 64, "height": 64}, {"width": 64, "height": 32}],
        ),
        ("a cat --guidance_interval {all:0..0.5|0..1}", "guidance_interval", ["0..0.5", "0..1"]),
        ("a cat --image {all:a|b}.png", "task.image", ["a.png", "b.png"]),
    ],
)
def test_every_value_of_any_field(line: str, key: str, values: list[object], tmp_path: Path) -> None:
    found = [entry.values[key] for entry in entries(tmp_path, line + "\n", ".txt")]
    assert [Path(each).name if key == "task.image" else each for each in found] == values  # type: ignore[arg-type]


def test_every_value_in_json_as_well(tmp_path: Path) -> None:
    found = entries(tmp_path, '{"prompt": "a {all:cat|tree}", "steps": "{all:3|5}"}\n', ".jsonl")
    assert [(each.values["prompt"], each.values["steps"]) for each in found] == [
        ("a cat", 3), ("a cat", 5), ("a tree", 3), ("a tree", 5),
    ]  # fmt: skip


def test_a_choice_outside_prompts_is_one_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        entries(tmp_path, "a cat --steps {3|5|7}\n", ".txt")
    assert str(refused.value).count("\n") == 0
    assert "{all:3|5|7} makes an image of each" in str(refused.value)


def test_what_is_allowed_is_listed_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        entries(tmp_path, "a --zzz 1\nb --qqq 2\nc --vvv 3\n", ".txt")
    rows = str(refused.value).splitlines()
    assert [row.count("; allowed: ") for row in rows] == [1, 0, 0]
    assert rows[2].endswith("--vvv: unknown option")
    assert "--sampler" not in rows[0]  # another name of --scheduler


def test_what_is_allowed_in_a_config_is_listed_once(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("zzz: 1\nqqq: 2\nvvv: 3\n")
    done = sdapp("config", "check", "bad.yaml")
    assert done.output.count("allowed here: ") == 1
    assert done.output.count("unknown key") == 3


def test_one_hyphen_is_answered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        entries(tmp_path, "a tree -s 20\nan ice-cold -looking lake, -ve side\n", ".txt")
    assert str(refused.value).endswith(
        "f.txt:1:8: -s: an option has two hyphens; write --s, or put a space after the dash if it belongs to the text"
    )


def test_the_dry_run_names_columns_that_are_no_settings(sdapp: Sdapp, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,tag,comment\na cat,x,nice\na tree,y,bad\n")
    done = sdapp(
        "batch", "p.csv", "--out", "night", "--dry-run", "--json", "--set", "output.name={tag}-{line}"
    )
    assert done.stderr.count("not a setting") == 1
    assert "line 2 (and 1 more): not a setting, kept as it is in the images: comment\n" in done.stderr
    assert [json.loads(line)["labels"]["tag"] for line in done.stdout.splitlines()] == ["x", "y"]
