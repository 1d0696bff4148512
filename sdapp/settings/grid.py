"""The `compare:` group of a config: which schedulers to compare, on what, and with how much work each."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from sdapp import schedulers
from sdapp.errors import ConfigError
from sdapp.settings.ranges import numbers
from sdapp.settings.types import MAX_SEED, Frozen, Setting, Text

MOST_STEPS = 1000


def _expand_ranges(value: object) -> object:
    """Return the numbers of a text such as `5,10,20-50:10`, or of a list of numbers and such texts."""
    if not isinstance(value, str | list):
        return value
    items = [value] if isinstance(value, str) else value
    return [number for item in items for number in (numbers(item) if isinstance(item, str) else [item])]


def _split_names(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _find_scheduler(name: str) -> schedulers.Resolved:
    try:
        return schedulers.resolve(name)
    except ConfigError as exc:
        raise ValueError(str(exc)) from exc


def _refuse_repeated(values: list[Any]) -> list[Any]:
    if repeated := [value for place, value in enumerate(values) if value in values[:place]]:
        raise ValueError(f"{repeated[0]} is in the list more than once")
    return values


def _check_budgets(budgets: list[int | float], grid: ValidationInfo) -> list[int | float]:
    for budget in budgets:
        if budget <= 0:
            raise ValueError(f"budgets must be above 0, not {budget}")
        is_steps = isinstance(budget, int) and budget <= MOST_STEPS
        if grid.data.get("match") != "seconds" and not is_steps:
            raise ValueError(f"whole numbers from 1 to {MOST_STEPS:,}, unless match is seconds, not {budget}")
    return _refuse_repeated(budgets)


def _check_reference(text: str) -> str:
    name, _, steps = text.rpartition("@")
    if not re.fullmatch("[1-9][0-9]{0,2}", steps):
        raise ValueError(f"write a reference as SCHEDULER@STEPS, such as dpm++2m-karras@200, not {text!r}")
    found = _find_scheduler(name)
    if found.stochastic:
        raise ValueError(f"{found.name} adds noise in its steps, so its result cannot be a reference")
    return f"{found.name}@{steps}"


def _check_independent(references: list[str]) -> list[str]:
    if len({text.rpartition("@")[0] for text in references}) < len(references):
        raise ValueError("two references of one scheduler share their errors; name two schedulers")
    return references


Varied = Annotated[str | int | float | bool, Setting(expected="text, a number, true or false")]
Match = Literal["unet-calls", "steps", "seconds"]
Ranges = BeforeValidator(_expand_ranges, json_schema_input_type=str | list[int | float | str])
NoneRepeated = AfterValidator(_refuse_repeated)


class Grid(Frozen):
    """What `sdapp compare` paints: every scheduler with every budget, seed, prompt and varied value.

    A budget is what each image may cost, in the unit of `match`: UNet calls, steps or seconds.
    """

    schedulers: Annotated[
        list[str],
        BeforeValidator(_split_names, json_schema_input_type=str | list[str]),
        AfterValidator(lambda names: _refuse_repeated([_find_scheduler(name).name for name in names])),
        Field(min_length=1, description="Names as `sdapp schedulers` lists them."),
    ] = ["euler", "ddim", "dpm++2m", "dpm++2m-karras", "unipc", "heun", "euler-a", "dpm++2m-sde-karras"]
    match: Annotated[
        Match, Field(description="What is equal within a column: UNet calls, steps, or seconds per image.")
    ] = "unet-calls"
    steps: Annotated[
        list[int | float],
        Ranges,
        Field(min_length=1, description="Budgets in the unit of `match`; 5-50:5 is a range."),
        AfterValidator(_check_budgets),
    ] = [5, 10, 20, 50]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_SEED)]],
        Ranges,
        Field(min_length=1, description="Seeds of the noise, the same for every scheduler; 1-8 is a range."),
        NoneRepeated,
    ] = [1, 2, 3]
    prompts: Annotated[
        list[Text], Field(description="What to paint; default: the prompt of the config."), NoneRepeated
    ] = []
    vary: Annotated[
        dict[str, Annotated[list[Varied], Field(min_length=1), NoneRepeated]],
        Field(description="Other keys and their values, such as guidance_scale: [3, 5, 7.5]."),
    ] = {}
    timings: Annotated[
        int, Field(ge=1, le=100, description="How often each image is timed; the median counts.")
    ] = 1
    references: Annotated[
        list[Annotated[str, AfterValidator(_check_reference)]],
        Field(
            min_length=2,
            max_length=2,
            description="Two independent solutions of many steps; errors are distances to the first.",
        ),
        AfterValidator(_check_independent),
    ] = ["dpm++2m-karras@200", "heun@100"]
