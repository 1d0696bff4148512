"""Skies and places: what stands behind the things and under them."""

from collections.abc import Callable
from math import cos, pi, sin
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from scenes import Colour, Scene, mix

Point = tuple[float, float]
SKY_GRADIENTS: dict[str, tuple[Colour, Colour]] = {
    "day": ((112, 172, 230), (206, 230, 246)),
    "sunshine": ((66, 150, 240), (170, 220, 252)),
    "sunset": ((116, 62, 140), (255, 158, 66)),
    "night": ((8, 12, 46), (34, 50, 104)),
    "cosmic": ((46, 8, 82), (190, 46, 150)),
}
# Light of the sky on the ground: colour and share.
GROUND_LIGHT: dict[str, tuple[Colour, float]] = {
    "day": ((150, 170, 190), 0.08),
    "sunshine": ((255, 240, 180), 0.06),
    "sunset": ((190, 80, 70), 0.3),
    "night": ((12, 18, 60), 0.55),
    "cosmic": ((90, 20, 120), 0.4),
}
GROUND: dict[str, Colour] = {
    "beach": (240, 214, 150),
    "desert": (222, 148, 72),
    "meadow": (104, 184, 72),
    "mountains": (112, 128, 96),
    "snow": (240, 246, 252),
    "ocean": (30, 104, 176),
}


def lit(colour: Colour, sky: str) -> Colour:
    """A colour of the ground in the light of a sky."""
    light, share = GROUND_LIGHT[sky]
    return mix(colour, light, share)


class Pen:
    """Draws on a square canvas in shares of its side, (0, 0) at the top left."""

    def __init__(self, canvas: Image.Image, scene: Scene, rng: Random) -> None:
        self.pen, self.side = ImageDraw.Draw(canvas), canvas.width
        self.scene, self.rng = scene, rng

    def disc(self, x: float, y: float, radius: float, fill: Colour, squash: float = 1.0) -> None:
        box = (x - radius, y - radius * squash, x + radius, y + radius * squash)
        self.pen.ellipse([edge * self.side for edge in box], fill)

    def line(self, points: list[Point], fill: Colour, width: float) -> None:
        self.pen.line([(x * self.side, y * self.side) for x, y in points], fill, int(self.side * width))

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill)

    def hill(self, level: float, swell: float, waves: float, fill: Colour) -> None:
        """Everything below a wave around `level`, `swell` high."""
        phase = self.rng.uniform(0, 2 * pi)
        edge = [(x / 24, level - swell * sin(waves * x / 24 * pi + phase)) for x in range(25)]
        self.polygon([*edge, (1, 1), (0, 1)], fill)


# --- skies --------------------------------------------------------------------------------------------------


def paint_sky(scene: Scene, side: int, rng: Random) -> Image.Image:
    """A canvas of side × side pixels with the sky of a scene."""
    top, bottom = (np.array(colour, dtype=np.float32) for colour in SKY_GRADIENTS[scene.sky])
    ramp = np.linspace(0, 1.5, side, dtype=np.float32).clip(0, 1)[:, None, None]
    rows = top + (bottom - top) * ramp
    canvas = Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype(np.uint8), "RGB")
    corner = (rng.choice((0.17, 0.83)) + rng.uniform(-0.05, 0.05), rng.uniform(0.14, 0.22))
    SKIES[scene.sky](Pen(canvas, scene, rng), *corner)
    return canvas


def _day(pen: Pen, _x: float, _y: float) -> None:
    for middle in (0.2, 0.75):
        x, y = middle + pen.rng.uniform(-0.1, 0.1), pen.rng.uniform(0.1, 0.3)
        for shift, radius in ((-0.11, 0.06), (0, 0.085), (0.11, 0.065)):
            pen.disc(x + shift, y, radius, (250, 252, 255), 0.8)


def _sunshine(pen: Pen, x: float, y: float) -> None:
    for ray in range(10):
        angle = ray * pi / 5 + 0.3
        pen.line([(x, y), (x + 0.19 * cos(angle), y + 0.19 * sin(angle))], (255, 232, 120), 1 / 45)
    pen.disc(x, y, 0.115, (255, 220, 50))


def _sunset(pen: Pen, _x: float, _y: float) -> None:
    pen.disc(pen.rng.choice((0.3, 0.5, 0.7)) + pen.rng.uniform(-0.08, 0.08), 0.52, 0.17, (255, 226, 110))


def _stars(pen: Pen) -> None:
    for _ in range(16 * pen.scene.specks):
        pen.disc(pen.rng.random(), pen.rng.uniform(0, 0.55), 0.011, (236, 238, 255))


def _night(pen: Pen, x: float, y: float) -> None:
    _stars(pen)
    pen.disc(x, y, 0.1, (246, 242, 206))
    pen.disc(x + 0.05, y - 0.03, 0.085, mix(*SKY_GRADIENTS["night"], 0.3))


def _cosmic(pen: Pen, x: float, y: float) -> None:
    _stars(pen)
    pen.line([(0, pen.rng.uniform(0.3, 0.45)), (1, pen.rng.uniform(0.05, 0.3))], (120, 60, 200), 1 / 9)
    pen.disc(x, y, 0.11, (70, 214, 204))
    ring = [edge * pen.side for edge in (x - 0.18, y - 0.05, x + 0.18, y + 0.05)]
    pen.pen.arc(ring, 0, 360, (255, 206, 140), pen.side // 50)


SKIES: dict[str, Callable[[Pen, float, float], None]] = {
    "day": _day,
    "sunshine": _sunshine,
    "sunset": _sunset,
    "night": _night,
    "cosmic": _cosmic,
}


# --- places -------------------------------------------------------------------------------------------------


def paint_place(canvas: Image.Image, scene: Scene, horizon: float, rng: Random) -> None:
    """Paint the place of a scene below the horizon (a share of the height)."""
    PLACES[scene.place](Pen(canvas, scene, rng), horizon, lit(GROUND[scene.place], scene.sky))


def _beach(pen: Pen, horizon: float, sand: Colour) -> None:
    pen.polygon([(0, horizon), (1, horizon), (1, 1), (0, 1)], lit((40, 140, 200), pen.scene.sky))
    pen.hill(horizon + 0.12, 0.015, 3, lit((248, 250, 250), pen.scene.sky))
    pen.hill(horizon + 0.145, 0.015, 3, sand)


def _desert(pen: Pen, horizon: float, sand: Colour) -> None:
    pen.hill(horizon - 0.02, 0.06, 1.5, mix(sand, (255, 220, 150), 0.25))
    pen.hill(horizon + 0.1, 0.05, 2, sand)
    pen.hill(horizon + 0.26, 0.04, 1.7, mix(sand, (120, 60, 20), 0.2))


def _meadow(pen: Pen, horizon: float, grass: Colour) -> None:
    pen.hill(horizon, 0.03, 2, grass)
    pen.hill(horizon + 0.2, 0.02, 2.5, mix(grass, (30, 110, 40), 0.25))
    for _ in range(14 * pen.scene.specks):
        x, y = pen.rng.random(), pen.rng.uniform(horizon + 0.1, 0.98)
        flower = pen.rng.choice(((255, 240, 120), (250, 250, 250), (250, 120, 140)))
        pen.disc(x, y, 1 / 60, lit(flower, pen.scene.sky))


def _mountains(pen: Pen, horizon: float, ground: Colour) -> None:
    for middle in (0.16, 0.84, 0.5):
        x, peak = middle + pen.rng.uniform(-0.08, 0.08), horizon - pen.rng.uniform(0.3, 0.4)
        _mountain(pen, x, peak, horizon - peak + 0.06)
    pen.hill(horizon + 0.02, 0.015, 3, ground)


def _mountain(pen: Pen, x: float, peak: float, height: float) -> None:
    rock, cap = lit((112, 112, 134), pen.scene.sky), lit((246, 248, 252), pen.scene.sky)

    def slope(share: float, across: float) -> Point:
        return x + across * share * height * 0.95, peak + share * height

    pen.polygon([slope(0, 0), slope(1, -1), slope(1, 1)], rock)
    pen.polygon([slope(0, 0), slope(1, 0.25), slope(1, 1)], mix(rock, (20, 20, 40), 0.25))
    pen.polygon([slope(0, 0), slope(0.34, -1), slope(0.26, -0.2), slope(0.38, 0.2), slope(0.34, 1)], cap)


def _snow(pen: Pen, horizon: float, snow: Colour) -> None:
    pen.hill(horizon, 0.04, 1.5, mix(snow, lit((170, 200, 236), pen.scene.sky), 0.5))
    pen.hill(horizon + 0.12, 0.03, 2, snow)
    for _ in range(22 * pen.scene.specks):
        pen.disc(pen.rng.random(), pen.rng.random(), 1 / 75, (252, 252, 255))


def _ocean(pen: Pen, horizon: float, water: Colour) -> None:
    pen.polygon([(0, horizon), (1, horizon), (1, 1), (0, 1)], water)
    for row in range(4):
        y, phase = horizon + 0.06 + 0.095 * row, pen.rng.uniform(0, 2 * pi)
        crest = [(x / 48, y + sin(x * pi / 4 + phase) / 70) for x in range(49)]
        pen.line(crest, mix(water, (200, 230, 250), 0.45), 1 / 48)


PLACES: dict[str, Callable[[Pen, float, Colour], None]] = {
    "beach": _beach,
    "desert": _desert,
    "meadow": _meadow,
    "mountains": _mountains,
    "snow": _snow,
    "ocean": _ocean,
}
