"""Numbers as short text, places on a logarithmic scale, and the colours of errors."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Viridis (matplotlib, CC0) at nine even steps, from dark to bright.
VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")


def number(value: float) -> str:
    """Two significant digits, with an exponent if very small or large; `not finite` for NaN and infinity."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.0001 <= abs(value) < 1000:
        return f"{value:#.2g}".rstrip(".") if abs(value) < 10 else f"{value:.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def seconds(value: float) -> str:
    """A time, given in seconds, as ms, s or min."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 99.95 else f"{value / 60:.1f} min"


def decibels(value: float) -> str:
    """A signal-to-noise ratio; infinite for two equal images."""
    return f"{value:.1f} dB" if math.isfinite(value) else "infinite: the same image"


def counted(value: int, noun: str) -> str:
    """`1 step`, `20 steps`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


@dataclass(frozen=True)
class LogScale:
    """Maps values from low to high to 0…1 by their logarithm."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float | None], margin: float = 1.0) -> "LogScale":
        """The scale of all finite values above 0, extended by the factor `margin`; 0.1…1 if none."""
        known = [value for value in values if value is not None and math.isfinite(value) and value > 0]
        low, high = (min(known), max(known)) if known else (0.1, 1.0)
        if low == high:
            low, high = low / 2, high * 2
        return cls(low / margin, high * margin)

    def at(self, value: float) -> float:
        """The place of a value in 0…1; values outside the scale are put at the nearer end, NaN at 1."""
        if math.isnan(value) or value >= self.high:
            return 1.0
        return 0.0 if value <= self.low else math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """At most `most` round numbers on the scale: powers of ten, and 2 and 5 or 3 between them."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            marks = [step * 10.0**power for power in powers for step in steps]
            found = [mark for mark in marks if self.low <= mark <= self.high]
            if len(found) <= most:
                return found
        return found[:: math.ceil(len(found) / most)]


def viridis(place: float) -> str:
    """The colour of a place in 0…1: bright at 0, close to the reference, and dark at 1.

    Leaves out a tenth at both ends, which would be invisible on a light or a dark page.
    """
    position = (0.9 - 0.8 * place) * (len(VIRIDIS) - 1)
    below = min(int(position), len(VIRIDIS) - 2)
    pairs = [(int(VIRIDIS[below][i : i + 2], 16), int(VIRIDIS[below + 1][i : i + 2], 16)) for i in (0, 2, 4)]
    return "#" + "".join(f"{round(low + (high - low) * (position - below)):02x}" for low, high in pairs)
