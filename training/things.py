"""Cats, trees, houses: one function each, drawn in a frame of its own."""

from collections.abc import Callable
from math import cos, pi, sin

from PIL import Image, ImageDraw

from scenes import Colour, mix

Point = tuple[float, float]


class Brush:
    """Draws one thing in its own frame: u from -0.5 to 0.5 across, v from 0 (ground) to 1 (top)."""

    def __init__(
        self,
        canvas: Image.Image,
        x: float,
        ground: float,
        height: float,
        colour: Colour,
        outlined: bool = True,
    ) -> None:
        self.pen = ImageDraw.Draw(canvas)
        self.scale = height * canvas.height
        self.x, self.y = x * canvas.width, ground * canvas.height
        self.main = colour
        bright = sum(colour) > 330
        self.line: Colour = mix(colour, (20, 16, 30), 0.75) if bright else mix(colour, (235, 235, 235), 0.5)
        self.shade = mix(colour, (20, 16, 40), 0.3) if bright else mix(colour, (120, 120, 130), 0.35)
        self.light = mix(colour, (255, 255, 255), 0.4)
        self.width = canvas.width // 80 if outlined else 0

    def at(self, u: float, v: float) -> Point:
        return self.x + u * self.scale, self.y - v * self.scale

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.pen.polygon([self.at(*point) for point in points], fill, self.line, self.width)

    def box(self, u: float, v: float, width: float, height: float, fill: Colour) -> None:
        self.polygon([(u, v), (u + width, v), (u + width, v + height), (u, v + height)], fill)

    def oval(self, u: float, v: float, across: float, up: float, fill: Colour) -> None:
        (left, top), (right, bottom) = self.at(u - across, v + up), self.at(u + across, v - up)
        self.pen.ellipse((left, top, right, bottom), fill, self.line, self.width)

    def path(self, points: list[Point], fill: Colour, width: float) -> None:
        self.pen.line([self.at(*point) for point in points], fill, round(width * self.scale), joint="curve")


def draw_cat(b: Brush) -> None:
    tail = [(0.2 + 0.17 * sin(t * pi / 8), 0.08 + 0.05 * t) for t in range(9)]
    b.path(tail, b.line if b.width else b.main, 0.12)
    b.path(tail, b.main, 0.08)
    b.oval(0, 0.28, 0.25, 0.28, b.main)
    for side in (-1, 1):
        b.polygon([(side * 0.25, 1.0), (side * 0.03, 0.84), (side * 0.24, 0.66)], b.main)
    b.oval(0, 0.68, 0.27, 0.21, b.main)
    b.oval(-0.1, 0.04, 0.09, 0.05, b.light)
    b.oval(0.1, 0.04, 0.09, 0.05, b.light)
    for side in (-1, 1):
        b.oval(side * 0.11, 0.71, 0.055, 0.065, (250, 240, 120))
        b.oval(side * 0.11, 0.71, 0.015, 0.05, (10, 10, 10))
    b.polygon([(-0.04, 0.61), (0.04, 0.61), (0, 0.57)], (250, 120, 140))


def draw_tree(b: Brush) -> None:
    b.box(-0.07, 0, 0.14, 0.45, (110, 70, 40))
    for u, v, r in ((-0.2, 0.52, 0.22), (0.2, 0.52, 0.22), (0, 0.74, 0.26)):
        b.oval(u, v, r, r, b.main)
    b.pen.ellipse((*b.at(-0.25, 0.75), *b.at(0.25, 0.42)), b.main)
    b.pen.ellipse((*b.at(-0.16, 0.9), *b.at(0.02, 0.75)), b.light)


def draw_palm(b: Brush) -> None:
    trunk = [(0.12 - 0.16 * (t / 8) ** 1.6, t / 10) for t in range(9)]
    b.path(trunk, (70, 44, 24), 0.13)
    b.path(trunk, (150, 104, 60), 0.08)
    crown = (-0.04, 0.8)
    for angle in (-40, 15, 60, 120, 165, 220):
        across, up = cos(angle * pi / 180), sin(angle * pi / 180)
        middle = (crown[0] + 0.28 * across, crown[1] + 0.11 + 0.13 * up)
        tip = (crown[0] + 0.52 * across, crown[1] - 0.14 + 0.26 * up)
        b.polygon(
            [crown, (middle[0], middle[1] + 0.1), tip, (middle[0] - 0.05 * across, middle[1] - 0.13)], b.main
        )
    b.oval(-0.04, 0.79, 0.06, 0.05, (120, 74, 30))


def draw_house(b: Brush) -> None:
    b.box(0.18, 0.66, 0.11, 0.28, b.shade)
    b.box(-0.4, 0, 0.8, 0.56, b.main)
    b.polygon([(-0.5, 0.54), (0.5, 0.54), (0, 1.0)], mix(b.shade, (70, 60, 70), 0.55))
    b.box(-0.08, 0, 0.17, 0.32, (84, 52, 34))
    for u in (-0.31, 0.17):
        b.box(u, 0.24, 0.15, 0.16, (255, 240, 170))


def draw_ship(b: Brush) -> None:
    b.box(-0.03, 0.25, 0.05, 0.75, (96, 64, 40))
    b.polygon([(0.03, 0.97), (0.03, 0.36), (0.42, 0.36)], b.light)
    b.polygon([(-0.04, 0.86), (-0.04, 0.36), (-0.34, 0.36)], b.light)
    b.polygon([(-0.56, 0.32), (0.56, 0.32), (0.36, 0), (-0.38, 0)], b.main)
    b.polygon([(-0.51, 0.25), (0.515, 0.25), (0.48, 0.18), (-0.47, 0.18)], b.shade)


def draw_balloon(b: Brush) -> None:
    for side in (-1, 1):
        b.path([(side * 0.24, 0.42), (side * 0.07, 0.14)], (60, 50, 50), 0.025)
    b.polygon([(-0.33, 0.52), (0.33, 0.52), (0.1, 0.25), (-0.1, 0.25)], b.main)
    b.oval(0, 0.66, 0.37, 0.34, b.main)
    b.oval(0, 0.66, 0.13, 0.34, b.light)
    b.box(-0.09, 0, 0.18, 0.15, (150, 100, 52))


def draw_castle(b: Brush) -> None:
    b.box(-0.3, 0, 0.6, 0.55, b.main)
    for u in (-0.3, -0.12, 0.06, 0.2):
        b.box(u, 0.55, 0.1, 0.09, b.main)
    for u in (-0.5, 0.24):
        b.box(u, 0, 0.26, 0.72, b.main)
        b.polygon([(u - 0.04, 0.72), (u + 0.3, 0.72), (u + 0.13, 1.0)], b.shade)
        b.box(u + 0.09, 0.42, 0.08, 0.14, (40, 30, 40))
    b.box(-0.1, 0, 0.2, 0.3, (60, 40, 34))


DRAWERS: dict[str, Callable[[Brush], None]] = {
    "cat": draw_cat,
    "tree": draw_tree,
    "palm tree": draw_palm,
    "house": draw_house,
    "ship": draw_ship,
    "hot-air balloon": draw_balloon,
    "castle": draw_castle,
}
