"""The verdict of a comparison: one sentence that says which scheduler to use, for report and terminal."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from sdapp.comparisons.cells import UNITS, Comparison
from sdapp.comparisons.statistics import (
    ALIKE_PSNR,
    ALIKE_SSIM,
    SIGNIFICANCE,
    Summary,
    band,
    stochastic,
    summarise,
)

Ranked = Sequence[tuple[float, Sequence[Summary]]]  # the columns, and the schedulers with a place in each
Names = frozenset[str]
First = tuple[float, Names]  # a column, and who has the first place in it
MOST_NAMES, MOST_RUNS = 4, 4
TEST = (
    "Tied: a paired t-test of the logarithms of the errors, over the same prompts and seeds, finds no "
    f"difference from the best one at a level of {SIGNIFICANCE:.0%} (Holm's correction for several tests)."
)


def verdict(comparison: Comparison) -> str:
    """Return one sentence: the smallest errors at each budget, what can be seen, and what is not ranked."""
    columns = [
        (column, [item for item in summarise(comparison) if item.column == column and item.place])
        for column in comparison.columns
    ]
    ranked = [(column, items) for column, items in columns if items]
    parts = [*_parts(comparison, ranked)] if ranked else ["there are no errors to rank"]
    parts += filter(None, (unranked(comparison), _unfinished(comparison)))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def unranked(comparison: Comparison) -> str:
    """Say which schedulers get no place, because they add noise in every step; empty if all get one."""
    random = stochastic(comparison)
    names = [name for name in comparison.schedulers if name in random]
    one = len(names) == 1
    way = "is stochastic and not ranked: judge it" if one else "are stochastic and not ranked: judge them"
    return f"{_names(names)} {way} by eye" if names else ""


def _parts(comparison: Comparison, ranked: Ranked) -> Iterator[str]:
    yield f"smallest error: {_leaders(ranked, UNITS[comparison.match])}"
    yield _visible(ranked)
    accuracy = band(comparison)
    begin = _begin(ranked, lambda items: any(item.is_noise for item in items if item.place == 1))
    if begin is not None and accuracy is not None:
        where = _since(begin, ranked)
        yield f"{where} the smallest errors are below the measurement noise ({accuracy:.2g})"
    if ranked[0][1][0].of == 1:
        yield "this is one image each, so other seeds may rank them otherwise"


def _leaders(ranked: Ranked, unit: str) -> str:
    """Who has the first place at which budgets; neighbours with the same ones are put together.

    Where that would be a long list, neighbours that have one of them in common are put together.
    """
    firsts = [(column, frozenset(_first(items))) for column, items in ranked]
    runs = _runs(firsts, lambda one, other: one if one == other else frozenset())
    if len(runs) > MOST_RUNS:
        runs = _runs(firsts, lambda one, other: one & other)
    texts: list[str] = []
    for names, columns in runs:
        until_end = len(columns) > 1 and columns[-1] == ranked[-1][0]
        some = (
            f"{columns[0]:g} to {columns[-1]:g}"
            if len(columns) > 2
            else _and([f"{each:g}" for each in columns])
        )
        where = _since(columns[0], ranked) if until_end else f"at {some}"
        everywhere = all(found == names for column, found in firsts if column in columns)
        tied = " (tied)" if len(names) > 1 else "" if everywhere else " (tied with others at some)"
        order = [name for _, items in ranked for name in _first(items) if name in names]
        if not texts:
            begin, end = ranked[0][0], ranked[-1][0]
            where += f" ({begin:g} to {end:g} {unit})" if where.endswith("budget") else f" {unit}"
        texts.append(f"{_names([*dict.fromkeys(order)])}{tied} {where}")
    return ", ".join(texts)


def _runs(
    firsts: Sequence[First], shared: Callable[[Names, Names], Names]
) -> list[tuple[Names, list[float]]]:
    """Put neighbouring columns together that share the first place."""
    runs: list[tuple[Names, list[float]]] = []
    for column, names in firsts:
        if runs and (both := shared(runs[-1][0], names)):
            runs[-1] = both, [*runs[-1][1], column]
        else:
            runs.append((names, [column]))
    return runs


def _first(items: Sequence[Summary]) -> list[str]:
    first = [
        (item.solver_error.median, item.scheduler) for item in items if item.place == 1 and item.solver_error
    ]
    return [name for _, name in sorted(first)]


def _visible(ranked: Ranked) -> str:
    """From which budgets on images look like the reference: of the first scheduler that does, and of all."""
    meaning = f"PSNR of {ALIKE_PSNR:g} dB and SSIM of {ALIKE_SSIM:g} or more in three of four images"
    names = dict.fromkeys(item.scheduler for _, items in ranked for item in items)
    begins = {name: _begin(ranked, partial(_looks_alike, name)) for name in names}
    found = [begin for begin in begins.values() if begin is not None]
    if not found:
        return f"no scheduler comes so near to the reference that one sees no difference ({meaning})"
    first = [name for name, begin in begins.items() if begin == min(found)]
    verb = "looks" if len(first) == 1 else "look"
    text = f"{_names(first)} {verb} like the reference {_since(min(found), ranked)} ({meaning})"
    if len(first) < len(names) == len(found):
        text += f", all of them {_since(max(found), ranked)}"
    return text


def _looks_alike(name: str, items: Sequence[Summary]) -> bool:
    return any(item.alike for item in items if item.scheduler == name)


def _begin(ranked: Ranked, holds: Callable[[Sequence[Summary]], bool]) -> float | None:
    """The first column from which on something holds in all columns; None if there is none."""
    begin = None
    for column, items in reversed(ranked):
        if not holds(items):
            break
        begin = column
    return begin


def _since(column: float, ranked: Ranked) -> str:
    if column == ranked[-1][0]:
        return f"at {column:g}"
    return "at every budget" if column == ranked[0][0] else f"from {column:g} on"


def _unfinished(comparison: Comparison) -> str:
    done = sum(cell.status == "done" for cell in comparison.cells)
    images = sum(1 for _ in comparison.combinations())
    whole = images * len(comparison.schedulers) * len(comparison.columns)
    if done == whole:
        return ""
    return f"{done} of {whole} images are there, ranked over common seeds and prompts only"


def _names(names: Sequence[str]) -> str:
    shown = (
        [*names]
        if len(names) <= MOST_NAMES
        else [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    )
    return _and(shown)


def _and(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
