"""The `compare:` of a config: which schedulers are compared, at which budgets, on what."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from sdapp import schedulers
from sdapp.errors import ConfigError
from sdapp.settings.ranges import numbers
from sdapp.settings.types import MAX_SEED, Frozen, Setting, Text


def _listed(value: object) -> object:
    """Turn `5,10,20-50:10` into a list; leave what is not text to the check of its type."""
    if isinstance(value, str):
        return numbers(value)
    if isinstance(value, list):
        return [number for item in value for number in (numbers(item) if isinstance(item, str) else [item])]
    return value


def _split_names(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _known_schedulers(names: list[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(schedulers.resolve(name).name)
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
    return _each_once(found)


def _each_once(values: list[Any]) -> list[Any]:
    if twice := [value for place, value in enumerate(values) if value in values[:place]]:
        raise ValueError(f"{twice[0]} stands there more than once")
    return values


def _budgets(budgets: list[int | float], grid: ValidationInfo) -> list[int | float]:
    """Refuse budgets that are not above zero, or that no scheduler can have."""
    seconds = grid.data.get("match") == "seconds"
    for budget in budgets:
        if budget <= 0:
            raise ValueError(f"budgets are above 0, which {budget} is not")
        if not seconds and (not isinstance(budget, int) or budget > MOST_STEPS):
            raise ValueError(f"whole numbers from 1 to {MOST_STEPS:,}, unless match is seconds, not {budget}")
    return _each_once(budgets)


def _reference(text: str) -> str:
    name, _, steps = text.rpartition("@")
    if not re.fullmatch("[1-9][0-9]{0,2}", steps):
        raise ValueError(f"write a reference as SCHEDULER@STEPS, such as dpm++2m-karras@200, not {text!r}")
    [name] = _known_schedulers([name])
    if schedulers.resolve(name).stochastic:
        raise ValueError(
            f"{name} adds noise in its steps, so it comes to no solution that others could be held against"
        )
    return f"{name}@{steps}"


MOST_STEPS = 1000


def _independent(references: list[str]) -> list[str]:
    if len({text.rpartition("@")[0] for text in references}) < len(references):
        raise ValueError("two references of one scheduler share their errors; name two schedulers")
    return references


Varied = Annotated[str | int | float | bool, Setting(expected="text, a number, true or false")]
Match = Literal["unet-calls", "steps", "seconds"]
Ranges = BeforeValidator(_listed, json_schema_input_type=str | list[int | float | str])
Schedulers = Annotated[
    list[str],
    BeforeValidator(_split_names, json_schema_input_type=str | list[str]),
    AfterValidator(_known_schedulers),
]


class Grid(Frozen):
    """What `sdapp compare` compares: schedulers at budgets, for every seed, prompt, and value of other keys."""

    schedulers: Annotated[
        Schedulers, Field(min_length=1, description="Names as `sdapp schedulers` knows them.")
    ]
    match: Annotated[
        Match,
        Field(
            description="What is equal within a column: the calls of the UNet, the steps, or the seconds an image."
        ),
    ] = "unet-calls"
    steps: Annotated[
        list[int | float],
        Ranges,
        Field(min_length=1, description="Budgets, in what `match` says; 5-50:5 is a range."),
        AfterValidator(_budgets),
    ] = [5, 10, 20, 50]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_SEED)]],
        Ranges,
        Field(
            min_length=1, description="Of the noise, which is the same for every scheduler; 1-8 is a range."
        ),
        AfterValidator(_each_once),
    ] = [1, 2, 3]
    prompts: Annotated[
        list[Text],
        Field(description="What to paint; else the prompt of the config."),
        AfterValidator(_each_once),
    ] = []
    vary: Annotated[
        dict[str, Annotated[list[Varied], Field(min_length=1), AfterValidator(_each_once)]],
        Field(description="Other keys and their values, such as guidance_scale: [3, 5, 7.5]."),
    ] = {}
    timings: Annotated[
        int, Field(ge=1, le=100, description="How often each image is timed; the median counts.")
    ] = 1
    references: Annotated[
        list[Annotated[str, AfterValidator(_reference)]],
        Field(
            min_length=2,
            max_length=2,
            description="Two independent solutions of many steps; errors are distances to the first.",
        ),
        AfterValidator(_independent),
    ] = ["dpm++2m-karras@200", "heun@100"]
