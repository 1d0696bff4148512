"""Statistics of a comparison: medians, quartiles, the places of schedulers, ties, and the accuracy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean, median, stdev

from scipy.special import stdtr

from sdapp.comparisons.cells import Cell, Comparison, Key

SIGNIFICANCE = 0.05
ALIKE_PSNR, ALIKE_SSIM = 40.0, 0.99  # 40 dB are 2.55 of 255 levels (root mean square)
SMALLEST, LARGEST = 1e-9, 1e9  # bounds of errors before their logarithm
Errors = Mapping[Key, float]  # by prompt, seed and varied values


@dataclass(frozen=True)
class Spread:
    """The quartiles of `count` measurements."""

    low: float
    median: float
    high: float
    count: int


@dataclass(frozen=True)
class Summary:
    """One scheduler in one column, over all seeds, prompts and varied values; None if not measured.

    Errors are those of the combinations that all placed schedulers of the column have. A scheduler that
    lacks some of them has no place, and the errors that it has.
    """

    scheduler: str
    column: float
    stochastic: bool
    solver_error: Spread | None
    seconds: Spread | None
    unet_calls: Spread | None
    measured: int = 0  # combinations with an error
    of: int = 0  # all combinations
    place: int | None = None  # 1 has the smallest errors; tied schedulers share a place
    is_noise: bool = False  # half of the errors are below the accuracy of their combination
    alike: bool = False  # in three of four images: PSNR and SSIM as above, so it looks like the reference

    @property
    def is_partial(self) -> bool:
        """Whether errors are missing, as in a run that is not finished."""
        return 0 < self.measured < self.of


def summarise(comparison: Comparison) -> tuple[Summary, ...]:
    """Summarise each scheduler and column, in the order of the comparison; NaN counts as infinite."""
    columns = {column: summarise_column(comparison, column) for column in comparison.columns}
    return tuple(columns[column][name] for name, column in product(comparison.schedulers, comparison.columns))


def summarise_column(comparison: Comparison, column: float) -> dict[str, Summary]:
    """Summarise each scheduler in one column."""
    groups: dict[str, list[Cell]] = {name: [] for name in comparison.schedulers}
    for cell in comparison.cells:
        if cell.column == column:
            groups[cell.scheduler].append(cell)
    random, total = stochastic(comparison), sum(1 for _ in comparison.combinations())
    accuracy = bands(comparison)
    errors = {name: _errors(cells) for name, cells in groups.items()}
    places, common = _places({name: errors[name] for name in groups if name not in random}, accuracy)

    def summary(name: str) -> Summary:
        cells, own = groups[name], errors[name]
        seconds, calls = (spread(getattr(cell, key) for cell in cells) for key in ("seconds", "unet_calls"))
        counted = {key: own[key] for key in (common if name in places else own)}
        below = sum(error <= accuracy.get(key, 0.0) for key, error in counted.items())
        return Summary(
            name,
            column,
            name in random,
            spread(counted.values()),
            seconds,
            calls,
            measured=len(own),
            of=total,
            place=places.get(name),
            is_noise=2 * below >= len(counted) > 0,
            alike=_is_alike(cells),
        )

    return {name: summary(name) for name in groups}


def stochastic(comparison: Comparison) -> frozenset[str]:
    """The schedulers that add noise in their steps in all of their cells, so they do not converge."""
    deterministic = {cell.scheduler for cell in comparison.cells if not cell.stochastic}
    return frozenset(cell.scheduler for cell in comparison.cells) - deterministic


def middle(comparison: Comparison) -> float:
    """The column that reports and terminals rank by at first."""
    return comparison.columns[len(comparison.columns) // 2]


def rank(comparison: Comparison, column: float) -> tuple[str, ...]:
    """Sort schedulers by place and median error in a column.

    Those without a place follow: first with some errors, then with none, then stochastic ones.
    """
    found = summarise_column(comparison, column)

    def key(scheduler: str) -> tuple[bool, bool, float, float, str]:
        item = found[scheduler]
        error = item.solver_error
        order = item.place or math.inf, error.median if error else 0.0
        return item.stochastic, error is None, *order, scheduler

    return tuple(sorted(comparison.schedulers, key=key))


# --- places and ties ----------------------------------------------------------------------------------------


def bands(comparison: Comparison) -> dict[Key, float]:
    """The accuracy for each combination: the distance between its two references."""
    distances = {reference.key: reference.distance for reference in comparison.references}
    return {key: value for key, value in distances.items() if value is not None and math.isfinite(value)}


def band(comparison: Comparison) -> float | None:
    """The median accuracy over all combinations."""
    found = spread(bands(comparison).values())
    return found.median if found else None


def _places(
    all_errors: Mapping[str, Errors], accuracy: Mapping[Key, float]
) -> tuple[dict[str, int], frozenset[Key]]:
    """The places of schedulers in a column, and the combinations over which they are ranked."""
    errors = {name: found for name, found in all_errors.items() if found}
    common = _common(errors.values())
    logarithms = {
        name: [_log_error(found[key], accuracy.get(key, 0.0)) for key in sorted(common, key=repr)]
        for name, found in errors.items()
        if common and common <= found.keys()
    }
    medians = {name: median(errors[name][key] for key in common) for name in logarithms}
    left = sorted(logarithms, key=lambda name: (medians[name], name))
    places: dict[str, int] = {}
    while left:
        first = logarithms[left[0]]
        worse = _worse([tied_probability(first, logarithms[name]) for name in left[1:]])
        group = [left[0], *(name for name, is_worse in zip(left[1:], worse, strict=True) if not is_worse)]
        places |= dict.fromkeys(group, len(places) + 1)
        left = [name for name in left if name not in group]
    return places, common


def _errors(cells: Iterable[Cell]) -> dict[Key, float]:
    known = {cell.key: cell.solver_error for cell in cells}
    return {
        key: math.inf if math.isnan(error) else error for key, error in known.items() if error is not None
    }


def _common(errors: Iterable[Errors]) -> frozenset[Key]:
    """The combinations that those schedulers share which have the most."""
    sets = [frozenset(each) for each in errors]
    most = max(map(len, sets), default=0)
    return frozenset.intersection(*(each for each in sets if len(each) == most)) if sets else frozenset()


def _log_error(error: float, accuracy: float) -> float:
    """The logarithm of an error; below the accuracy, errors do not differ."""
    return math.log(min(max(error, accuracy, SMALLEST), LARGEST))


def tied_probability(first: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of a paired, two-sided t-test (Student 1908) of two samples of equal length.

    With a single pair nothing can be tested: 1 for equal values, else 0.
    """
    differences = [b - a for a, b in zip(first, other, strict=True)]
    average, count = mean(differences), len(differences)
    deviation = stdev(differences) if count > 1 else 0.0
    if deviation <= 1e-9 * abs(average):
        return 0.0 if average else 1.0
    return float(2 * stdtr(count - 1, -abs(average) / (deviation / math.sqrt(count))))


def _worse(probabilities: Sequence[float]) -> list[bool]:
    """Which of several tests against one scheduler tell a difference, after Holm's correction (1979)."""
    worse = [False] * len(probabilities)
    for done, index in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        if probabilities[index] > SIGNIFICANCE / (len(probabilities) - done):
            break
        worse[index] = True
    return worse


def _is_alike(cells: Iterable[Cell]) -> bool:
    """Whether three of four images look like the reference."""
    done = [cell for cell in cells if cell.psnr is not None and not cell.stochastic]
    psnr, ssim = spread(cell.psnr for cell in done), spread(cell.ssim for cell in done)
    return psnr is not None and psnr.low >= ALIKE_PSNR and (ssim is None or ssim.low >= ALIKE_SSIM)


# --- quartiles ----------------------------------------------------------------------------------------------


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
