"""What the cells of a comparison amount to: quartiles, ranks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sdapp.comparisons.cells import Cell, Comparison


@dataclass(frozen=True)
class Spread:
    """The middle half of some measurements."""

    low: float  # lower quartile
    median: float
    high: float  # upper quartile
    count: int


@dataclass(frozen=True)
class Summary:
    """One scheduler at one budget, over all seeds, prompts and varied keys; a spread is None where nothing was measured."""

    scheduler: str
    column: float
    stochastic: bool
    solver_error: Spread | None
    seconds: Spread | None
    unet_calls: Spread | None


def summarise(comparison: Comparison) -> tuple[Summary, ...]:
    """A summary for each scheduler and each column, in the order of the comparison; a NaN counts as infinite."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in comparison.cells:
        groups.setdefault((cell.scheduler, cell.column), []).append(cell)
    random = stochastic(comparison)
    return tuple(
        Summary(
            scheduler,
            column,
            scheduler in random,
            *(spread([getattr(cell, key) for cell in groups.get((scheduler, column), ())])
              for key in ("solver_error", "seconds", "unet_calls")),
        )
        for scheduler in comparison.schedulers
        for column in comparison.columns
    )  # fmt: skip


def stochastic(comparison: Comparison) -> frozenset[str]:
    """The schedulers that never came to one solution: all of their cells are stochastic."""
    steady = {cell.scheduler for cell in comparison.cells if not cell.stochastic}
    return frozenset({cell.scheduler for cell in comparison.cells} - steady)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Quartiles by linear interpolation, as numpy's; None without a single value."""
    known = sorted(math.inf if math.isnan(value) else value for value in values if value is not None)
    return (
        Spread(_quantile(known, 0.25), _quantile(known, 0.5), _quantile(known, 0.75), len(known))
        if known
        else None
    )


def _quantile(ordered: list[float], part: float) -> float:
    below, rest = divmod((len(ordered) - 1) * part, 1)
    low = ordered[int(below)]
    return low if rest == 0 else low * (1 - rest) + ordered[int(below) + 1] * rest


def band(comparison: Comparison) -> float | None:
    """The median distance between the references: solver errors below it say nothing."""
    found = spread(reference.distance for reference in comparison.references)
    return found.median if found else None


def rank(comparison: Comparison, column: float) -> tuple[str, ...]:
    """The schedulers by their median error at a column; then those without one, then the stochastic ones, by name."""
    errors = {item.scheduler: item.solver_error for item in summarise(comparison) if item.column == column}
    random = stochastic(comparison)

    def key(scheduler: str) -> tuple[bool, bool, float, str]:
        error = errors.get(scheduler)
        return scheduler in random, error is None, error.median if error else 0.0, scheduler

    return tuple(sorted(comparison.schedulers, key=key))
