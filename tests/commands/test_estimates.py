"""What a run is expected to take, from what the last runs took."""

import json
from pathlib import Path

import pytest

from sdapp.commands.estimates import Estimate, History, duration
from sdapp.jobs import Job, LoadKey
from sdapp.models.locate import locate
from sdapp.planning import plan
from sdapp.records import Record, Result
from sdapp.settings.layers import Layer
from sdapp.validation import validate

CONFIG = validate(Layer({"prompt": "a cat", "steps": 20, "seed": 7}))
MODEL = locate(CONFIG.model)
LOAD = LoadKey.of(CONFIG, MODEL)


@pytest.fixture
def job() -> Job:
    return plan(CONFIG, MODEL)[0]


def run(folder: Path, job: Job, *seconds: float) -> None:
    """A run that paints an image in each of these seconds."""
    (folder / "image.png").write_bytes(b"x" * 1000)
    history = History(LOAD, folder / "history.json")
    for taken in seconds:
        record = Record(job.id, "", {}, "cpu", "float32", job.unet_calls, 1, taken, "", {})
        history.add(Result(job, 0, record, None, path=folder / "image.png"))
    history.save()


def estimate(folder: Path, job: Job, images: int) -> str:
    found = Estimate(History(LOAD, folder / "history.json"))
    for _ in range(images):
        found.add(job)
    return found.in_words(folder).split(" of ")[0]


def test_without_a_run_nothing_is_said(job: Job, tmp_path: Path) -> None:
    assert estimate(tmp_path, job, 1).startswith("time and disk unknown")


@pytest.mark.parametrize(
    ("runs", "images", "text"),
    [
        ([[0.02]], 20, "a few seconds, 20 kB"),
        ([[20, 21, 22]], 2, "about 42 s, 2 kB"),  # the mean of a run counts
        ([[20], [25]], 6, "about 2 min, 6 kB"),
        ([[20], [200], [30]], 6, "2 min to 20 min, 6 kB"),  # the machine was busy once
        ([[200], *[[20]] * 6], 6, "about 2 min, 6 kB"),  # which is forgotten
    ],
)
def test_the_estimate_is_the_range_of_the_last_runs(
    runs: list[list[float]], images: int, text: str, job: Job, tmp_path: Path
) -> None:
    for seconds in runs:
        run(tmp_path, job, *seconds)
    assert estimate(tmp_path, job, images) == text


def test_an_image_that_is_gone_before_it_is_counted_says_nothing(job: Job, tmp_path: Path) -> None:
    record = Record(job.id, "", {}, "cpu", "float32", job.unet_calls, 1, 20.0, "", {})
    history = History(LOAD, tmp_path / "history.json")
    history.add(Result(job, 0, record, None, path=tmp_path / "gone.png"))
    history.save()
    assert estimate(tmp_path, job, 1).startswith("time and disk unknown")


@pytest.mark.parametrize("content", ["", "[]", '{"KIND": 3}', '{"KIND": {"seconds": 1, "bytes": ["x"]}}'])
def test_a_broken_history_is_no_history(content: str, job: Job, tmp_path: Path) -> None:
    run(tmp_path, job, 20)
    [kind] = json.loads((tmp_path / "history.json").read_text())
    (tmp_path / "history.json").write_text(content.replace("KIND", json.dumps(kind)[1:-1]))
    assert estimate(tmp_path, job, 1).startswith("time and disk unknown")
    run(tmp_path, job, 20)
    assert "unknown" not in estimate(tmp_path, job, 1) or "bytes" in content


def test_durations_are_read_at_a_glance() -> None:
    assert [duration(seconds) for seconds in (0.123, 9.96, 40.4, 100, 12000)] == [
        "0.12 s", "10 s", "40 s", "2 min", "3 h 20 min",
    ]  # fmt: skip
