"""Upscaling: a second pass on the enlarged image, in one piece and in tiles."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from sdapp import api
from sdapp.config import read_override
from sdapp.diffusion.upscale import OVERLAP, in_tiles, tile_starts
from sdapp.errors import ConfigError
from sdapp.metadata.record import read_header
from sdapp.settings.layers import Layer, merge
from sdapp.settings.stages import Upscale
from sdapp.validation import validate

Command = Callable[..., Any]


def furthest(one: Path | Image.Image, other: Path | Image.Image) -> int:
    images = [Image.open(each) if isinstance(each, Path) else each for each in (one, other)]
    return max(
        high for _, high in ImageChops.difference(*(each.convert("RGB") for each in images)).getextrema()
    )


def painted(sdapp: Command, *arguments: object) -> list[Path]:
    result = sdapp(*arguments)
    assert result.exit_code == 0, result.output
    return [Path(line) for line in result.stdout.splitlines()]


def paint(**settings: Any) -> list[Image.Image]:
    given = {"prompt": "a red house", "seed": 7, "steps": 5, "device": "cpu"} | settings
    images = [result.image for result in api.stream(**given)]
    assert all(images)
    return images  # type: ignore[return-value]


# --- hires --------------------------------------------------------------------------------------------------------


def test_the_second_pass_is_an_img2img_of_the_enlarged_image(
    sdapp: Command, tiny: Callable[..., Path]
) -> None:
    shared = ("a red house", "--model", tiny(), "--seed", 7, "--steps", 5)
    [small] = painted(sdapp, "generate", *shared, "--out", "small")
    [large] = painted(sdapp, "generate", *shared, "--upscale", 1.5, "--out", "large")
    with Image.open(small) as image:
        image.resize((96, 96), Image.Resampling.LANCZOS).save("enlarged.png")
    [again] = painted(sdapp, "img2img", "enlarged.png", *shared, "--strength", 0.4, "--out", "again")
    assert furthest(again, large) == 0


def test_final_size_calls_names_and_infotext(sdapp: Command, tiny: Callable[..., Path]) -> None:
    name = "output.name={width}x{height}-{final_width}x{final_height}"
    arguments = "--model", tiny(), "--seed", 7, "--steps", 5, "--upscale", 1.3, "--set", name
    [path] = painted(
        sdapp,
        "generate",
        "a red house",
        *arguments,
        "--set",
        "upscale.scheduler=Euler a",
        "--set",
        "upscale.steps=8",
    )
    assert path.name == "64x64-83x83.png"
    content = read_header(path)
    assert (content["job"]["width"], content["job"]["upscale"]["scale"]) == (64, 1.3)
    assert content["record"]["final_size"] == [83, 83]
    assert content["record"]["unet_calls"] == 5 + 3  # int(8 × 0.4)
    assert content["record"]["second_pass"]["scheduler_class"] == "EulerAncestralDiscreteScheduler"
    with Image.open(path) as image:
        assert image.size == (83, 83)
        text = image.info["parameters"]
    assert "Size: 64x64, Model: " in text
    for fields in (
        "Denoising strength: 0.4, RNG: CPU, ",
        "Hires upscale: 1.3, Hires steps: 3, Hires upscaler: Lanczos, Hires sampler: Euler a",
        "Final size: 83x83, ",
    ):
        assert fields in text


@pytest.mark.parametrize("enlarge", ["lanczos", "latent", "latent-bicubic", "latent-nearest"])
def test_a_replay_is_the_same_to_the_last_bit(
    enlarge: str, sdapp: Command, tiny: Callable[..., Path]
) -> None:
    upscale = f"upscale={{scale: 2, enlarge: {enlarge}, strength: 0.6, tile: 96}}"
    [path] = painted(sdapp, "generate", "a", "--model", tiny(), "--seed", 3, "--steps", 4, "--set", upscale)
    checked = sdapp("replay", path, "--verify", "--json")
    assert json.loads(checked.stdout)["largest_difference"] == 0
    # The infotext alone, without our record, has enough for it too.
    with Image.open(path) as image:
        bare = Image.new("RGB", image.size)
        bare.paste(image)
        text = image.info["parameters"]
    info = PngInfo()
    info.add_text("parameters", text)
    bare.save("bare.png", pnginfo=info)
    checked = sdapp("replay", "bare.png", "--verify", "--json", "--model", tiny())
    assert json.loads(checked.stdout)["largest_difference"] == 0


@pytest.mark.parametrize("is_xl", [False, True])
@pytest.mark.parametrize("enlarge", ["lanczos", "latent"])
def test_an_image_depends_on_its_own_seed_alone(is_xl: bool, enlarge: str, tiny: Callable[..., Path]) -> None:
    model = str(tiny(is_xl=is_xl))
    shared = {
        "model": model,
        "scheduler": "euler-a",
        "upscale": {"scale": 2, "enlarge": enlarge, "strength": 0.6},
    }
    size = {"width": 64, "height": 64}
    together = paint(**shared, **size, count=3, batch_size=3)
    alone = paint(**shared, **size, seed=9)
    assert together[2].size == (128, 128)
    assert furthest(together[2], alone[0]) <= 2
    assert furthest(together[1], alone[0]) > 2


def test_a_model_for_inpainting_upscales_its_own_images(
    sdapp: Command, tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    shared = ("--model", tiny(in_channels=9), "--seed", 7, "--steps", 5)
    [path] = painted(sdapp, "inpaint", house, mask, "a red house", *shared, "--upscale", 2)
    with Image.open(path) as image:
        assert image.size == (128, 128)
    assert read_header(path)["record"]["unet_calls"] == 5 + 2
    assert json.loads(sdapp("replay", path, "--verify", "--json").stdout)["largest_difference"] == 0


def test_transparent_pixels_are_enlarged_with_the_image(
    sdapp: Command, tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    with Image.open(house) as image, Image.open(mask) as alpha:
        image.putalpha(ImageChops.invert(alpha))
        image.save("clear.png")
    [path] = painted(
        sdapp, "inpaint", "clear.png", mask, "a", "--model", tiny(), "--steps", 4, "--seed", 1, "--upscale", 2
    )
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("RGBA", (128, 128))


def test_images_that_exist_are_upscaled_and_the_same_command_continues(
    sdapp: Command, tiny: Callable[..., Path], house: Path
) -> None:
    shared = ("--model", tiny(), "--steps", 5)
    [small] = painted(sdapp, "generate", "a red house", *shared, "--seed", 7, "--out", "small")
    [large] = painted(
        sdapp, "generate", "a red house", *shared, "--seed", 7, "--upscale", 2, "--out", "large"
    )
    with Image.open(house) as image:
        image.crop((0, 0, 61, 50)).save("photo.jpg")
    arguments = ("upscale", small, "photo.jpg", *shared, "--out", "up")
    first, second = painted(sdapp, *arguments)
    assert (first.name, second.name) == (f"{small.stem}-128x128.png", "photo-122x100.png")
    assert furthest(first, large) == 0  # the prompt and the seed are inside the small image
    job = read_header(first)["job"]
    assert (job["task"]["kind"], job["prompt"], len(job["inputs"]["image"])) == ("upscale", "a red house", 64)
    assert [line.split('"')[7] for line in Path("up/ledger.jsonl").read_text().splitlines()] == [
        "done",
        "done",
    ]
    second.unlink()
    assert painted(sdapp, *arguments) == [second]
    checked = sdapp("replay", first, second, "--verify", "--json").stdout.splitlines()
    assert [json.loads(line)["largest_difference"] for line in checked] == [0, 0]
    changed = sdapp("upscale", small, *shared, "--strength", 0.01)
    assert "--strength: with strength 0.01, none of 5 steps runs" in changed.stderr
    assert sdapp("upscale", "none.png").exit_code == 66
    blind = sdapp("upscale", "photo.jpg")
    assert (blind.exit_code, "give --prompt and --model" in blind.stderr) == (2, True), blind.stderr


def test_steps_of_both_passes_are_counted_as_one(tiny: Callable[..., Path]) -> None:
    steps: list[tuple[int, int]] = []
    given = {"prompt": "a", "seed": 1, "steps": 5, "model": str(tiny()), "upscale": 2}
    api.generate(**given, on_step=lambda _first, _images, step, of: steps.append((step, of)))
    assert steps == [(n, 7) for n in range(1, 8)]


def test_lines_and_vary(sdapp: Command, tiny: Callable[..., Path]) -> None:
    lines = "a cat --upscale 1.5\na cat\na cat --upscale 2 --upscale.strength 0.5|0.9\n"
    Path("prompts.txt").write_text(lines)
    shared = ("--model", tiny(), "--steps", 4, "--seed", 1)
    paths = painted(sdapp, "batch", "prompts.txt", "--out", "night", *shared)
    sizes = sorted(Image.open(path).width for path in paths)
    assert sizes == [64, 96, 128, 128]
    paths[0].unlink()
    assert len(painted(sdapp, "batch", "prompts.txt", "--out", "night", *shared)) == 1
    compared = sdapp(
        "compare", "a", "--schedulers", "ddim", "--steps", 4, "--seeds", 1, "--vary", "upscale.scale=1.5,2",
        "--model", tiny(), "--out", "grid", "--set", 'compare.references=["ddim@6", "euler@6"]',
    )  # fmt: skip
    assert compared.exit_code == 0, compared.output
    widths = sorted(Image.open(path).width for path in Path("grid/pictures").glob("*.png"))
    assert set(widths) == {96, 128}


# --- tiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "tile"), [(16, 16), (17, 16), (40, 16), (100, 16), (9, 16)])
def test_tiles_cover_everything_and_overlap(length: int, tile: int) -> None:
    starts = tile_starts(length, tile)
    covered = {place for start in starts for place in range(start, min(start + tile, length))}
    assert covered == set(range(length))
    assert all(one + tile - other >= tile * OVERLAP - 1 for one, other in pairwise(starts))


def test_tiles_are_exact_away_from_seams_and_blended_at_them() -> None:
    torch.manual_seed(0)
    whole, kernel = torch.randn(2, 3, 40, 56), torch.randn(3, 3, 5, 5) / 9

    def smooth(part: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(part, kernel, padding=2)

    tiled, exact = in_tiles(smooth, whole, 24), smooth(whole)
    off = (tiled - exact).abs().amax(dim=(0, 1))
    # The kernel sees two pixels: only the outermost two of a tile are wrong, and where they weigh least.
    edges = {y for start in tile_starts(40, 24) for y in (start, start + 23)} - {0, 39}
    near = {y + d for y in edges for d in range(-2, 3)}
    away = [y for y in range(40) if y not in near]
    columns = {x for start in tile_starts(56, 24) for x in (start, start + 23)} - {0, 55}
    away_x = [x for x in range(56) if not any(abs(x - edge) <= 2 for edge in columns)]
    assert off[away][:, away_x].max() < 1e-5
    assert off.max() < 0.5 * exact.abs().max()


def test_a_tile_that_holds_the_whole_image_changes_nothing(tiny: Callable[..., Path]) -> None:
    [whole] = paint(model=str(tiny()), upscale=2)
    [tiled] = paint(model=str(tiny()), upscale={"scale": 2, "tile": 128})
    [small] = paint(model=str(tiny()), upscale={"scale": 2, "tile": 64})
    assert furthest(whole, tiled) == 0
    assert furthest(whole, small) > 0


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upscale", "message"),
    [
        ("1", "upscale.scale: must be greater than 1"),
        (".inf", "upscale.scale: must be a finite number"),
        ("{method: magic}", "upscale.method: must be 'hires'"),
        ("{enlarge: lanzcos}", "upscale.enlarge: must be 'lanczos'"),
        (
            "{strength: 0.01}",
            "upscale.strength: with strength 0.01, none of 20 steps runs; use at least 0.05",
        ),
        ("{tile: 100}", "upscale.tile: must be a multiple of 8; the nearest are 96 and 104"),
        ("{scheduler: eulr}", "upscale.scheduler"),
        ("{scale: 16}", "upscale.scale: 131072x131072 are more than 67,108,864 pixels; for 8192x8192"),
        ("{factor: 2}", "upscale.factor: unknown key"),
        (
            "{method: diffusion, model: x, strength: 0.2}",
            "upscale.strength: is not used; it is for upscale.method: hires; leave it out, or set it to 0.4",
        ),
        ("{method: diffusion, model: x, enlarge: latent}", "leave it out, or set it to lanczos"),
        (
            "{method: model, model: x, steps: 5}",
            "upscale.steps: is not used; it is for upscale.method: hires or",
        ),
        ("{method: model, model: x, scheduler: ddim}", "leave it out, or set it to null"),
        ("{noise_level: 30}", "upscale.noise_level: is not used; it is for upscale.method: diffusion"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(upscale: str, message: str, sdapp: Command) -> None:
    size = ("--size", "8192x8192") if "16" in upscale else ()
    result = sdapp("generate", "a", *size, "--set", f"upscale={upscale}")
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_older_image_with_settings_that_were_ignored_has_a_way_out() -> None:
    old = {"method": "diffusion", "model": "x", "strength": 0.2, "enlarge": "latent"}
    inside = Layer({"upscale": old}, {"upscale.strength": "old.png"})
    with pytest.raises(ConfigError, match="is not used") as caught:
        validate(merge([inside]))
    said = str(caught.value).splitlines()
    assert [line.rpartition("leave it out, or ")[2] for line in said] == [
        "set it to lanczos",
        "set it to 0.4",
    ]
    usual = [read_override(text) for text in ("upscale.strength=0.4", "upscale.enlarge=lanczos")]
    assert validate(merge([inside, *usual])).upscale == Upscale(method="diffusion", model="x")


def test_a_format_that_has_no_room_for_the_large_image_is_refused(sdapp: Command) -> None:
    wide = ("generate", "a cat", "--size", "8192x64", "--upscale", 4, "--set", "output.format=webp")
    result = sdapp(*wide)
    message = "output.format: webp: its sides have at most 16,383 pixels, and the image is 32768x256; use png"
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_latents_cannot_be_enlarged_after_inpainting(sdapp: Command, house: Path, mask: Path) -> None:
    result = sdapp("inpaint", house, mask, "a", "--set", "upscale={enlarge: latent}")
    assert result.exit_code == 2
    assert (
        "upscale.enlarge: latent needs latents of the whole image, which inpaint has not; use lanczos"
        in result.stderr
    )


def test_an_image_of_which_only_a_part_is_painted_is_upscaled_by_itself(
    sdapp: Command, house: Path, mask: Path
) -> None:
    result = sdapp("inpaint", house, mask, "a", "--set", "task.padding=4", "--upscale", 2)
    assert result.exit_code == 2
    assert "with task.padding, only a part is painted; paint first, then use sdapp upscale" in result.stderr
