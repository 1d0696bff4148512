"""The `compare:` of a config: which schedulers are compared, at which budgets, on what."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sdapp import schedulers
from sdapp.errors import ConfigError
from sdapp.ranges import numbers
from sdapp.strict import Frozen, Text


def _listed(value: object) -> object:
    """`5,10,20-50:10` as a list; what is no text is left to the check of its type."""
    if isinstance(value, str):
        return numbers(value)
    if isinstance(value, list):
        return [number for item in value for number in (numbers(item) if isinstance(item, str) else [item])]
    return value


def _named(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _known_schedulers(names: list[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(schedulers.resolve(name).name)
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} stands there more than once")
    return found


def _reference(text: str) -> str:
    name, _, steps = text.rpartition("@")
    if not re.fullmatch("[1-9][0-9]{0,2}", steps):
        raise ValueError(f"write a reference as SCHEDULER@STEPS, such as dpm++2m-karras@200, not {text!r}")
    [name] = _known_schedulers([name])
    if schedulers.resolve(name).stochastic:
        raise ValueError(f"{name} adds noise in its steps, so it comes to no solution that others could be held against")
    return f"{name}@{steps}"


Match = Literal["unet-calls", "steps", "seconds"]
Ranges = BeforeValidator(_listed, json_schema_input_type=str | list[int | float | str])
Schedulers = Annotated[
    list[str], BeforeValidator(_named, json_schema_input_type=str | list[str]), AfterValidator(_known_schedulers)
]


class Grid(Frozen):
    """What `sdapp compare` compares: schedulers at budgets, for every seed, prompt, and value of other keys."""

    schedulers: Annotated[Schedulers, Field(min_length=1, description="Names as `sdapp schedulers` knows them.")]
    steps: Annotated[
        list[int | float],
        Ranges,
        Field(min_length=1, description="Budgets, in what `match` says; 5-50:5 is a range."),
    ] = [5, 10, 20, 50]
    match: Annotated[
        Match,
        Field(description="What is equal within a column: the calls of the UNet, the steps, or the seconds a picture."),
    ] = "unet-calls"
    seeds: Annotated[list[int], Ranges, Field(min_length=1)] = [1, 2, 3]
    prompts: Annotated[list[Text], Field(description="What to paint; else the prompt of the config.")] = []
    vary: Annotated[
        dict[str, Annotated[list[str | int | float | bool], Field(min_length=1)]],
        Field(description="Other keys and their values, such as guidance_scale: [3, 5, 7.5]."),
    ] = {}
    timings: Annotated[int, Field(ge=1, le=100, description="How often each picture is timed; the median counts.")] = 1
    references: Annotated[
        list[Annotated[str, AfterValidator(_reference)]],
        Field(
            min_length=2,
            max_length=2,
            description="Two independent solutions of many steps; errors are distances to the first.",
        ),
    ] = ["dpm++2m-karras@200", "heun@100"]

    @model_validator(mode="after")
    def _whole_numbers(self) -> Self:
        if self.match != "seconds" and not all(isinstance(budget, int) and budget > 0 for budget in self.steps):
            raise ValueError("steps: whole numbers from 1 on, unless match is seconds")
        if not all(budget > 0 for budget in self.steps) or len(set(self.steps)) < len(self.steps):
            raise ValueError("steps: numbers above 0, each once")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each once")
        return self
