"""The plot of solver errors: curves, quartiles, ticks and the accuracy, in units of the SVG image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sdapp.comparisons.cells import Comparison
from sdapp.comparisons.report.format import LogScale, budget, counted, number, seconds
from sdapp.comparisons.statistics import Summary, band, summarise

WIDTH, HEIGHT = 340, 248
LEFT, RIGHT, TOP, BOTTOM = 36, 8, 8, 30  # from the edges of the image to the frame
HUES, DASHES = 8, 4  # the numbers of classes in report.css
Axis = Literal["unet_calls", "seconds"]


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
    title: str


@dataclass(frozen=True)
class Curve:
    """The points of one scheduler; `scheduler` is its index in the comparison, `style` its CSS classes."""

    scheduler: int
    style: str
    points: tuple[Point, ...]

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

    axis: Axis
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    band: float | None  # y of the accuracy: the band from here to the frame is grey


def styles(schedulers: Sequence[str]) -> dict[str, str]:
    """CSS classes for each scheduler: a hue for each solver, a dash pattern for each noise schedule."""
    families: dict[str, list[str]] = {}
    for name in schedulers:
        families.setdefault(name.partition("-")[0], []).append(name)
    return {
        name: f"hue{place % HUES} dash{(place // HUES + variant) % DASHES}"
        for place, members in enumerate(families.values())
        for variant, name in enumerate(members)
    }


def convergence(comparison: Comparison, axis: Axis) -> Plot:
    """Plot all schedulers that have errors, over all prompts, seeds and varied values."""
    items = [item for item in summarise(comparison) if item.solver_error and getattr(item, axis)]
    x = LogScale.over((getattr(item, axis).median for item in items), margin=1.12)
    errors = [item.solver_error for item in items if item.solver_error]
    limit = band(comparison)
    ends = [end for error in errors for end in (error.low, error.high)]
    y = LogScale.over([*ends, limit / 1.5 if limit else None], margin=1.2)
    style = styles(comparison.schedulers)
    curves = tuple(
        Curve(place, style[name], points)
        for place, name in enumerate(comparison.schedulers)
        if (points := tuple(_point(item, comparison, axis, x, y) for item in items if item.scheduler == name))
    )
    return Plot(
        axis,
        curves,
        tuple(Tick(_across(x.at(value)), f"{value:g}") for value in _x_values(comparison, axis, x)),
        tuple(Tick(_down(y.at(value)), f"{value:g}") for value in y.ticks(6)),
        _down(y.at(limit)) if limit else None,
    )


def _point(item: Summary, comparison: Comparison, axis: Axis, x: LogScale, y: LogScale) -> Point:
    error = item.solver_error
    assert error  # checked by the caller
    title = f"{item.scheduler}, {budget(item.column, comparison.match)}: solver error {number(error.median)}"
    title += f" ({number(error.low)} to {number(error.high)})" if error.count > 1 else ""
    title += f", {counted(round(item.unet_calls.median), 'UNet call')}" if item.unet_calls else ""
    title += f", {seconds(item.seconds.median)}" if item.seconds else ""
    return Point(
        x=_across(x.at(getattr(item, axis).median)),
        y=_down(y.at(error.median)),
        low=_down(y.at(error.low)),
        high=_down(y.at(error.high)),
        column=comparison.columns.index(item.column),
        finite=math.isfinite(error.median),
        title=title,
    )


def _x_values(comparison: Comparison, axis: Axis, scale: LogScale) -> list[float]:
    """The ticks of the x axis: the columns if they have its unit and are 8 or fewer, else round numbers."""
    same = (axis, comparison.match) in (("unet_calls", "unet-calls"), ("seconds", "seconds"))
    values = [column for column in comparison.columns if scale.low <= column <= scale.high] if same else []
    return values if 0 < len(values) <= 8 else scale.ticks(6)


def _across(place: float) -> float:
    return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)


def _down(place: float) -> float:
    return round(HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM), 1)
