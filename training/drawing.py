"""Draw a scene: sky, place and things on a large canvas, then the style at the final size."""

from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from landscape import lit, paint_place, paint_sky
from scenes import COLOURS, POSITIONS, Colour, Scene, Thing
from things import DRAWERS, Brush

SUPERSAMPLE = 4
PIXEL_ART_BLOCK = 4  # pixels
NO_COLOUR = (1, 2, 3)  # which nothing is drawn in
Frame = tuple[float, float, float, Colour, bool]  # of a Brush, after its canvas


def draw(scene: Scene, size: int, rng: Random) -> Image.Image:
    """Paint a scene as an RGB image of size × size pixels; `rng` decides what the scene leaves open."""
    canvas, _ = _paint(scene, size, rng)
    return STYLE_FILTERS[scene.style](canvas, size)


def draw_with_masks(scene: Scene, size: int, rng: Random) -> tuple[Image.Image, list[Image.Image]]:
    """The same image, and for each thing of the scene a mask in mode L: 255 where it was drawn, else 0."""
    canvas, frames = _paint(scene, size, rng)
    masks = []
    for thing, frame in zip(scene.things, frames, strict=True):
        alone = Image.new("RGB", canvas.size, NO_COLOUR)
        DRAWERS[thing.kind](Brush(alone, *frame))
        drawn = Image.fromarray((np.asarray(alone) != NO_COLOUR).any(axis=2))
        shares = drawn.convert("L").resize((size, size), Image.Resampling.BOX)
        masks.append(shares.point(lambda share: 255 if share >= 128 else 0))
    return STYLE_FILTERS[scene.style](canvas, size), masks


def _paint(scene: Scene, size: int, rng: Random) -> tuple[Image.Image, list[Frame]]:
    canvas = paint_sky(scene, size * SUPERSAMPLE, rng)
    horizon = rng.uniform(0.56, 0.64)
    paint_place(canvas, scene, horizon, rng)
    return canvas, [_place_thing(canvas, scene, thing, horizon, rng) for thing in scene.things]


def _place_thing(canvas: Image.Image, scene: Scene, thing: Thing, horizon: float, rng: Random) -> Frame:
    two, outlined = len(scene.things) == 2, scene.style != "pixel art"
    height = rng.uniform(0.4, 0.47) if two else rng.uniform(0.48, 0.62)
    x = POSITIONS[thing.position] + rng.uniform(-0.04, 0.04)
    ground = horizon + rng.uniform(0.14, 0.26)
    if thing.kind == "hot-air balloon":
        ground = rng.uniform(0.06, 0.14) + height
    tone = tuple(max(0, min(255, channel + rng.randint(-9, 9))) for channel in COLOURS[thing.colour])
    if scene.place == "ocean" and thing.kind not in ("ship", "hot-air balloon"):
        island = Brush(canvas, x, ground, height, lit((232, 206, 140), scene.sky), outlined)
        island.oval(0, -0.02, 0.6, 0.1, island.main)
    frame: Frame = (x, ground, height, tone, outlined)  # type: ignore[assignment]
    DRAWERS[thing.kind](Brush(canvas, *frame))
    return frame


def _plain(canvas: Image.Image, size: int) -> Image.Image:
    return canvas.resize((size, size), Image.Resampling.BOX)


def _oil_painting(canvas: Image.Image, size: int) -> Image.Image:
    """Broad strokes: the middle colour around each point, rich colours, a canvas of light and dark."""
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
