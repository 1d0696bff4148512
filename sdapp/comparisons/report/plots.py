"""The plot of solver errors: curves, quartiles, ticks and the accuracy, in units of the SVG image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sdapp.comparisons.cells import Comparison, budget
from sdapp.comparisons.statistics import Summary, bands, spread, stochastic, summarise
from sdapp.pages.format import LogScale, counted, number, seconds

WIDTH, HEIGHT = 400, 248  # of an image with few curves
LEFT, RIGHT, TOP, BOTTOM = 36, 106, 8, 30  # from the edges of the image to the frame
LINE = 10.5  # the distance between two labels of curves
HUES, DASHES = 8, 6  # the numbers of classes in report.css
XAxis = Literal["unet_calls", "seconds"]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Point:
    """The median error of one scheduler at one budget, and its quartiles."""

    x: float
    y: float
    low: float  # y of the lower quartile
    high: float  # y of the upper quartile
    column: int
    finite: bool
    partial: bool  # of some combinations only: it has no place
    title: str


@dataclass(frozen=True)
class Curve:
    """The points of one scheduler; `scheduler` is its index in the comparison, `style` its CSS classes."""

    scheduler: int
    name: str
    style: str
    points: tuple[Point, ...]
    label: float  # y of the name, right of the frame

    @property
    def line(self) -> str:
        """An SVG path through the medians, interrupted where errors are not finite."""
        parts = []
        for before, point in zip((None, *self.points), self.points, strict=False):
            if point.finite:
                parts.append(f"{'L' if before and before.finite else 'M'}{point.x:g} {point.y:g}")
        return "".join(parts)

    @property
    def ribbon(self) -> str:
        """An SVG path around the area between the quartiles."""
        known = [point for point in self.points if point.finite]
        corners = [(point.x, point.high) for point in known]
        corners += [(point.x, point.low) for point in reversed(known)]
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z" if len(known) > 1 else ""


@dataclass(frozen=True)
class Plot:
    """Solver error against UNet calls or seconds, both on logarithmic axes."""

    axis: XAxis
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    height: float
    bands: tuple[float, ...]  # y of the accuracy for each prompt, highest first: from here on it is grey

    @property
    def shade(self) -> float:
        """The opacity of each band, so that all together are as dark as one."""
        return round(1 - math.pow(0.9, 1 / max(1, len(self.bands))), 4)


def styles(schedulers: Sequence[str]) -> dict[str, str]:
    """CSS classes for each scheduler, no two alike: a hue for each solver, a dash for each schedule."""
    families: dict[str, list[str]] = {}
    for name in schedulers:
        families.setdefault(name.partition("-")[0], []).append(name)
    free = [(hue, dash) for hue in range(HUES) for dash in range(DASHES)]
    found: dict[str, str] = {}
    for place, members in enumerate(families.values()):
        for name in members:
            own = [pair for pair in free if pair[0] == place % HUES] or free or [(0, 0)]
            hue, dash = own[0]
            free = [pair for pair in free if pair != own[0]]
            found[name] = f"hue{hue} dash{dash}"
    return found


def convergence(comparison: Comparison, axis: XAxis) -> Plot:
    """Plot all schedulers that have errors, over all prompts, seeds and varied values."""
    items = [item for item in summarise(comparison) if item.solver_error and getattr(item, axis)]
    x = LogScale.over((getattr(item, axis).median for item in items), margin=1.12)
    errors = [item.solver_error for item in items if item.solver_error]
    limits = sorted(_bands_of_prompts(comparison))
    ends = [end for error in errors for end in (error.low, error.high)]
    y = LogScale.over([*ends, *(limit / 1.5 for limit in limits[:1])], margin=1.2)
    style = styles(steady_schedulers(comparison))
    drawn = [name for name in comparison.schedulers if any(item.scheduler == name for item in items)]
    height = max(HEIGHT, TOP + BOTTOM + LINE * len(drawn))
    scales = _Scales(comparison, axis, x, y, height)
    points = {name: tuple(scales.point(item) for item in items if item.scheduler == name) for name in drawn}
    labels = _spread_labels({name: points[name][-1].y for name in drawn}, TOP, height - BOTTOM)
    return Plot(
        axis,
        tuple(
            Curve(comparison.schedulers.index(name), name, style[name], points[name], labels[name])
            for name in drawn
        ),
        tuple(Tick(_across(x.at(value)), f"{value:g}") for value in _x_values(comparison, axis, x)),
        tuple(Tick(scales.down(value), f"{value:g}") for value in y.ticks(6)),
        height,
        tuple(sorted(scales.down(limit) for limit in limits)),
    )


def steady_schedulers(comparison: Comparison) -> list[str]:
    """The schedulers that have curves: those that are not stochastic."""
    random = stochastic(comparison)
    return [name for name in comparison.schedulers if name not in random]


def _bands_of_prompts(comparison: Comparison) -> Iterator[float]:
    """The median accuracy for each prompt."""
    accuracy = bands(comparison)
    for prompt in comparison.prompts:
        if found := spread(value for key, value in accuracy.items() if key[0] == prompt):
            yield found.median


def _spread_labels(wanted: dict[str, float], top: float, bottom: float) -> dict[str, float]:
    """Move labels apart, as little as needed, so that each has a line of its own inside the frame."""
    order = sorted(wanted, key=wanted.__getitem__)
    places: list[float] = []
    for above, name in enumerate(order):
        lowest = bottom - LINE * (len(order) - 1 - above)  # the ones below need room as well
        places.append(min(max(wanted[name], top, *(place + LINE for place in places[-1:])), lowest))
    for above in range(len(places) - 2, -1, -1):
        places[above] = min(places[above], places[above + 1] - LINE)
    return {name: round(place, 1) for name, place in zip(order, places, strict=True)}


@dataclass(frozen=True)
class _Scales:
    """Where values are in the image."""

    comparison: Comparison
    axis: XAxis
    x: LogScale
    y: LogScale
    height: float

    def down(self, value: float) -> float:
        return round(self.height - BOTTOM - self.y.at(value) * (self.height - TOP - BOTTOM), 1)

    def point(self, item: Summary) -> Point:
        """The point of a scheduler that has errors."""
        error = item.solver_error
        assert error
        title = f"{item.scheduler}, {budget(item.column, self.comparison.match)}: solver error "
        title += number(error.median)
        title += f" ({number(error.low)} to {number(error.high)})" if error.count > 1 else ""
        title += f", {counted(round(item.unet_calls.median), 'UNet call')}" if item.unet_calls else ""
        title += f", {seconds(item.seconds.median)}" if item.seconds else ""
        title += f", {item.measured} of {item.of}: no place" if item.place is None else ""
        return Point(
            x=_across(self.x.at(getattr(item, self.axis).median)),
            y=self.down(error.median),
            low=self.down(error.low),
            high=self.down(error.high),
            column=self.comparison.columns.index(item.column),
            finite=math.isfinite(error.median),
            partial=item.place is None,
            title=title,
        )


def _x_values(comparison: Comparison, axis: XAxis, scale: LogScale) -> list[float]:
    """The ticks of the x axis: the columns if they have its unit and are 8 or fewer, else round numbers."""
    same = (axis, comparison.match) in (("unet_calls", "unet-calls"), ("seconds", "seconds"))
    values = [column for column in comparison.columns if scale.low <= column <= scale.high] if same else []
    return values if 0 < len(values) <= 8 else scale.ticks(6)


def _across(place: float) -> float:
    return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)
