"""Schedulers as they are built for a model: its own choice is honoured, and diffusers warns of nothing."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from sdapp import schedulers
from sdapp.comparisons import analytic
from sdapp.diffusion import solvers
from sdapp.metadata.record import read_header

Tiny = Callable[..., Path]
TRAILING = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}


def paint(sdapp: Callable[..., Result], model: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """Paint one image; return what is inside it, and what was told."""
    done = sdapp(
        "generate", "a red house", "--model", model, "--seed", 7, "--steps", 1, "-g", 1, "--json", *arguments
    )
    assert done.exit_code == 0, done.output
    return read_header(Path(json.loads(done.stdout)["path"])), done.stderr


def brings(tiny: Tiny, folder: Path, own: dict[str, Any]) -> Path:
    """A tiny model with this in its scheduler_config.json."""
    model = Path(shutil.copytree(tiny(), folder / "model"))
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    return model


def test_trailing_timesteps_of_a_model_are_used(
    tiny: Tiny, tmp_path: Path, sdapp: Callable[..., Result]
) -> None:
    model = brings(tiny, tmp_path, TRAILING)
    (asked, told), (explicit, quiet), (own, own_told) = (
        paint(sdapp, model, *more)
        for more in (("--scheduler", "Euler a"), ("--scheduler", "euler-a-trailing"), ())
    )
    assert asked["job"]["scheduler"]["name"] == "euler-a-trailing"
    assert asked["record"]["job_id"] == explicit["record"]["job_id"]
    assert asked["record"]["scheduler_config"]["timestep_spacing"] == "trailing"
    assert "made for trailing timesteps, so euler-a-trailing is used" in told
    assert "trailing" not in quiet
    assert own["job"]["scheduler"]["name"] == "euler-trailing"
    assert "the model's own is used: euler-trailing" in own_told


def test_a_model_made_for_lcm_runs_with_it(tiny: Tiny, tmp_path: Path, sdapp: Callable[..., Result]) -> None:
    model = brings(tiny, tmp_path, {"_class_name": "LCMScheduler"})
    own, told = paint(sdapp, model)
    other, warned = paint(sdapp, model, "--scheduler", "euler")
    assert own["record"]["scheduler_class"] == "LCMScheduler"
    assert "the model's own is used: lcm" in told
    assert other["record"]["scheduler_class"] == "EulerDiscreteScheduler"
    assert "this model is made for lcm, and euler does not suit it" in warned


def test_the_deprecated_algorithm_is_built_without_a_warning() -> None:
    with warnings.catch_warnings(action="error"):
        built = solvers.build_scheduler(schedulers.resolve("dpm"), analytic.MODEL, ())
    assert built.config.algorithm_type == "dpmsolver"
