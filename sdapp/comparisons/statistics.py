"""Statistics of a comparison: medians, quartiles, the order of schedulers, and the accuracy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from sdapp.comparisons.cells import Cell, Comparison


@dataclass(frozen=True)
class Spread:
    """The quartiles of `count` measurements."""

    low: float
    median: float
    high: float
    count: int


@dataclass(frozen=True)
class Summary:
    """One scheduler in one column, over all seeds, prompts and varied values; None if not measured."""

    scheduler: str
    column: float
    stochastic: bool
    solver_error: Spread | None
    seconds: Spread | None
    unet_calls: Spread | None


def summarise(comparison: Comparison) -> tuple[Summary, ...]:
    """Summarise each scheduler and column, in the order of the comparison; NaN counts as infinite."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in comparison.cells:
        groups.setdefault((cell.scheduler, cell.column), []).append(cell)
    random = stochastic(comparison)

    def summary(scheduler: str, column: float) -> Summary:
        cells = groups.get((scheduler, column), ())
        keys = ("solver_error", "seconds", "unet_calls")
        spreads = (spread(getattr(cell, key) for cell in cells) for key in keys)
        return Summary(scheduler, column, scheduler in random, *spreads)

    return tuple(summary(*place) for place in product(comparison.schedulers, comparison.columns))


def stochastic(comparison: Comparison) -> frozenset[str]:
    """The schedulers that add noise in their steps in all of their cells, so they do not converge."""
    deterministic = {cell.scheduler for cell in comparison.cells if not cell.stochastic}
    return frozenset(cell.scheduler for cell in comparison.cells) - deterministic


def spread(values: Iterable[float | None]) -> Spread | None:
    """Quartiles by linear interpolation, like numpy's; None if there are no values."""
    known = sorted(math.inf if math.isnan(value) else value for value in values if value is not None)
    if not known:
        return None
    return Spread(_quantile(known, 0.25), _quantile(known, 0.5), _quantile(known, 0.75), len(known))


def _quantile(ordered: list[float], part: float) -> float:
    below, rest = divmod((len(ordered) - 1) * part, 1)
    low = ordered[int(below)]
    return low if rest == 0 else low * (1 - rest) + ordered[int(below) + 1] * rest


def band(comparison: Comparison) -> float | None:
    """The accuracy: the median distance between the two references. Do not rank smaller solver errors."""
    found = spread(reference.distance for reference in comparison.references)
    return found.median if found else None


def rank(comparison: Comparison, column: float) -> tuple[str, ...]:
    """Sort schedulers by median error in a column; those without an error follow, then stochastic ones."""
    errors = {item.scheduler: item.solver_error for item in summarise(comparison) if item.column == column}
    random = stochastic(comparison)

    def key(scheduler: str) -> tuple[bool, bool, float, str]:
        error = errors.get(scheduler)
        return scheduler in random, error is None, error.median if error else 0.0, scheduler

    return tuple(sorted(comparison.schedulers, key=key))
