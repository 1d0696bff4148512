"""Outpainting: images that go on beyond their sides, without a seam."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from sdapp import api
from sdapp.diffusion.outpaint import continued
from sdapp.jobs import Job
from sdapp.metadata.record import read_header

Command = Callable[..., Any]


def paint(**settings: Any) -> list[Image.Image]:
    given = {"prompt": "a red house on a beach at sunset", "seed": 7, "steps": 5, "device": "cpu"} | settings
    return [result.image for result in api.stream(**given) if result.image]


def seam(image: Image.Image, border: int) -> float:
    """How much stronger the colours change across a vertical border than between the columns around it."""
    levels = np.asarray(image.convert("RGB")).astype(float)
    changes = np.abs(np.diff(levels, axis=1)).mean(axis=(0, 2))
    around = [*changes[border - 8 : border - 1], *changes[border : border + 7]]
    return float(changes[border - 1] / np.mean(around))


# --- the input stays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [4, 9])
def test_pixels_of_the_input_stay_and_the_canvas_has_the_asked_size(
    channels: int, sdapp: Command, tiny: Callable[..., Path], house: Path
) -> None:
    with Image.open(house) as image:
        image.crop((0, 0, 61, 50)).save("odd.png")
    sides = ("--left", 13, "--bottom", 40)
    result = sdapp(
        "outpaint", "odd.png", "a", *sides, "--model", tiny(in_channels=channels), "--seed", 2, "--steps", 4
    )
    assert result.exit_code == 0, result.output
    path = Path(result.stdout.strip())
    with Image.open(path) as grown, Image.open("odd.png") as image:
        assert grown.size == (74, 90)
        assert ImageChops.difference(grown.crop((13, 0, 74, 50)), image).getbbox() is None
        assert "Outpaint: left=13 bottom=40" in grown.info["parameters"]
    content = read_header(path)
    assert (content["job"]["width"], content["job"]["height"]) == (74, 90)
    assert content["record"]["unet_calls"] == 2 * 3  # 40 is more than half of 50: two rounds of int(4 × 0.9)
    assert json.loads(sdapp("replay", path, "--verify", "--json").stdout)["largest_difference"] == 0


def test_transparent_pixels_stay_and_new_ones_are_opaque(
    sdapp: Command, tiny: Callable[..., Path], house: Path
) -> None:
    with Image.open(house) as image:
        image.putalpha(100)
        image.save("clear.png")
    result = sdapp(
        "outpaint", "clear.png", "a", "--top", 8, "--model", tiny(), "--steps", 4, "--upscale", 1.5
    )
    assert result.exit_code == 0, result.output
    with Image.open(result.stdout.strip()) as grown:
        assert (grown.mode, grown.size) == ("RGBA", (96, 108))
        assert grown.getchannel("A").getpixel((40, 2)) == 255
        assert grown.getchannel("A").getpixel((40, 60)) == 100


def test_lines_of_a_prompt_file_and_seeds_alone(tiny: Callable[..., Path], house: Path) -> None:
    model = str(tiny())
    Path(house.parent / "lines.txt").write_text(
        "a --image house.png --outpaint left=16,right=8 --seed 4,5\na --image house.png\n"
    )
    results = list(
        api.batch(house.parent / "lines.txt", model=model, steps=4, output={"dir": str(house.parent / "out")})
    )
    sizes = sorted((result.job.task.kind, result.image.size) for result in results if result.image)
    assert sizes == [("img2img", (64, 64)), ("outpaint", (88, 64)), ("outpaint", (88, 64))]
    task = {"kind": "outpaint", "image": str(house), "sides": {"left": 16, "right": 8}}
    [alone] = paint(prompt="a", model=model, steps=4, task=task, seed=5)
    together = next(
        result.image for result in results if result.job.seed == 5 and result.job.task.kind == "outpaint"
    )
    assert together is not None
    assert max(high for _, high in ImageChops.difference(alone, together).getextrema()) <= 2


# --- no seam ------------------------------------------------------------------------------------------------------


def test_the_fill_goes_on_smoothly() -> None:
    picture = torch.linspace(0, 1, 32)[None, :, None].expand(3, 32, 20).clone()
    known = torch.ones(1, 32, 20)
    known[..., 12:] = 0
    picture[..., 12:] = 5  # must not be looked at
    wide = continued(picture, known)
    assert torch.equal(wide[..., :12], picture[..., :12])
    assert (wide[..., 12] - picture[..., 11]).abs().max() < 0.3
    assert 0 <= wide.min() <= wide.max() <= 1


def test_postcards_go_on_without_a_seam(house: Path) -> None:
    [scene] = paint(steps=10)
    scene.save(house)
    task = {"kind": "outpaint", "image": str(house), "sides": {"left": 24, "right": 24}}
    seams = [
        seam(image, border)
        for image in paint(steps=10, count=3, batch_size=3, task=task)
        for border in (24, 88)
    ]
    assert max(seams) < 2.5
    assert np.mean(seams) < 1.3


# --- rounds and refusals ------------------------------------------------------------------------------------------


def test_large_borders_take_several_rounds(house: Path) -> None:
    sides = {"left": 64, "top": 10}
    task = {"kind": "outpaint", "image": str(house), "sides": sides}
    job: Job = api.plan_images([api.Layer({"prompt": "a", "task": task, "steps": 10})]).work.jobs[0]
    assert job.rounds == [(32, 0, 128, 74), (0, 0, 128, 74)]
    assert job.unet_calls == 18


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((), "task.sides"),
        (("--left", 0), "task.sides: nothing is added; give pixels for at least one side, such as left=128"),
        (
            ("--left", 65),
            "task.sides.left: 65 pixels, but the image is 64 wide; add at most 64, and outpaint",
        ),
        (("--left", -1), "must be 0 or more"),
        (
            ("--left", 8, "--set", "width=64", "--set", "height=64"),
            "the size of outpaint follows from its image",
        ),
        (("--set", "task.sides=left:8"), "write it as left=128,right=64"),
        (("--set", "task.sides.leftt=8"), "task.sides.leftt=8: unknown key, did you mean 'left'?"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    sides: tuple[object, ...], message: str, sdapp: Command, house: Path
) -> None:
    result = sdapp("outpaint", house, "a", *sides)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_size_of_a_config_is_not_used(sdapp: Command, house: Path) -> None:
    Path("wide.yaml").write_text("width: 512\nheight: 512\nsteps: 2\n")
    outpaint = sdapp("outpaint", house, "a", "--config", "wide.yaml", "--left", 8, "--out", "wide.png")
    assert outpaint.exit_code == 0, outpaint.stderr
    upscale = sdapp("upscale", "wide.png", "--config", "wide.yaml", "--strength", 0.5, "--out", "large")
    assert upscale.exit_code == 0, upscale.stderr
    assert [Image.open(each).size for each in ("wide.png", upscale.stdout.strip())] == [(72, 64), (144, 128)]
