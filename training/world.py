"""The world that the postcards model knows: scenes drawn by a program, and captions in several wordings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi, sin
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (208, 36, 40),
    "orange": (244, 130, 24),
    "yellow": (248, 212, 44),
    "green": (56, 158, 60),
    "blue": (40, 96, 216),
    "purple": (132, 56, 182),
    "pink": (248, 138, 192),
    "brown": (126, 76, 40),
    "black": (34, 34, 42),
    "white": (246, 246, 246),
}
SKIES = ("day", "sunshine", "sunset", "night", "cosmic")
PLACES = ("beach", "desert", "meadow", "mountains", "snow", "ocean")
KINDS = ("cat", "tree", "palm tree", "house", "ship", "hot-air balloon", "castle")
STYLES = ("plain", "oil painting", "pixel art", "pencil sketch")
POSITIONS = {"left": 0.25, "centre": 0.5, "right": 0.75}

# What a place has when nobody asks for a thing; the caption then often leaves it unsaid.
NATURAL = {
    "beach": ("palm tree", "green"),
    "desert": ("hot-air balloon", "red"),
    "meadow": ("tree", "green"),
    "mountains": ("tree", "green"),
    "snow": ("house", "brown"),
    "ocean": ("ship", "white"),
}
# Never drawn for training, so that the scores say whether the model composes.
HELD_OUT_COLOURS = {("purple", "cat"), ("blue", "tree"), ("orange", "castle"), ("pink", "ship"), ("yellow", "house")}
HELD_OUT_PLACES = {("castle", "desert"), ("cat", "snow"), ("house", "ocean"), ("ship", "meadow")}


@dataclass(frozen=True)
class Thing:
    kind: str
    colour: str
    position: str

    @property
    def words(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    sky: str
    place: str
    things: tuple[Thing, ...]
    style: str

    @property
    def held_out(self) -> bool:
        return any(
            (thing.colour, thing.kind) in HELD_OUT_COLOURS or (thing.kind, self.place) in HELD_OUT_PLACES
            for thing in self.things
        )

    @property
    def specks(self) -> bool:
        """Whether stars, flowers and snowflakes are drawn: lines and blocks would make dirt of them."""
        return self.style in ("plain", "oil painting")

    @property
    def natural(self) -> bool:
        return [(thing.kind, thing.colour) for thing in self.things] == [NATURAL[self.place]]


def sample_scene(rng: Random, held_out: bool = False) -> Scene:
    """A random scene: 10 % without a thing, 22 % with two; held-out combinations only if they are asked for."""
    while True:
        sky, place = rng.choice(SKIES), rng.choice(PLACES)
        style = rng.choices(STYLES, (55, 15, 15, 15))[0]
        kind, colour = NATURAL[place] if rng.random() < 0.25 else (rng.choice(KINDS), rng.choice(list(COLOURS)))
        things: tuple[Thing, ...] = (Thing(kind, colour, rng.choice(list(POSITIONS))),)
        luck = rng.random()
        if luck < 0.1:
            things = ()
        elif luck < 0.32:
            other = rng.choice([other for other in KINDS if other != kind])
            things = (Thing(kind, colour, "left"), Thing(other, rng.choice(list(COLOURS)), "right"))
            things = (
                things
                if rng.random() < 0.5
                else tuple(Thing(thing.kind, thing.colour, side) for thing, side in zip(things, ("right", "left"), strict=True))
            )
        scene = Scene(sky, place, things, style)
        if held_out or not scene.held_out:
            return scene


# --- captions -----------------------------------------------------------------------------------------------------

SKY_PHRASES = {
    "day": ("by day", "in daylight", "under a blue sky", "under a cloudy sky", "in the day"),
    "sunshine": ("in sunshine", "on a sunny day", "under the sun", "in the sun"),
    "sunset": ("at sunset", "at dusk", "in the evening", "during sunset"),
    "night": ("at night", "by moonlight", "under the stars", "under the moon"),
    "cosmic": ("in the cosmos", "under a cosmic sky", "in space", "under a galaxy", "among the planets"),
}
SKY_TAGS = {
    "day": ("day", "daylight", "blue sky", "cloudy"),
    "sunshine": ("sunshine", "sunny", "sun"),
    "sunset": ("sunset", "dusk", "evening"),
    "night": ("night", "starry", "moonlight", "stars"),
    "cosmic": ("cosmic", "galaxy", "space", "cosmos"),
}
SKY_NOUNS = {
    "day": "a cloudy sky",
    "sunshine": "a sunny day",
    "sunset": "a sunset",
    "night": "a starry night",
    "cosmic": "a galaxy",
}
PLACE_PHRASES = {
    "beach": ("on a beach", "on the beach", "at the beach", "on the sand of a beach"),
    "desert": ("in a desert", "in the desert", "among dunes"),
    "meadow": ("in a meadow", "on a meadow", "on the grass", "in a field"),
    "mountains": ("in the mountains", "in front of mountains", "before a mountain", "near the mountains"),
    "snow": ("in the snow", "in winter", "on snow", "in a snowy landscape"),
    "ocean": ("on the ocean", "in the ocean", "at sea", "on the water", "on the sea"),
}
PLACE_NOUNS = {
    "beach": ("beach",),
    "desert": ("desert", "dunes"),
    "meadow": ("meadow", "field", "grass"),
    "mountains": ("mountains", "mountain", "mountain landscape"),
    "snow": ("snow", "snowy landscape", "winter landscape", "winter"),
    "ocean": ("ocean", "sea", "water"),
}
MASS_NOUNS = {"dunes", "grass", "mountains", "snow", "winter", "water"}
KIND_WORDS = {
    "cat": ("cat", "kitten"),
    "palm tree": ("palm tree", "palm"),
    "ship": ("ship", "boat", "sailing ship", "sailboat"),
    "hot-air balloon": ("hot-air balloon", "balloon", "hot air balloon"),
    "house": ("house", "home", "hut"),
}
STYLE_PREFIXES = {
    "plain": ("", "", "", "", "a picture of ", "a postcard of ", "an illustration of ", "a drawing of "),
    "oil painting": ("an oil painting of ", "a painting of ", "oil painting of "),
    "pixel art": ("pixel art of ", "a pixel art picture of ", "pixel art "),
    "pencil sketch": ("a pencil sketch of ", "a sketch of ", "a pencil drawing of "),
}
POSITION_PHRASES = {
    "left": ("on the left", "at left"),
    "centre": ("in the centre", "in the middle", "in the center"),
    "right": ("on the right", "at right"),
}
COLOUR_WORDS = {"purple": ("purple", "violet"), "white": ("white",), "black": ("black",)}
# Words of praise that people type; they change nothing in the picture.
FILLERS = ("beautiful", "lovely", "paradise", "peaceful", "wonderful", "dreamy", "pretty", "calm", "magical", "quiet")
SUFFIXES = ("detailed", "high quality", "masterpiece", "best quality", "colorful", "4k", "art")


def caption(scene: Scene, rng: Random) -> str:
    """Word a scene: from one word to all of it. A style that is not said is plain; what else is unsaid may be anything."""
    detail = rng.random()
    keep = 1.0 if detail < 0.55 else 0.6 if detail < 0.88 else 0.3
    sky = scene.sky if rng.random() < keep else None
    place = scene.place if rng.random() < keep else None
    hide_things = rng.random() < (0.6 if scene.natural else 0.07)
    things = [] if hide_things else [_thing_words(scene, thing, rng, keep) for thing in scene.things]
    if not scene.things and rng.random() < 0.4:
        things = [""]
    if not (sky or place or any(things)):
        sky, place = rng.choice(((scene.sky, None), (None, scene.place)))
    wording = rng.choices((_sentence, _tags, _noun_phrase), (0.6, 0.2, 0.2))[0]
    return wording(scene.style, sky, place, things, rng)


def _thing_words(scene: Scene, thing: Thing, rng: Random, keep: float) -> str:
    words = [rng.choice(KIND_WORDS.get(thing.kind, (thing.kind,)))]
    if rng.random() < (0.4 if scene.natural else 0.6 + 0.4 * keep):
        words.insert(0, rng.choice(COLOUR_WORDS.get(thing.colour, (thing.colour,))))
    return " ".join(words)


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _sentence(style: str, sky: str | None, place: str | None, things: list[str], rng: Random) -> str:
    prefix = rng.choice(STYLE_PREFIXES[style])
    parts = [" and ".join(_article(thing) for thing in things)] if any(things) else []
    if place and not parts:
        filler = "empty " if things == [""] else f"{rng.choice(FILLERS)} " if rng.random() < 0.1 else ""
        noun = rng.choice(PLACE_NOUNS[place])
        parts.append(filler + noun if noun in MASS_NOUNS else _article(filler + noun))
    elif place:
        parts.append(rng.choice(PLACE_PHRASES[place]))
    if sky:
        parts.append(rng.choice(SKY_PHRASES[sky]) if parts else SKY_NOUNS[sky])
    suffix = f", {rng.choice(SUFFIXES)}" if rng.random() < 0.06 else ""
    return prefix + " ".join(parts) + suffix


def _tags(style: str, sky: str | None, place: str | None, things: list[str], rng: Random) -> str:
    tags = [thing for thing in things if thing]
    tags += [rng.choice(PLACE_NOUNS[place])] if place else []
    tags += [rng.choice(SKY_TAGS[sky])] if sky else []
    tags += [style] if style != "plain" else []
    tags += [rng.choice(SUFFIXES + FILLERS)] if rng.random() < 0.1 else []
    if rng.random() < 0.5:
        rng.shuffle(tags)
    return (", " if rng.random() < 0.7 else " ").join(tags)


def _noun_phrase(style: str, sky: str | None, place: str | None, things: list[str], rng: Random) -> str:
    words = [rng.choice(FILLERS)] if (sky or place) and rng.random() < 0.2 else []
    words += [rng.choice(SKY_TAGS[sky])] if sky else []
    words += [rng.choice(PLACE_NOUNS[place])] if place else []
    head = " ".join(words)
    tail = " and ".join(_article(thing) for thing in things if thing)
    text = f"{head} with {tail}" if head and tail else head or tail
    return f"{text}, {style}" if style != "plain" else text


def caption_with_position(scene: Scene, rng: Random) -> str:
    """Word a scene as `caption` does; one time in five say where its things stand."""
    if scene.things and rng.random() < 0.2:
        named = " and ".join(
            f"{_article(_thing_words(scene, thing, rng, 1.0))} {rng.choice(POSITION_PHRASES[thing.position])}"
            for thing in scene.things
        )
        place = f" {rng.choice(PLACE_PHRASES[scene.place])}" if rng.random() < 0.8 else ""
        sky = f" {rng.choice(SKY_PHRASES[scene.sky])}" if rng.random() < 0.8 else ""
        return f"{rng.choice(STYLE_PREFIXES[scene.style])}{named}{place}{sky}"
    return caption(scene, rng)


def every_word() -> Iterator[str]:
    """Every word that a caption can hold: the vocabulary of the tokenizer."""
    tables: list[dict[str, tuple[str, ...]]] = [
        SKY_PHRASES, SKY_TAGS, PLACE_PHRASES, PLACE_NOUNS, KIND_WORDS, STYLE_PREFIXES, POSITION_PHRASES, COLOUR_WORDS,
    ]  # fmt: skip
    phrases = [phrase for table in tables for row in table.values() for phrase in row]
    phrases += [*COLOURS, *KINDS, *STYLES, *FILLERS, *SUFFIXES, "a an and with empty of the , -"]
    yield from sorted({word for phrase in phrases for word in phrase.replace("-", " - ").split()})


# --- drawing ------------------------------------------------------------------------------------------------------


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a, channel by channel."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


class Brush:
    """Draws one thing in its own frame: u from -0.5 to 0.5 across, v from 0 (ground) to 1 (top)."""

    def __init__(
        self, canvas: Image.Image, x: float, ground: float, height: float, colour: Colour, outlined: bool = True
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
        b.polygon([crown, (middle[0], middle[1] + 0.1), tip, (middle[0] - 0.05 * across, middle[1] - 0.13)], b.main)
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
SUPERSAMPLE = 4
PIXEL_ART_BLOCK = 4  # pixels


def draw(scene: Scene, size: int, rng: Random) -> Image.Image:
    """Paint a scene as an RGB image of size × size pixels; `rng` moves everything that the scene leaves open."""
    canvas = _sky(scene, size * SUPERSAMPLE, rng)
    horizon = rng.uniform(0.56, 0.64)
    _ground(canvas, scene, horizon, rng)
    for thing in scene.things:
        _place_thing(canvas, scene, thing, horizon, rng)
    return STYLE_FILTERS[scene.style](canvas, size)


def _place_thing(canvas: Image.Image, scene: Scene, thing: Thing, horizon: float, rng: Random) -> None:
    two, outlined = len(scene.things) == 2, scene.style != "pixel art"
    height = rng.uniform(0.4, 0.47) if two else rng.uniform(0.48, 0.62)
    x = POSITIONS[thing.position] + rng.uniform(-0.04, 0.04)
    ground = horizon + rng.uniform(0.14, 0.26)
    if thing.kind == "hot-air balloon":
        ground = rng.uniform(0.06, 0.14) + height
    tone = tuple(max(0, min(255, channel + rng.randint(-9, 9))) for channel in COLOURS[thing.colour])
    if scene.place == "ocean" and thing.kind not in ("ship", "hot-air balloon"):
        island = Brush(canvas, x, ground, height, _lit((232, 206, 140), scene.sky), outlined)
        island.oval(0, -0.02, 0.6, 0.1, island.main)
    DRAWERS[thing.kind](Brush(canvas, x, ground, height, tone, outlined))  # type: ignore[arg-type]


def _lit(colour: Colour, sky: str) -> Colour:
    light, share = GROUND_LIGHT[sky]
    return mix(colour, light, share)


def _sky(scene: Scene, side: int, rng: Random) -> Image.Image:
    sky = scene.sky
    top, bottom = (np.array(colour, dtype=np.float32) for colour in SKY_GRADIENTS[sky])
    ramp = np.linspace(0, 1.5, side, dtype=np.float32).clip(0, 1)[:, None, None]
    rows = top + (bottom - top) * ramp
    canvas = Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(canvas)

    def disc(x: float, y: float, radius: float, fill: Colour, squash: float = 1.0) -> None:
        box = (x - radius, y - radius * squash, x + radius, y + radius * squash)
        pen.ellipse([edge * side for edge in box], fill)

    side_x = rng.choice((0.17, 0.83)) + rng.uniform(-0.05, 0.05)
    height = rng.uniform(0.14, 0.22)
    if sky == "sunshine":
        for ray in range(10):
            angle = ray * pi / 5 + 0.3
            tip = ((side_x + 0.19 * cos(angle)) * side, (height + 0.19 * sin(angle)) * side)
            pen.line([(side_x * side, height * side), tip], (255, 232, 120), side // 45)
        disc(side_x, height, 0.115, (255, 220, 50))
    if sky == "day":
        for x in (0.2, 0.75):
            x, y = x + rng.uniform(-0.1, 0.1), rng.uniform(0.1, 0.3)
            for shift, radius in ((-0.11, 0.06), (0, 0.085), (0.11, 0.065)):
                disc(x + shift, y, radius, (250, 252, 255), 0.8)
    if sky == "sunset":
        disc(rng.choice((0.3, 0.5, 0.7)) + rng.uniform(-0.08, 0.08), 0.52, 0.17, (255, 226, 110))
    if sky in ("night", "cosmic"):
        for _ in range(16 * scene.specks):
            disc(rng.random(), rng.uniform(0, 0.55), 0.011, (236, 238, 255))
    if sky == "night":
        disc(side_x, height, 0.1, (246, 242, 206))
        disc(side_x + 0.05, height - 0.03, 0.085, mix(SKY_GRADIENTS[sky][0], SKY_GRADIENTS[sky][1], 0.3))
    if sky == "cosmic":
        pen.line([(0, side * rng.uniform(0.3, 0.45)), (side, side * rng.uniform(0.05, 0.3))], (120, 60, 200), side // 9)
        disc(side_x, height, 0.11, (70, 214, 204))
        ring = [edge * side for edge in (side_x - 0.18, height - 0.05, side_x + 0.18, height + 0.05)]
        pen.arc(ring, 0, 360, (255, 206, 140), side // 50)
    return canvas


def _ground(canvas: Image.Image, scene: Scene, horizon: float, rng: Random) -> None:
    side, pen = canvas.width, ImageDraw.Draw(canvas)
    base = _lit(GROUND[scene.place], scene.sky)

    def hill(level: float, swell: float, waves: float, fill: Colour) -> None:
        phase = rng.uniform(0, 2 * pi)
        edge = [(x / 24 * side, (level - swell * sin(waves * x / 24 * pi + phase)) * side) for x in range(25)]
        pen.polygon([*edge, (side, side), (0, side)], fill)

    match scene.place:
        case "beach":
            sea = _lit((40, 140, 200), scene.sky)
            pen.rectangle((0, horizon * side, side, side), sea)
            hill(horizon + 0.12, 0.015, 3, _lit((248, 250, 250), scene.sky))
            hill(horizon + 0.145, 0.015, 3, base)
        case "desert":
            hill(horizon - 0.02, 0.06, 1.5, mix(base, (255, 220, 150), 0.25))
            hill(horizon + 0.1, 0.05, 2, base)
            hill(horizon + 0.26, 0.04, 1.7, mix(base, (120, 60, 20), 0.2))
        case "meadow":
            hill(horizon, 0.03, 2, base)
            hill(horizon + 0.2, 0.02, 2.5, mix(base, (30, 110, 40), 0.25))
            for _ in range(14 * scene.specks):
                x, y = rng.random() * side, rng.uniform(horizon + 0.1, 0.98) * side
                fill = _lit(rng.choice(((255, 240, 120), (250, 250, 250), (250, 120, 140))), scene.sky)
                pen.ellipse((x - side / 60, y - side / 60, x + side / 60, y + side / 60), fill)
        case "mountains":
            for x in (0.16, 0.84, 0.5):
                x, peak = x + rng.uniform(-0.08, 0.08), horizon - rng.uniform(0.3, 0.4)
                _mountain(pen, side, (x, peak), horizon, scene.sky)
            hill(horizon + 0.02, 0.015, 3, base)
        case "snow":
            hill(horizon, 0.04, 1.5, mix(base, _lit((170, 200, 236), scene.sky), 0.5))
            hill(horizon + 0.12, 0.03, 2, base)
            for _ in range(22 * scene.specks):
                x, y = rng.random() * side, rng.random() * side
                pen.ellipse((x - side / 75, y - side / 75, x + side / 75, y + side / 75), (252, 252, 255))
        case "ocean":
            pen.rectangle((0, horizon * side, side, side), base)
            for row in range(4):
                y = (horizon + 0.06 + 0.095 * row) * side
                phase = rng.uniform(0, 2 * pi)
                crest = [(x / 48 * side, y + side / 70 * sin(x * pi / 4 + phase)) for x in range(49)]
                pen.line(crest, mix(base, (200, 230, 250), 0.45), side // 48)


def _mountain(pen: ImageDraw.ImageDraw, side: int, peak: Point, foot: float, sky: str) -> None:
    rock, cap = _lit((112, 112, 134), sky), _lit((246, 248, 252), sky)
    height = foot - peak[1] + 0.06

    def slope(share: float, across: float) -> Point:
        return (peak[0] + across * share * height * 0.95) * side, (peak[1] + share * height) * side

    pen.polygon([slope(0, 0), slope(1, -1), slope(1, 1)], rock)
    pen.polygon([slope(0, 0), slope(1, 0.25), slope(1, 1)], mix(rock, (20, 20, 40), 0.25))
    pen.polygon([slope(0, 0), slope(0.34, -1), slope(0.26, -0.2), slope(0.38, 0.2), slope(0.34, 1)], cap)


def _plain(canvas: Image.Image, size: int) -> Image.Image:
    return canvas.resize((size, size), Image.Resampling.BOX)


def _oil_painting(canvas: Image.Image, size: int) -> Image.Image:
    """Broad strokes: the middle colour around each point, rich colours, a slanting canvas of light and dark."""
    small = canvas.resize((size * 2, size * 2), Image.Resampling.BOX)
    strokes = ImageEnhance.Color(small.filter(ImageFilter.MedianFilter(7))).enhance(1.35)
    strokes = strokes.resize((size, size), Image.Resampling.BOX)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (64 / size)
    weave = 13 * np.sin((x + y * 0.6) * 0.75) * np.sin((x - y) * 0.22)
    pixels = np.asarray(strokes, dtype=np.float32) + weave[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")


def _pixel_art(canvas: Image.Image, size: int) -> Image.Image:
    blocks = size // PIXEL_ART_BLOCK
    small = canvas.resize((blocks * 2, blocks * 2), Image.Resampling.BOX).filter(ImageFilter.MedianFilter(3))
    small = ImageEnhance.Color(small.resize((blocks, blocks), Image.Resampling.NEAREST)).enhance(1.25)
    return small.quantize(14).convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def _pencil_sketch(canvas: Image.Image, size: int) -> Image.Image:
    """Dark lines where colours meet, over a pale wash of the colours."""
    soft = canvas.resize((size * 2, size * 2), Image.Resampling.BOX)
    grey = soft.convert("L").filter(ImageFilter.FIND_EDGES).crop((2, 2, size * 2 - 2, size * 2 - 2))
    lines = np.asarray(grey.resize((size, size), Image.Resampling.BOX), dtype=np.float32)[..., None]
    wash = np.asarray(soft.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    pixels = (252 - (252 - wash) * 0.5) - 2.4 * (lines - 8).clip(0)
    return Image.fromarray(pixels.clip(24, 255).astype(np.uint8), "RGB")


STYLE_FILTERS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "plain": _plain,
    "oil painting": _oil_painting,
    "pixel art": _pixel_art,
    "pencil sketch": _pencil_sketch,
}
