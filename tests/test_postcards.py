"""The built-in model: what ships, and that it paints what it is asked for."""

import json

import numpy as np
import pytest

import sdapp
from sdapp.models.files import POSTCARDS
from sdapp.models.locate import locate
from sdapp.notes import unknown_words

SIZE_LIMIT = 30_000_000  # bytes


def mean(pixels: np.ndarray, rows: slice, columns: slice = slice(None)) -> np.ndarray:
    """The mean colour of a part, as R, G, B in 0 … 255."""
    return pixels[rows, columns].reshape(-1, 3).mean(axis=0)


def painted(prompt: str, **settings: object) -> np.ndarray:
    """The mean of four images, so that no one seed decides."""
    results = sdapp.generate(prompt=prompt, seed=7, count=4, batch_size=4, device="cpu", **settings)
    return np.mean([np.asarray(result.image) for result in results], axis=0)


def test_it_is_a_stable_diffusion_of_at_most_30_megabytes_in_float16() -> None:
    from safetensors import safe_open

    files = list(POSTCARDS.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in POSTCARDS.rglob("*") if path.is_file()) < SIZE_LIMIT
    for path in files:
        with safe_open(path, "numpy") as tensors:
            kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
            assert kinds - {"I64"} == {"F16"}  # a batch norm counts its batches
    schedule = json.loads((POSTCARDS / "scheduler" / "scheduler_config.json").read_text())
    assert (schedule["beta_schedule"], schedule["beta_start"], schedule["beta_end"]) == (
        "scaled_linear",
        0.00085,
        0.012,
    )
    assert (POSTCARDS / "MODEL_CARD.md").is_file()


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("A red house on a beach at sunset", []),
        ("paradise cosmic beach", []),
        ("an oil painting of two hot-air balloons", ["two", "balloons"]),
        ("a red dragon, dragon", ["dragon"]),
        ("", []),
    ],
)
def test_it_names_the_words_that_it_never_saw(prompt: str, unknown: list[str]) -> None:
    assert unknown_words(locate("postcards"), prompt) == unknown


def test_skies_have_their_colours() -> None:
    top = slice(0, 12)
    day, sunset, night, cosmic = (
        mean(painted(f"a beach {sky}"), top) for sky in ("by day", "at sunset", "at night", "in space")
    )
    assert day[2] > day[0] + 30
    assert sunset[0] > night[0] + 40
    assert night.mean() < day.mean() - 80
    assert cosmic[0] > cosmic[1] + 15


def test_places_have_their_colours() -> None:
    bottom = slice(54, 64)
    beach, meadow, snow, ocean = (
        mean(painted(f"{place} by day"), bottom) for place in ("a beach", "a meadow", "snow", "an ocean")
    )
    assert beach[0] > beach[2] + 30
    assert meadow[1] > max(meadow[0], meadow[2]) + 20
    assert snow.min() > 180
    assert ocean[2] > ocean[0] + 40


@pytest.mark.parametrize(("colour", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_a_thing_has_its_colour(colour: str, channel: int) -> None:
    middle = mean(painted(f"a {colour} house in the middle in the snow by day"), slice(24, 50), slice(20, 44))
    assert channel == int(middle.argmax())


def test_a_sketch_is_paler_than_a_plain_image() -> None:
    plain, sketch = (painted(f"{style}a red house in the desert") for style in ("", "a pencil sketch of "))
    assert sketch.mean() > plain.mean() + 20


def test_the_model_card_names_scores() -> None:
    card = (POSTCARDS / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("thing", "colour", "place", "sky", "style", "negative prompt", "does not know"):
        assert word in card
