"""The `compare:` of a config: what is honoured, and errors that name the place and the mend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from sdapp.errors import ConfigError
from sdapp.settings.files import parse_yaml
from sdapp.settings.grid import Grid
from sdapp.settings.layers import Layer
from sdapp.validation import validate

Run = Callable[..., Result]


def grid(**settings: Any) -> Grid:
    found = validate(Layer({"compare": {"schedulers": ["ddim"]} | settings})).compare
    assert found
    return found


def test_names_become_canonical_and_ranges_lists() -> None:
    found = grid(schedulers="DPM++ 2M Karras, k_lms,PLMS", steps="5-15:5", seeds=["1-3", 9])
    assert found.schedulers == ["dpm++2m-karras", "lms", "pndm"]
    assert (found.steps, found.seeds) == ([5, 10, 15], [1, 2, 3, 9])
    assert grid(references=["k_heun@50", "DPM++ 2M Karras@99"]).references == ["heun@50", "dpm++2m-karras@99"]


def test_seconds_may_have_fractions() -> None:
    assert grid(match="seconds", steps=[0.5, 2]).steps == [0.5, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedulers: [ddin]", "a.yaml:2:3: compare.schedulers: no scheduler 'ddin', did you mean 'ddim'"),
        ("schedulers: [pndm, PLMS]", "a.yaml:2:3: compare.schedulers: pndm is in the list more than once"),
        ("schedulers: []", "a.yaml:2:3: compare.schedulers: must have 1 or more values, not []"),
        ("scheduler: [ddim]", "a.yaml:2:3: compare.scheduler: unknown key, did you mean 'schedulers'?"),
        ("schedulers: ddim\n  steps: [0]", "a.yaml:3:3: compare.steps: budgets must be above 0, not 0"),
        (
            "schedulers: ddim\n  steps: [2.5]",
            "compare.steps: whole numbers from 1 to 1,000, unless match is seconds, not 2.5",
        ),
        ("schedulers: ddim\n  steps: [2000]", "compare.steps: whole numbers from 1 to 1,000"),
        ("schedulers: ddim\n  steps: 5,5", "a.yaml:3:3: compare.steps: 5 is in the list more than once"),
        ("schedulers: ddim\n  steps: 5-x", "a.yaml:3:3: compare.steps: '5-x' is no number and no range"),
        ("schedulers: ddim\n  seeds: [1, 1]", "a.yaml:3:3: compare.seeds: 1 is in the list more than once"),
        (
            "schedulers: ddim\n  seeds: [-1]",
            "compare.seeds.0: must be 0 or more, not -1",
        ),
        (
            "schedulers: ddim\n  prompts: [a cat, a cat]",
            "compare.prompts: a cat is in the list more than once",
        ),
        ("schedulers: ddim\n  vary: {eta: []}", "compare.vary.eta: must have 1 or more values, not []"),
        ("schedulers: ddim\n  vary: {eta: [1, 1]}", "compare.vary.eta: 1 is in the list more than once"),
        (
            "schedulers: ddim\n  match: second",
            "a.yaml:3:3: compare.match: must be 'unet-calls', 'steps' or 'seconds'",
        ),
        (
            "schedulers: ddim\n  timings: 0",
            "a.yaml:3:3: compare.timings: must be 1 or more",
        ),
        (
            "schedulers: ddim\n  references: [heun@20]",
            "compare.references: must have 2 or more values, not ['heun@20']",
        ),
        (
            "schedulers: ddim\n  references: [heun@20, heun@30]",
            "compare.references: two references of one scheduler",
        ),
        (
            "schedulers: ddim\n  references: [heun, ddim@9]",
            "compare.references.0: write a reference as SCHEDULER@STEPS",
        ),
        (
            "schedulers: ddim\n  references: [ddim@9, euler a@9]",
            "compare.references.1: euler-a adds noise in its steps",
        ),
    ],
)
def test_errors_name_the_place_and_the_mend(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(parse_yaml(f"compare:\n  {text}\n", "a.yaml"))
    assert message in str(caught.value)


@pytest.mark.parametrize("command", [["generate"], ["batch", "prompts.txt"]])
def test_other_commands_refuse_the_config_of_a_comparison(command: list[str], sdapp: Run) -> None:
    Path("grid.yaml").write_text("prompt: a house\ncompare: {schedulers: [ddim]}\n", encoding="utf-8")
    Path("prompts.txt").write_text("a house\n", encoding="utf-8")
    result = sdapp(*command, "--config", "grid.yaml")
    assert result.exit_code == 2
    assert "compare: this config is for `sdapp compare`" in result.stderr
    assert not list(Path().glob("outputs*/*.png"))
