"""SDXL with tiny parts of random weights: the same tasks, schedulers and laws as Stable Diffusion 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from original_layout import random_original, save_original
from sdapp.diffusion.loading import load_pipeline
from sdapp.errors import ConfigError
from sdapp.models.locate import locate
from sdapp.notes import notes_on_settings
from sdapp.pipelines import Painter
from sdapp.planning import plan
from sdapp.scheduler_table import TABLE
from sdapp.settings.hardware import Memory
from sdapp.settings.layers import Layer
from sdapp.stages.loaded_model import LoadedModel
from sdapp.validation import validate
from test_pipelines import paint, painter_of, pixels, settings, tasks

NAMES = [row.name for row in TABLE]


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> Path:
    return tiny(is_xl=True)


@pytest.fixture(scope="module")
def painter(model: Path) -> Painter:
    return painter_of(settings(model))


def by_diffusers(model: Path, kind: str, house: Path, mask: Path, **arguments: Any) -> np.ndarray:
    """The image as the pipeline of diffusers paints it from texts, in steps of plain Euler."""
    name = {"txt2img": "", "img2img": "Img2Img", "inpaint": "Inpaint"}[kind]
    pipe = getattr(diffusers, f"StableDiffusionXL{name}Pipeline").from_pretrained(
        model, add_watermarker=False
    )
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="linspace", steps_offset=0
    )
    pipe.set_progress_bar_config(disable=True)
    image = {"image": Image.open(house).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)}
    given: dict[str, dict[str, Any]] = {
        "txt2img": {},
        "img2img": image | {"strength": 0.75},
        "inpaint": image | {"mask_image": Image.open(mask).resize((128, 128), Image.Resampling.NEAREST)},
    }
    return np.asarray(
        pipe(
            "a red house",
            num_inference_steps=4,
            generator=[torch.Generator().manual_seed(7)],
            **given[kind],
            **arguments,
        ).images[0]
    ).astype(int)


@pytest.mark.parametrize("negative", ["", "a tree"])
def test_an_image_is_that_of_the_pipeline(
    negative: str, model: Path, painter: Painter, house: Path, mask: Path
) -> None:
    """Without a negative prompt the pipeline takes zeros, as for an SDXL that was trained so."""
    [ours] = paint(settings(model, scheduler="euler", negative_prompt=negative, guidance_scale=5), painter)
    theirs = by_diffusers(model, "txt2img", house, mask, negative_prompt=negative or None, guidance_scale=5.0)
    assert np.abs(pixels(ours) - theirs).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_rescaled_guidance_is_that_of_the_pipeline(
    batch_size: int, model: Path, painter: Painter, house: Path, mask: Path
) -> None:
    asked = settings(
        model, scheduler="euler", negative_prompt="a tree", guidance_scale=100, guidance_rescale=0.7
    )
    [ours, *_] = paint(asked | {"count": batch_size, "batch_size": batch_size}, painter)
    given = {"negative_prompt": "a tree", "guidance_scale": 100.0}
    theirs = by_diffusers(model, "txt2img", house, mask, guidance_rescale=0.7, **given)
    assert np.abs(pixels(ours) - theirs).max() <= 1
    assert np.abs(pixels(ours) - by_diffusers(model, "txt2img", house, mask, **given)).max() > 1


def test_img2img_is_that_of_the_pipeline(model: Path, painter: Painter, house: Path, mask: Path) -> None:
    task = tasks(house, mask)["img2img"]
    [ours] = paint(settings(model, scheduler="euler", task=task, width=128, height=128), painter)
    theirs = by_diffusers(model, "img2img", house, mask, guidance_scale=7.5)
    assert np.abs(pixels(ours) - theirs).max() <= 1


def test_inpaint_is_that_of_the_pipeline_inside_the_mask(
    model: Path, painter: Painter, house: Path, mask: Path
) -> None:
    task = tasks(house, mask)["inpaint"] | {"strength": 0.75}
    [ours] = paint(settings(model, scheduler="euler", task=task, width=128, height=128), painter)
    theirs = by_diffusers(model, "inpaint", house, mask, guidance_scale=7.5, strength=0.75)
    assert np.abs(pixels(ours) - theirs)[48:112, 32:96].max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_every_scheduler_does_every_task(
    name: str, kind: str, model: Path, painter: Painter, house: Path, mask: Path
) -> None:
    [result] = paint(settings(model, scheduler=name, task=tasks(house, mask)[kind]), painter)
    assert result.error is None


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_four_images_at_once_are_the_four_images_alone(
    kind: str, model: Path, painter: Painter, house: Path, mask: Path
) -> None:
    asked = settings(model, scheduler="euler-a", task=tasks(house, mask)[kind], seed=5)
    together = paint(asked | {"count": 4, "batch_size": 4}, painter)
    alone = [paint(asked | {"seed": seed}, painter)[0] for seed in (5, 6, 7, 8)]
    for one, other in zip(together, alone, strict=True):
        assert one.record.batch_size == 4
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_a_model_for_inpainting_reads_the_mask(tiny: Callable[..., Path], house: Path, mask: Path) -> None:
    [result] = paint(settings(tiny(in_channels=9, is_xl=True), task=tasks(house, mask)["inpaint"]))
    assert result.error is None


def test_calls_outside_of_the_guidance_interval_leave_the_pooled_rows_of_the_negative_out(
    model: Path, painter: Painter
) -> None:
    """Guided nowhere is unguided: the same image as with a guidance_scale of 1."""
    asked = settings(model, scheduler="euler", negative_prompt="a tree")
    [nowhere] = paint(asked | {"guidance_interval": [0, 0.001], "guidance_scale": 7}, painter)
    assert nowhere.record.unguided_calls == 3
    [first] = paint(asked | {"guidance_interval": [0, 0.26], "guidance_scale": 7}, painter)
    assert np.abs(pixels(first) - pixels(nowhere)).max() <= 1


SIZES = {"original_size": (256, 192), "crop": (8, 24)}  # width and height, left and top


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_the_model_is_told_the_original_size_and_the_crop(
    kind: str, model: Path, painter: Painter, house: Path, mask: Path
) -> None:
    task = tasks(house, mask)[kind] | ({} if kind == "txt2img" else {"strength": 0.75})
    asked = settings(model, scheduler="euler", task=task, width=128, height=128, guidance_scale=5)
    [ours] = paint(asked | {key: list(pair) for key, pair in SIZES.items()}, painter)
    sizes = {"original_size": (192, 256), "crops_coords_top_left": (24, 8)}
    more = {"strength": 0.75} if kind == "inpaint" else {}
    theirs = by_diffusers(model, kind, house, mask, guidance_scale=5.0, **sizes, **more)
    inside = (slice(48, 112), slice(32, 96)) if kind == "inpaint" else ()
    assert np.abs(pixels(ours) - theirs)[inside].max() <= 1
    [plain] = paint(asked, painter)
    assert (pixels(ours) != pixels(plain)).any()


def test_sizes_are_in_id_and_record_only_if_they_are_given(model: Path) -> None:
    located = locate(str(model))
    [plain] = plan(validate(Layer(settings(model))), located)
    [given] = plan(validate(Layer(settings(model, original_size="256x192", crop="8,24"))), located)
    assert (given.original_size, given.crop) == ([256, 192], [8, 24])
    assert plain.id != given.id
    assert "crop" not in plain.to_data()
    assert given.to_data()["crop"] == [8, 24]
    assert "original_size" not in plain.to_data()


def test_other_families_do_not_read_the_original_size(tiny: Callable[..., Path]) -> None:
    config, located = validate(Layer(settings(tiny(), original_size=[256, 192]))), locate(str(tiny()))
    notes = list(notes_on_settings(config, located, plan(config, located)[0]))
    assert "original_size has no effect on this model: only SDXL reads it" in notes


@pytest.mark.parametrize("given", ["256", "256x", [1, 2, 3], [True, 1], [-1, 8]])
def test_what_is_no_size_is_refused(given: Any, model: Path) -> None:
    with pytest.raises(ConfigError, match="original_size"):
        validate(Layer(settings(model, original_size=given)))


@pytest.mark.parametrize("is_file", [False, True])
def test_in_float16_the_autoencoder_keeps_every_digit(is_file: bool, tmp_path: Path) -> None:
    pipe = random_original(2)
    path = tmp_path / ("model.safetensors" if is_file else "model")
    _ = save_original(pipe, path) if is_file else pipe.save_pretrained(path)
    loaded = load_pipeline(locate(str(path)), torch.float16)
    assert loaded.unet.dtype == torch.float16
    for name, weight in loaded.vae.state_dict().items():
        assert torch.equal(weight, pipe.vae.state_dict()[name]), name


def test_in_bfloat16_the_autoencoder_is_not_moved(model: Path, house: Path, mask: Path) -> None:
    """The pipelines would cast it to float32 and back for each input image."""
    given = settings(model, dtype="bfloat16", task=tasks(house, mask)["img2img"])
    painter, seen = painter_of(given), list[torch.dtype]()
    painter.model.vae.encoder.conv_in.register_forward_pre_hook(
        lambda part, _: seen.append(part.weight.dtype)
    )
    [result] = paint(given, painter)
    assert result.error is None
    assert seen == [torch.bfloat16]


def test_in_float16_the_autoencoder_stays_in_float32(model: Path, house: Path, mask: Path) -> None:
    """SDXL's own overflows in float16."""
    given = settings(model, scheduler="euler", task=tasks(house, mask)["img2img"])
    located = locate(str(model))
    pipe = load_pipeline(located, torch.float16)
    painter = Painter(LoadedModel(pipe, located.family, torch.device("cpu"), Memory()))
    results = paint(given, painter) + paint(given, painter) + paint(given)
    assert (painter.model.dtype, pipe.vae.dtype) == (torch.float16, torch.float32)
    half, again, full = map(pixels, results)
    assert (half == again).all()
    assert np.abs(half - full).max() <= 4


@pytest.mark.parametrize(("one", "other", "same"), [(0, 1, True), (1, 2, False)])
def test_clip_skip_counts_the_layer_that_sdxl_skips_anyway(
    one: int, other: int, same: bool, model: Path, painter: Painter
) -> None:
    first, second = (paint(settings(model, clip_skip=skip), painter)[0] for skip in (one, other))
    assert (pixels(first) == pixels(second)).all() == same
