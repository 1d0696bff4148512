"""Settings that have no effect are told before anything is painted, in every command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import sdapp as api
from sdapp.errors import ConfigError
from sdapp.notes import MAX_LINE_NOTES, LineNotes

Run = Callable[..., Result]
UNGUIDED = {"negative_prompt": "a tree", "guidance_scale": 1}
NO_NEGATIVE = "negative_prompt has no effect at a guidance_scale of 1 or below"


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({}, []),
        ({"negative_prompt": "a tree", "guidance_interval": [0.4, 0.6], "cache_interval": 2}, []),
        (UNGUIDED, [NO_NEGATIVE]),
        (
            {"guidance_interval": [0, 0.5], "guidance_scale": 0},
            ["guidance_interval has no effect at a guidance_scale of 1 or below"],
        ),
        (
            {"guidance_interval": [0.6, 0.9], "steps": 2},
            ["guidance_scale has no effect if no UNet call is in the guidance_interval"],
        ),
        ({"guidance_interval": [0.6, 0.9], "steps": 2, "scheduler": "heun"}, []),  # three calls
        ({"cache_interval": 2, "steps": 1}, ["cache_interval has no effect with a single UNet call"]),
        ({"cache_interval": 2, "compile": "on"}, ["compile has no effect with a cache_interval above 1"]),
        ({"output": {"quality": 90}}, ["output.quality has no effect on PNG, which is lossless"]),
        ({"output": {"quality": 90, "format": "webp"}}, []),
    ],
)
def test_settings_without_effect_are_told(settings: dict[str, Any], notes: list[str]) -> None:
    told: list[str] = []
    api.stream("a cat", on_note=told.append, **settings).close()
    assert [note for note in told if "no effect" in note] == notes


def test_a_clip_skip_that_leaves_no_layer_is_refused_before_the_model_is_loaded(sdapp: Run) -> None:
    refused = "clip_skip: the text encoder of postcards has 2 layers; at most 1"
    with pytest.raises(ConfigError, match=refused):
        api.generate("a cat", clip_skip=2)
    Path("cats.txt").write_text("a cat\na cat --clip-skip 5\n")
    result = sdapp("batch", "cats.txt", "--seed", 1, "--dry-run")
    assert result.exit_code == 2
    assert "\nerror: cats.txt:2: clip_skip" in result.stderr
    assert refused in result.stderr


def test_sdxl_has_no_clip_skip_of_one(tiny: Callable[..., Path]) -> None:
    told: list[str] = []
    for skip in (1, 2):
        model = tiny(is_xl=True)
        api.stream("a cat", clip_skip=skip, model=model, on_note=told.append).close()
    assert told == ["clip_skip has no effect if it is 1: this model always skips the last layer"]


def test_a_batch_tells_each_note_once_with_its_lines(sdapp: Run) -> None:
    Path("cats.txt").write_text(
        "a cat\na cat --n tree --l 1\na ship --n tree --l 0.5\na zebra on a beach --count 2\n"
    )
    result = sdapp("batch", "cats.txt", "--seed", 1, "--dry-run")
    assert f"note: line 2 (and 1 more): {NO_NEGATIVE}\n" in result.stderr
    assert "note: line 4: postcards does not know: zebra" in result.stderr
    told: list[str] = []
    api.batch("cats.txt", seed=1, output={"dir": "cats"}, on_note=told.append).close()
    assert told[0] == f"line 2 (and 1 more): {NO_NEGATIVE}"
    assert len(told) == 2


def test_a_long_file_does_not_give_a_note_for_every_line() -> None:
    notes = LineNotes()
    for line in range(MAX_LINE_NOTES + 3):
        notes.add(line, [f"note {line}"])
    assert [*notes.texts()][MAX_LINE_NOTES - 1 :] == ["line 19: note 19", "and 3 more notes on lines"]


def test_a_comparison_counts_both_references_and_tells_what_it_does_not_use(sdapp: Run) -> None:
    words = ("compare", "a cat", "--schedulers", "ddim", "--steps", 5, "--set", "seed=3", "--dry-run")
    result = sdapp(*words, "--set", "compare.seeds=[1,2]")
    assert "note: --set seed=3: has no effect in a comparison; use compare.seeds\n" in result.stderr
    assert "note: 2 cells and 4 reference images: 6 images, 0 done" in result.stderr


def test_truth_tells_what_it_does_not_use(sdapp: Run) -> None:
    words = ("compare", "--truth", "--schedulers", "ddim", "--steps", 2)
    assert sdapp(*words).stderr == ""
    result = sdapp(*words, "a cat", "--seeds", 1, "--model", "postcards")
    assert result.stderr == "note: no effect with --truth: compare.prompts, compare.seeds, model\n"
    assert result.stdout == sdapp(*words).stdout
