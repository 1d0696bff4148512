"""The front doors for Python, which print nothing and change nothing of the process."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

import sdapp as package
from sdapp.batches.executors import LocalExecutor, load_painter
from sdapp.errors import ConfigError
from sdapp.jobs import Work
from sdapp.models.model import Model

if TYPE_CHECKING:
    from sdapp.pipelines import Painter

Run = Callable[..., Result]
CAT = {"prompt": "a cat", "steps": 1, "seed": 7}
WITH_LORA = "a house <lora:x:1>\nSteps: 1, Sampler: Euler a, CFG scale: 5, Seed: 9, Size: 64x64"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def loads() -> tuple[LocalExecutor, list[Work]]:
    """An executor, and the work that it has loaded a model for."""
    loaded: list[Work] = []

    def load(work: Work, model: Model) -> "Painter":
        loaded.append(work)
        return load_painter(work, model)

    return LocalExecutor(loader=load), loaded


def test_a_step_hook_sees_every_step_and_a_note_hook_every_note_once() -> None:
    steps, notes = [], []
    settings = CAT | {"prompt": "a dragon on a beach", "steps": 2, "count": 2}
    results = package.stream(on_step=lambda *step: steps.append(step), on_note=notes.append, **settings)
    assert [result.job.seed for result in results] == [7, 8]
    assert steps == [(0, 1, 1, 2), (0, 1, 2, 2), (1, 1, 1, 2), (1, 1, 2, 2)]
    assert [note.partition(":")[0] for note in notes] == ["postcards does not know"]


def test_settings_are_checked_before_the_first_turn_of_the_loop() -> None:
    with pytest.raises(ConfigError, match="stpes"):
        package.stream("a cat", stpes=2)


def test_a_million_images_begin_at_once() -> None:
    package.generate(**CAT)  # torch is imported
    started = time.perf_counter()
    first = next(package.stream(count=1_000_000, **CAT))
    assert first.error is None
    assert time.perf_counter() - started < 5  # planning them all took 20 s


def test_an_executor_is_used_for_several_runs_and_loads_once(loads: tuple[LocalExecutor, list[Work]]) -> None:
    executor, loaded = loads
    one = package.generate(executor=executor, **CAT)
    Path("prompts.txt").write_text("a cat --d 7\n")
    [two] = package.batch("prompts.txt", executor=executor, steps=1)
    assert one.image.tobytes() == two.image.tobytes()
    assert two.path is not None
    assert [work.load.model for work in loaded] == ["postcards"]


def test_images_are_painted_again_with_their_own_settings_or_with_others() -> None:
    Path("prompts.txt").write_text("a cat\na ship\n")
    painted = list(package.batch("prompts.txt", steps=1, seed=7))
    paths = [result.path for result in painted]
    again = list(package.replay(*paths))
    assert [result.source for result in again] == paths
    assert [result.job.id for result in again] == [result.job.id for result in painted]
    assert [result.job.steps for result in package.replay(*paths, steps=2)] == [2, 2]


def test_a_comparison_in_seconds_loads_its_model_once_and_knows_no_command(
    loads: tuple[LocalExecutor, list[Work]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "--secret"])
    executor, loaded = loads
    found = package.compare(
        "a house", schedulers=["ddim"], steps=[5], seeds=[1], match="seconds",
        references=["dpm++2m-karras@4", "heun@2"], executor=executor, **{"width": 64, "height": 64},
    )  # fmt: skip
    assert len(loaded) == 1
    assert json.loads(Path("comparison/paces.json").read_text()).keys() == {"ddim"}
    assert found.command == ""
    assert found.cells[0].status in ("done", "failed")


def test_notes_of_a_foreign_image_are_given_at_every_door() -> None:
    info = PngInfo()
    info.add_text("parameters", WITH_LORA)
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    notes: list[str] = []
    assert len(list(package.replay("theirs.png", on_note=notes.append))) == 1
    assert sum("not carried over: LoRA" in note for note in notes) == 1


def test_painting_changes_nothing_of_the_process() -> None:
    code = """
import gc, logging, os
import diffusers, transformers
from diffusers.utils import logging as of_diffusers
from transformers.utils import logging as of_transformers
import sdapp

def state():
    levels = [module.get_verbosity() for module in (of_diffusers, of_transformers)]
    bars = [of_transformers.is_progress_bar_enabled(), of_diffusers.is_progress_bar_enabled()]
    return dict(os.environ), levels, bars, gc.isenabled(), gc.get_freeze_count(), logging.root.level

before = state()
assert sdapp.generate('a cat', steps=1, seed=7).error is None
after = state()
assert after[0] == before[0], 'the environment'
assert after == before, (after[1:], before[1:])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert "it/s" not in run.stderr  # no progress bars


def test_the_old_names_still_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"sdapp\.generate"):
        [result] = package.paint(**CAT)
    assert result.job.seed == 7
    Path("prompts.txt").write_text("a cat\n")
    with pytest.warns(DeprecationWarning, match=r"sdapp\.batch"):
        [result] = package.paint_file("prompts.txt", steps=1, seed=7)
    assert result.path is not None
