"""Captions of a scene in several wordings, from one word to all of it."""

from collections.abc import Iterator
from random import Random

from scenes import COLOURS, KINDS, STYLES, Scene, Thing

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
# Words of praise that people type; they change nothing in the image.
FILLERS = (
    "beautiful",
    "lovely",
    "paradise",
    "peaceful",
    "wonderful",
    "dreamy",
    "pretty",
    "calm",
    "magical",
    "quiet",
)
SUFFIXES = ("detailed", "high quality", "masterpiece", "best quality", "colorful", "4k", "art")


def caption(scene: Scene, rng: Random) -> str:
    """Word a scene: from one word to all of it.

    A style that is not said is plain; what else is unsaid may be anything.
    """
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


def with_article(words: str) -> str:
    """ "a red house", "an orange cat"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _sentence(style: str, sky: str | None, place: str | None, things: list[str], rng: Random) -> str:
    prefix = rng.choice(STYLE_PREFIXES[style])
    parts = [" and ".join(with_article(thing) for thing in things)] if any(things) else []
    if place and not parts:
        filler = "empty " if things == [""] else f"{rng.choice(FILLERS)} " if rng.random() < 0.1 else ""
        noun = rng.choice(PLACE_NOUNS[place])
        parts.append(filler + noun if noun in MASS_NOUNS else with_article(filler + noun))
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
    tail = " and ".join(with_article(thing) for thing in things if thing)
    text = f"{head} with {tail}" if head and tail else head or tail
    return f"{text}, {style}" if style != "plain" else text


def caption_with_position(scene: Scene, rng: Random) -> str:
    """Word a scene as `caption` does; one time in five say where its things stand."""
    if scene.things and rng.random() < 0.2:
        named = " and ".join(
            f"{with_article(_thing_words(scene, thing, rng, 1.0))} "
            f"{rng.choice(POSITION_PHRASES[thing.position])}"
            for thing in scene.things
        )
        place = f" {rng.choice(PLACE_PHRASES[scene.place])}" if rng.random() < 0.8 else ""
        sky = f" {rng.choice(SKY_PHRASES[scene.sky])}" if rng.random() < 0.8 else ""
        return f"{rng.choice(STYLE_PREFIXES[scene.style])}{named}{place}{sky}"
    return caption(scene, rng)


def every_word() -> Iterator[str]:
    """Every word that a caption can hold: the vocabulary of the tokenizer."""
    tables: list[dict[str, tuple[str, ...]]] = [
        SKY_PHRASES, SKY_TAGS, PLACE_PHRASES, PLACE_NOUNS, KIND_WORDS, STYLE_PREFIXES, POSITION_PHRASES,
        COLOUR_WORDS,
    ]  # fmt: skip
    phrases = [phrase for table in tables for row in table.values() for phrase in row]
    phrases += [*COLOURS, *KINDS, *STYLES, *FILLERS, *SUFFIXES, "a an and with empty of the , -"]
    yield from sorted({word for phrase in phrases for word in phrase.replace("-", " - ").split()})
