"""Charts of a run, in units of their SVG images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sdapp.diffusion.process import Process
from sdapp.diffusion.watch import Call
from sdapp.pages.format import LogScale, number


class Frame(NamedTuple):
    """The size of a chart, and from its edges to the frame."""

    width: int = 440
    height: int = 210
    left: int = 40
    right: int = 12
    top: int = 14
    bottom: int = 34


FRAME = Frame()
MOST_DOTS = 60  # of which each is a circle with a title; beyond, there is only the line


@dataclass(frozen=True)
class Mark:
    """A place on an axis, or a point of a line, with its text."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart; `style` is its CSS class."""

    name: str
    style: str
    path: str
    dots: tuple[Mark, ...]
    label: Mark  # where its name stands


@dataclass(frozen=True)
class Chart:
    """Lines over one axis."""

    title: str
    lines: tuple[ChartLine, ...]
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    x_title: str


def shares_chart(process: Process) -> Chart:
    """Signal and noise at each timestep of the model; dots are the calls of the UNet."""
    last = len(process.alphas) - 1

    def at(timestep: float, share: float) -> tuple[float, float]:
        return _right(1 - timestep / last), _down(share)

    every = range(last, -1, -max(1, last // 120))
    signal = [at(t, float(process.alphas[t].sqrt())) for t in every]
    noise = [at(t, float((1 - process.alphas[t]).sqrt())) for t in every]
    dots = []
    for call in process.calls if len(process.calls) <= MOST_DOTS else ():
        share = float((1 - process.alphas[round(call.timestep)]).sqrt())
        dots.append(Mark(*at(call.timestep, share), f"timestep {call.timestep:g}: {share:.0%} noise"))
    quarters = [round(last * part / 4) for part in range(4, -1, -1)]
    middle = len(signal) // 8
    return Chart(
        "Shares of noise and of the image, by timestep",
        (
            ChartLine(
                "noise", "noise", _path(noise), tuple(dots), Mark(noise[middle][0], noise[middle][1] - 6, "")
            ),
            ChartLine(
                "image", "image", _path(signal), (), Mark(signal[middle][0], signal[middle][1] - 6, "")
            ),
        ),
        tuple(Mark(at(t, 0)[0], 0, str(t)) for t in quarters),
        tuple(Mark(0, _down(share), f"{share:g}") for share in (0, 0.5, 1)),
        "timestep of the model",
    )


def sigmas_chart(process: Process) -> Chart:
    """The noise level σ = √((1 − ᾱ)/ᾱ) at each call of the UNet, on a logarithmic axis."""
    found = [_sigma(call, process) for call in process.calls]
    known = [value for value in found if math.isfinite(value) and value > 0]
    scale = LogScale.over(known, margin=1.3)
    drawn = [(_at_call(i, len(found)), _down(scale.at(value))) for i, value in enumerate(found)]
    titles = [f"call {i}: σ = {number(value)}" for i, value in enumerate(found, 1)]
    ticks = tuple(Mark(0, _down(scale.at(value)), f"{value:g}") for value in scale.ticks(5))
    return _over_calls("Noise level σ at each call of the UNet", "sigma", drawn, titles, ticks)


def values_chart(title: str, values: Sequence[float], calls: str = "call") -> Chart:
    """Values of 0 or more at each call, on an axis that begins at 0."""
    top = _round_up(max([value for value in values if math.isfinite(value)], default=1.0) or 1.0)
    drawn = [(_at_call(i, len(values)), _down(value / top)) for i, value in enumerate(values)]
    titles = [f"{calls} {i}: {number(value)}" for i, value in enumerate(values, 1)]
    ticks = tuple(Mark(0, _down(share), f"{share * top:g}") for share in (0, 0.5, 1))
    return _over_calls(title, "value", drawn, titles, ticks, calls)


def _over_calls(
    title: str,
    style: str,
    drawn: list[tuple[float, float]],
    titles: list[str],
    ticks: tuple[Mark, ...],
    calls: str = "call",
) -> Chart:
    dots = tuple(Mark(*point, text) for point, text in zip(drawn, titles, strict=True))
    every = max(1, -(-len(drawn) // 6))
    numbers = [1, *range(every, len(drawn) + 1, every)] if every > 1 else range(1, len(drawn) + 1)
    return Chart(
        title,
        (ChartLine("", style, _path(drawn), dots if len(dots) <= MOST_DOTS else (), Mark(0, 0, "")),),
        tuple(Mark(_at_call(n - 1, len(drawn)), 0, str(n)) for n in numbers),
        ticks,
        f"{calls} of the UNet",
    )


def _sigma(call: Call, process: Process) -> float:
    clean = float(process.alphas[round(call.timestep)])
    return math.sqrt((1 - clean) / clean) if clean > 0 else math.inf


def _round_up(value: float) -> float:
    """The next round number, of which the half is round too."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.6, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def _at_call(index: int, calls: int) -> float:
    return _right(index / (calls - 1) if calls > 1 else 0.5)


def _right(share: float) -> float:
    return round(FRAME.left + share * (FRAME.width - FRAME.left - FRAME.right), 1)


def _down(share: float) -> float:
    return round(FRAME.height - FRAME.bottom - share * (FRAME.height - FRAME.top - FRAME.bottom), 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
