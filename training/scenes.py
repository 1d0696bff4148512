"""The world that postcards knows, as data: skies, places, things, colours, styles, held-out pairs."""

from dataclasses import dataclass
from random import Random

Colour = tuple[int, int, int]

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
HELD_OUT_COLOURS = {
    ("purple", "cat"),
    ("blue", "tree"),
    ("orange", "castle"),
    ("pink", "ship"),
    ("yellow", "house"),
}
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


def sample_scene(rng: Random, held_out: bool = False, natural: float = 0.25) -> Scene:
    """A random scene: 10 % without a thing, 22 % with two; held-out combinations only if they are asked for.

    `natural` is the share of scenes whose thing is what their place has anyway.
    """
    while True:
        sky, place = rng.choice(SKIES), rng.choice(PLACES)
        style = rng.choices(STYLES, (55, 15, 15, 15))[0]
        kind, colour = (
            NATURAL[place] if rng.random() < natural else (rng.choice(KINDS), rng.choice(list(COLOURS)))
        )
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
                else tuple(
                    Thing(thing.kind, thing.colour, side)
                    for thing, side in zip(things, ("right", "left"), strict=True)
                )
            )
        scene = Scene(sky, place, things, style)
        if held_out or not scene.held_out:
            return scene


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a, channel by channel."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]
