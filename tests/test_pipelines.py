"""Painting, with the built-in model and with tiny models of random weights."""

import inspect
import shutil
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch.overrides import TorchFunctionMode

from sdapp import schedulers
from sdapp.diffusion import solvers
from sdapp.diffusion.devices import choose_device, choose_dtype
from sdapp.diffusion.text_encoder import PromptText
from sdapp.diffusion.watch import Watcher
from sdapp.errors import ConfigError, InterruptedRunError, UnavailableError, UpstreamError
from sdapp.jobs import LoadKey
from sdapp.models.families import FAMILIES
from sdapp.models.locate import locate
from sdapp.pipelines import Painter, load
from sdapp.planning import plan
from sdapp.records import Result
from sdapp.scheduler_table import TABLE
from sdapp.settings.hardware import Memory
from sdapp.settings.layers import Layer
from sdapp.stages.loaded_model import LoadedModel
from sdapp.validation import validate

NAMES = [row.name for row in TABLE]
VARIANTS = [f"{row.name}-{sigmas}" for row in TABLE for sigmas in row.sigmas]
Settings = dict[str, Any]


def settings(model: Path | str, **changes: Any) -> Settings:
    return {"model": str(model), "prompt": "a red house", "seed": 7, "steps": 4, "device": "cpu"} | changes


def paint(given: Settings, painter: Painter | None = None) -> list[Result]:
    config = validate(Layer(given))
    model = locate(config.model)
    return list((painter or load(LoadKey.of(config, model))).paint(plan(config, model), config.batch_size))


def painter_of(given: Settings) -> Painter:
    config = validate(Layer(given))
    return load(LoadKey.of(config, locate(config.model)))


def pixels(result: Result) -> np.ndarray:
    assert result.image is not None, result.error
    return np.asarray(result.image).astype(int)


def furthest(one: Result, other: Result) -> int:
    return int(np.abs(pixels(one) - pixels(other)).max())


@pytest.fixture(scope="module")
def tiny_painter(tiny: Callable[..., Path]) -> Painter:
    return painter_of(settings(tiny()))


@pytest.fixture(scope="module")
def postcards_painter() -> Painter:
    return painter_of(settings("postcards"))


def tasks(house: Path, mask: Path) -> dict[str, Settings]:
    return {
        "txt2img": {"kind": "txt2img"},
        "img2img": {"kind": "img2img", "image": str(house), "strength": 0.75},
        "inpaint": {"kind": "inpaint", "image": str(house), "mask": str(mask)},
    }


# --- schedulers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_paints_and_calls_the_unet_as_often_as_the_table_says(
    name: str, postcards_painter: Painter
) -> None:
    [result] = paint(settings("postcards", scheduler=name, steps=5), postcards_painter)
    assert result.error is None
    assert result.record.scheduler_class == schedulers.resolve(name).scheduler.class_name
    assert result.record.unet_calls == schedulers.resolve(name).unet_calls(5)
    assert pixels(result).std() > 1


@pytest.mark.parametrize("name", [*NAMES, *VARIANTS])
@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_every_scheduler_does_every_task(
    name: str, kind: str, tiny: Callable[..., Path], tiny_painter: Painter, house: Path, mask: Path
) -> None:
    [result] = paint(settings(tiny(), scheduler=name, task=tasks(house, mask)[kind]), tiny_painter)
    assert result.error is None


@pytest.mark.parametrize(
    "name", ["dpm-beta", "dpm++2m-beta", "dpm++2m-sde-beta", "dpm++2s-beta", "unipc-beta", "deis-beta"]
)
@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_timesteps_that_begin_with_the_same_one_twice_are_all_walked(
    name: str, kind: str, tiny: Callable[..., Path], tiny_painter: Painter, house: Path, mask: Path
) -> None:
    [result] = paint(settings(tiny(), scheduler=name, steps=34, task=tasks(house, mask)[kind]), tiny_painter)
    assert result.error is None


@pytest.mark.parametrize("name", NAMES)
def test_only_the_stochastic_draw_noise_within_their_steps(name: str, tiny_painter: Painter) -> None:
    """Two runs from the same latents with other generators and seeds end alike, or not."""

    def run(seed: int) -> torch.Tensor:
        scheduler = solvers.build_scheduler(
            schedulers.resolve(name), tiny_painter.model.scheduler_config, [seed]
        )
        scheduler.set_timesteps(4)
        sample = (
            torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
        )
        taken = inspect.signature(scheduler.step).parameters
        extra = {"generator": torch.Generator().manual_seed(seed)} if "generator" in taken else {}
        extra |= {"eta": 0.3 if name == "tcd" else 0.0} if "eta" in taken else {}
        for time in scheduler.timesteps:
            model_output = torch.tanh(scheduler.scale_model_input(sample, time))
            sample = scheduler.step(model_output, time, sample, **extra).prev_sample
        return sample

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) == (not schedulers.resolve(name).stochastic)


@pytest.mark.parametrize("name", [*NAMES, *VARIANTS])
def test_no_step_of_a_scheduler_reads_from_the_device(name: str, tiny_painter: Painter) -> None:
    """On the meta device there is nothing to read: what would wait for a GPU is an error there."""
    scheduler = solvers.build_scheduler(schedulers.resolve(name), tiny_painter.model.scheduler_config, [7])
    scheduler.set_timesteps(6, device="meta")
    sample = torch.empty(1, 4, 8, 8, device="meta")
    taken = inspect.signature(scheduler.step).parameters
    extra = {"generator": torch.Generator().manual_seed(7)} if "generator" in taken else {}
    for time in scheduler.timesteps:
        sample = scheduler.step(scheduler.scale_model_input(sample, time), time, sample, **extra).prev_sample
    assert sample.device.type == "meta"


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize("name", ["pndm", "heun", "ddim", "dpm++sde"])
def test_unet_calls_are_predicted_at_any_number_of_steps(
    name: str, steps: int, tiny: Callable[..., Path], tiny_painter: Painter
) -> None:
    [result] = paint(settings(tiny(), scheduler=name, steps=steps), tiny_painter)
    assert result.record.unet_calls == schedulers.resolve(name).unet_calls(steps)


def test_a_scheduler_keeps_the_models_noise_schedule_and_takes_only_what_is_said(
    tiny_painter: Painter,
) -> None:
    built = solvers.build_scheduler(schedulers.resolve("ddim"), tiny_painter.model.scheduler_config, [7])
    assert (built.config.beta_start, built.config.beta_end) == (0.00085, 0.012)
    assert built.config.clip_sample is False
    karras = solvers.build_scheduler(
        schedulers.resolve("euler-karras"), tiny_painter.model.scheduler_config, [7]
    )
    plain = solvers.build_scheduler(schedulers.resolve("euler"), tiny_painter.model.scheduler_config, [7])
    assert karras.config.use_karras_sigmas
    assert not plain.config.use_karras_sigmas
    assert plain.config.timestep_spacing == "linspace"


def test_a_v_prediction_model_is_denoised_as_one(tiny: Callable[..., Path]) -> None:
    [result] = paint(settings(tiny(prediction_type="v_prediction")))
    assert result.record.scheduler_config["prediction_type"] == "v_prediction"
    assert furthest(result, paint(settings(tiny()))[0]) > 2


def test_settings_win_over_what_a_models_files_say_that_it_predicts(tiny: Callable[..., Path]) -> None:
    """The tiny models have equal weights, whatever they say."""
    said, given, taken_back = (
        paint(settings(tiny(prediction_type=model), prediction_type=setting))[0]
        for model, setting in (
            ("v_prediction", "auto"),
            ("epsilon", "v_prediction"),
            ("v_prediction", "epsilon"),
        )
    )
    assert (pixels(said) == pixels(given)).all()
    assert (pixels(taken_back) == pixels(paint(settings(tiny()))[0])).all()
    assert said.job.id != given.job.id


def test_with_zero_snr_a_run_begins_at_the_last_timestep(tiny: Callable[..., Path]) -> None:
    asked = settings(tiny(), prediction_type="v_prediction", zero_snr="on", scheduler="ddim")
    [result] = paint(asked)
    assert result.error is None
    assert result.job.scheduler.name == "ddim-trailing"
    assert result.record.scheduler_config["rescale_betas_zero_snr"] is True
    [without] = paint(settings(tiny(), prediction_type="v_prediction", scheduler="ddim-trailing"))
    assert furthest(result, without) > 0


def test_a_value_that_the_class_refuses_is_an_error_with_its_reason(tiny_painter: Painter) -> None:
    resolved = schedulers.resolve("dpm++2m", {"solver_type": "sideways"})
    with pytest.raises(ConfigError, match=r"dpm\+\+2m: .*sideways"):
        solvers.build_scheduler(resolved, tiny_painter.model.scheduler_config, [7])


# --- the seed law -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["dpm++2m-karras", "euler-a", "dpm++sde", "ddpm"])
@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_an_image_depends_on_its_own_seed_alone(
    scheduler: str, kind: str, tiny: Callable[..., Path], tiny_painter: Painter, house: Path, mask: Path
) -> None:
    asked = settings(tiny(), scheduler=scheduler, task=tasks(house, mask)[kind])
    alone = [paint(asked | {"seed": seed}, tiny_painter)[0] for seed in (9, 8, 7)][::-1]
    together = paint(asked | {"count": 3}, tiny_painter)
    packed = paint(asked | {"count": 3, "batch_size": 3}, tiny_painter)
    uneven = paint(asked | {"count": 3, "batch_size": 2}, tiny_painter)
    assert [result.job.seed for result in together] == [7, 8, 9]
    for one, many in zip(alone, together, strict=True):
        assert furthest(one, many) == 0
    for one, many, some in zip(alone, packed, uneven, strict=True):
        assert max(furthest(one, many), furthest(one, some)) <= 2
    assert furthest(alone[0], alone[1]) > 2
    assert [result.record.batch_size for result in uneven] == [2, 2, 1]


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler-a", "dpm++2m-sde"])
def test_noise_is_drawn_in_float32_where_halves_would_be_another_stream(
    kind: str,
    scheduler: str,
    tiny: Callable[..., Path],
    house: Path,
    mask: Path,
) -> None:
    asked = settings(tiny(), dtype="bfloat16", task=tasks(house, mask)[kind], scheduler=scheduler)
    [plain] = paint(asked)

    class LikeTorch211(TorchFunctionMode):
        """In half precision `torch.randn` draws other numbers."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            drawn = func(*args, **(kwargs or {}))
            return -drawn if func is torch.randn and drawn.dtype != torch.float32 else drawn

    with LikeTorch211():
        [again] = paint(asked)
    assert np.array_equal(pixels(plain), pixels(again))


def test_a_run_again_is_bit_identical(tiny: Callable[..., Path]) -> None:
    assert furthest(paint(settings(tiny()))[0], paint(settings(tiny()))[0]) == 0


# --- guidance and prompts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "halves"), [(0.0, 1), (1.0, 1), (1.01, 2), (7.5, 2)])
def test_the_unet_sees_two_halves_only_above_a_guidance_scale_of_one(
    scale: float, halves: int, tiny: Callable[..., Path], tiny_painter: Painter
) -> None:
    seen: list[int] = []
    hook = tiny_painter.model.denoiser.unet.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    paint(settings(tiny(), guidance_scale=scale, count=2, batch_size=2), tiny_painter)
    hook.remove()
    assert seen == [2 * halves] * 4


def test_guidance_is_the_papers(tiny: Callable[..., Path], tiny_painter: Painter) -> None:
    """One DDIM step by hand: ε = ε(∅) + w (ε(c) − ε(∅)), and the negative prompt takes the place of ∅."""
    asked = settings(tiny(), scheduler="ddim", steps=1, guidance_scale=3.0, negative_prompt="a tree")
    [result] = paint(asked, tiny_painter)
    scheduler = solvers.build_scheduler(schedulers.resolve("ddim"), tiny_painter.model.scheduler_config, [7])
    scheduler.set_timesteps(1)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        prompt, negative = (
            tiny_painter.model.text.embed([PromptText(text)])[0] for text in ("a red house", "a tree")
        )
        towards, away = (
            tiny_painter.model.denoiser.unet(noise, scheduler.timesteps[0], text).sample
            for text in (prompt, negative)
        )
        latents = scheduler.step(away + 3.0 * (towards - away), scheduler.timesteps[0], noise).prev_sample
        decoded = tiny_painter.model.vae.decode(latents / tiny_painter.model.vae.config.scaling_factor).sample
    by_hand = (decoded[0] * 0.5 + 0.5).clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
    assert np.abs(by_hand - pixels(result)).max() <= 1


@pytest.mark.parametrize("change", [{"negative_prompt": "a tree"}, {"clip_skip": 1}, {"prompt": "a cat"}])
def test_what_is_asked_for_changes_the_image(
    change: Settings, tiny: Callable[..., Path], tiny_painter: Painter
) -> None:
    asked = settings(tiny(), guidance_scale=20.0)
    assert furthest(paint(asked, tiny_painter)[0], paint(asked | change, tiny_painter)[0]) > 0


def test_a_text_is_encoded_once_however_often_it_is_asked_for(tiny: Callable[..., Path]) -> None:
    painter = painter_of(settings(tiny()))
    rows: list[int] = []
    [(_, encoder)] = painter.model.text.parts
    encoder.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["input_ids"])), with_kwargs=True
    )
    first = paint(settings(tiny(), count=3, batch_size=3), painter)
    again = paint(settings(tiny(), count=3), painter)
    assert rows == [2]  # the prompt and the empty negative prompt
    assert furthest(first[2], again[2]) <= 2


def test_skipping_no_layer_is_the_text_encoders_own_output(tiny_painter: Painter) -> None:
    [(tokenizer, encoder)] = tiny_painter.model.text.parts
    ids = tokenizer(["a cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(
            tiny_painter.model.text.embed([PromptText("a cat")])[0], encoder(ids).last_hidden_state
        )
    with pytest.raises(ConfigError, match="has 3 layers"):
        tiny_painter.model.text.embed([PromptText("a cat", 3)])


def test_a_plain_prompt_beyond_77_tokens_is_told(tiny: Callable[..., Path], tiny_painter: Painter) -> None:
    long = settings(tiny(), prompt="cat " * 80 + "castle", steps=1)
    [result] = paint(long | {"prompt_syntax": "plain"}, tiny_painter)
    assert "castle" in result.record.notes[0]
    assert "77 tokens" in result.record.notes[0]
    [whole] = paint(long, tiny_painter)
    assert whole.record.notes == ()
    assert furthest(result, whole) > 2


# --- tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("padding", [None, 4])
def test_inpainting_leaves_every_pixel_outside_the_mask_as_it_is(
    channels: int, padding: int | None, tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    task = tasks(house, mask)["inpaint"] | {"padding": padding}
    results = paint(settings(tiny(in_channels=channels), task=task, count=2, batch_size=2))
    before, inside = np.asarray(Image.open(house)).astype(int), np.asarray(Image.open(mask)) > 127
    for result in results:
        assert (pixels(result)[~inside] == before[~inside]).all()
        assert (pixels(result)[inside] != before[inside]).mean() > 0.5
    assert furthest(*results) > 2


def test_a_blurred_mask_mixes_both_images_at_its_edge(
    tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    task = tasks(house, mask)["inpaint"]
    [hard], [soft] = (paint(settings(tiny(), task=task | more)) for more in ({}, {"mask_blur": 2}))
    before, inside = np.asarray(Image.open(house)).astype(int), np.asarray(Image.open(mask)) > 127
    share = (
        np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.GaussianBlur(2)))[..., None] / 255
    )
    mixed = share * pixels(hard) + (1 - share) * before
    assert np.abs(pixels(soft) - mixed)[inside].max() <= 1
    untouched = share[..., 0] == 0
    assert (pixels(soft)[untouched] == before[untouched]).all()
    assert (pixels(soft) != before).any(axis=2)[~inside].sum() > 50
    assert (hard.job.to_data()["task"], hard.job.id) != (soft.job.to_data()["task"], soft.job.id)
    assert "mask_blur" not in hard.job.to_data()["task"]  # records and ids of before stay as they are


@pytest.mark.parametrize(
    ("channels", "scheduler", "eta", "encodings"),
    [
        (4, "dpm++2m", None, 1),
        (9, "dpm++2m", None, 1),
        (4, "euler-a", None, 2),
        (4, "ddim", 0.5, 2),
        (4, "ddim", None, 1),
    ],
)
def test_inpainting_is_the_pipelines_own_and_encodes_only_what_the_unet_sees(
    channels: int,
    scheduler: str,
    eta: float | None,
    encodings: int,
    tiny: Callable[..., Path],
    house: Path,
    mask: Path,
) -> None:
    asked = settings(
        tiny(in_channels=channels), task=tasks(house, mask)["inpaint"], scheduler=scheduler, eta=eta
    )
    painter, encoded = painter_of(asked), []
    hook = painter.model.vae.encoder.register_forward_hook(lambda *_: encoded.append(1))
    [result] = paint(asked, painter)
    hook.remove()
    assert len(encoded) == encodings  # with 4 channels the image, with 9 the masked one
    pipe = painter.model.pipelines["inpaint"]
    pipe.scheduler = solvers.build_scheduler(
        result.job.scheduler.resolve(), painter.model.scheduler_config, [result.job.seed]
    )
    plain = pipe(
        prompt=result.job.prompt, image=Image.open(house), mask_image=Image.open(mask), strength=result.job.task.strength,
        width=result.job.width, height=result.job.height, num_inference_steps=result.job.steps,
        guidance_scale=result.job.guidance_scale, generator=torch.Generator().manual_seed(result.job.seed),
        eta=eta or 0.0,
    ).images[0]  # fmt: skip
    inside = np.asarray(Image.open(mask)) > 127
    assert np.abs(np.asarray(plain).astype(int) - pixels(result))[inside].max() <= 2


def masked(path: Path, *boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> str:
    """A mask that is white in these boxes (left, top, right, bottom)."""
    mask = Image.new("L", size, 0)
    for box in boxes:
        mask.paste(255, box)
    mask.save(path)
    return str(path)


THIN = [(0, 0, 1, 1), (63, 63, 64, 64), (33, 0, 34, 64), (0, 30, 64, 31), (9, 9, 16, 23)]


@pytest.mark.parametrize("box", THIN, ids=str)
@pytest.mark.parametrize("scheduler", ["euler", "euler-a"])
def test_a_mask_paints_each_latent_cell_that_it_touches(
    box: tuple[int, int, int, int], scheduler: str, tiny: Callable[..., Path], tiny_painter: Painter,
    house: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """The latents are those of a mask of whole cells; of them only the white pixels are pasted."""
    left, top, right, bottom = box
    cells = (left // 8 * 8, top // 8 * 8, -(-right // 8) * 8, -(-bottom // 8) * 8)
    [thin], [whole] = (
        paint(
            settings(
                tiny(),
                scheduler=scheduler,
                task={"kind": "inpaint", "image": str(house), "mask": masked(tmp_path / "m.png", area)},
            ),
            tiny_painter,
        )
        for area in (box, cells)
    )
    assert torch.equal(thin.latents, whole.latents)
    place = (slice(top, bottom), slice(left, right))
    assert (pixels(thin)[place] == pixels(whole)[place]).all()
    before = np.asarray(Image.open(house)).astype(int)
    changed = (pixels(thin) != before).any(-1)
    assert changed[place].any()
    changed[place] = False
    assert not changed.any()


@pytest.mark.parametrize("padding", [None, 0, 5])
def test_a_model_for_inpainting_is_shown_each_latent_cell_that_the_mask_touches(
    padding: int | None, tiny: Callable[..., Path], house: Path, tmp_path: Path
) -> None:
    task = {"kind": "inpaint", "image": str(house), "mask": masked(tmp_path / "m.png", *THIN)}
    asked = settings(tiny(in_channels=9), task=task | {"padding": padding}, steps=1, count=2, batch_size=2)
    painter, seen = painter_of(asked), []
    hook = painter.model.denoiser.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 4]))
    paint(asked, painter)
    hook.remove()
    expected = np.asarray(Image.open(tmp_path / "m.png")).reshape(8, 8, 8, 8).max((1, 3)) / 255
    assert [(each.numpy() == expected).all() for each in seen] == [True]


@pytest.mark.parametrize("size", [(64, 128), (128, 64), (64, 70), (30, 128)])
def test_a_padded_crop_keeps_the_shape_of_what_is_in_it(
    size: tuple[int, int], tiny: Callable[..., Path], tiny_painter: Painter, tmp_path: Path
) -> None:
    """A disc stays as wide as high, wherever the image ends; beyond its edges they are repeated."""
    (width, height), radius = size, min(size) // 3
    image = Image.new("RGB", size, "blue")
    disc = (width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)
    ImageDraw.Draw(image).ellipse(disc, fill="red")
    image.save(tmp_path / "disc.png")
    box = (2, 10, width - 2, height - 10)
    task = {"kind": "inpaint", "image": str(tmp_path / "disc.png"), "padding": 4, "strength": 0.5}
    task["mask"] = masked(tmp_path / "m.png", box, size=size)
    seen: list[torch.Tensor] = []
    hook = tiny_painter.model.vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    [result] = paint(settings(tiny(), task=task), tiny_painter)
    hook.remove()
    rows, columns = np.nonzero((seen[0][0] > seen[0][2]).numpy())
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert seen[0][2, 0].min() > 0.9  # all of the first row is blue, nothing black
    changed = (pixels(result) != np.asarray(image).astype(int)).any(-1)
    assert changed[10:-10, 2:-2].mean() > 0.9
    changed[10:-10, 2:-2] = False
    assert not changed.any()


@pytest.mark.parametrize("padding", [None, 4])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_keeps_what_is_transparent_outside_the_mask(
    channels: int, padding: int | None, tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), "uint8")
    levels[:, :9, 3] = 0
    Image.fromarray(levels).save(house)
    task = tasks(house, mask)["inpaint"] | {"padding": padding}
    [result] = paint(settings(tiny(in_channels=channels), task=task))
    inside = np.asarray(Image.open(mask)) > 127
    assert (pixels(result)[~inside] == levels[~inside]).all()
    assert (pixels(result)[inside][:, 3] == 255).all()
    levels[..., 3] = 255
    Image.fromarray(levels).save(house)
    assert paint(settings(tiny(in_channels=channels), task=task))[0].image.mode == "RGB"


def test_inpainting_with_padding_takes_images_of_any_size(tiny: Callable[..., Path], tmp_path: Path) -> None:
    Image.new("RGB", (101, 75), "green").save(tmp_path / "odd.png")
    mask = Image.new("L", (101, 75), 0)
    mask.paste(255, (40, 30, 60, 50))
    mask.save(tmp_path / "odd-mask.png")
    task = {
        "kind": "inpaint",
        "image": str(tmp_path / "odd.png"),
        "mask": str(tmp_path / "odd-mask.png"),
        "padding": 8,
    }
    [result] = paint(settings(tiny(), task=task))
    assert pixels(result).shape == (75, 101, 3)


@pytest.mark.parametrize(("strength", "calls"), [(0.25, 1), (0.5, 2), (0.99, 3), (1.0, 4)])
def test_strength_decides_how_many_steps_run(
    strength: float, calls: int, tiny: Callable[..., Path], tiny_painter: Painter, house: Path
) -> None:
    task = {"kind": "img2img", "image": str(house), "strength": strength}
    [result] = paint(settings(tiny(), task=task), tiny_painter)
    assert (result.record.unet_calls, result.job.steps_to_run) == (calls, calls)


def test_a_larger_image_than_the_models_own_is_painted_at_its_size(
    tiny: Callable[..., Path], tiny_painter: Painter
) -> None:
    [result] = paint(settings(tiny(), width=104, height=72), tiny_painter)
    assert pixels(result).shape == (72, 104, 3)


def test_vae_slicing_changes_no_pixel_and_tiling_only_some(tiny: Callable[..., Path]) -> None:
    asked = settings(tiny(), count=2, batch_size=2)
    decodes: dict[str, int] = {"whole": 0, "sliced": 0}
    results = []
    for name, memory in (("whole", {}), ("sliced", {"vae_slicing": True})):
        painter = painter_of(asked | {"memory": memory})
        painter.model.vae.decoder.register_forward_pre_hook(
            lambda *_, name=name: decodes.update({name: decodes[name] + 1})
        )
        results.append(paint(asked | {"memory": memory}, painter))
    whole, sliced = results
    tiled = paint(asked | {"memory": {"vae_tiling": True}})
    assert decodes == {"whole": 1, "sliced": 2}
    for one, other, third in zip(whole, sliced, tiled, strict=True):
        assert furthest(one, other) <= 2
        assert 0 < furthest(one, third) < 255


# --- what must never become an image -----------------------------------------------------------------------------


def break_unet(painter: Painter, row: int) -> Any:
    def poison(_module: Any, _args: Any, output: Any) -> Any:
        output[0][row::2] = float("nan")  # both halves of guidance: rows are uncond 0, 1, cond 0, 1
        return output

    return painter.model.denoiser.unet.register_forward_hook(poison)


def test_latents_that_are_not_finite_fail_by_name_and_leave_the_others_alone(
    tiny: Callable[..., Path],
) -> None:
    asked = settings(tiny(), count=2, batch_size=2)
    painter = painter_of(asked)
    good = paint(asked, painter)
    hook = break_unet(painter, row=1)
    first, second = paint(asked, painter)
    hook.remove()
    assert furthest(first, good[0]) <= 2
    assert second.image is None
    assert "latents are not finite" in str(second.error)


def test_pixels_that_overflow_are_decoded_again_in_float32(tiny: Callable[..., Path]) -> None:
    asked = settings(tiny(), dtype="bfloat16")
    painter = painter_of(asked)
    [plain] = paint(asked, painter)

    def overflow(module: Any, _args: Any, output: Any) -> Any:
        return output * float("inf") if output.dtype == torch.bfloat16 else output

    painter.model.vae.decoder.register_forward_hook(overflow)
    [mended] = paint(asked, painter)
    assert mended.error is None
    assert any("float32" in note for note in mended.record.notes)
    assert furthest(plain, mended) < 16  # one decode was in bfloat16, the other in float32
    assert painter.model.vae.dtype == torch.bfloat16


def test_pixels_that_overflow_in_float32_too_fail_by_name(tiny: Callable[..., Path]) -> None:
    painter = painter_of(settings(tiny()))
    painter.model.vae.decoder.register_forward_hook(lambda *call: call[-1] * float("nan"))
    [result] = paint(settings(tiny()), painter)
    assert result.image is None
    assert "pixels are not finite" in str(result.error)


# --- memory that runs out -----------------------------------------------------------------------------------------


def short_of_memory(module: Any, above: int) -> Any:
    """The module fails as torch does whenever it is given more than so many rows."""

    def fail(_module: Any, args: Any) -> None:
        if len(args[0]) > above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return module.register_forward_pre_hook(fail)


@pytest.mark.parametrize(
    ("part", "above"), [("text._pipe.text_encoder", 2), ("denoiser.unet", 4), ("denoiser.unet", 2)]
)
def test_where_memory_runs_out_the_batch_is_halved_until_it_fits(
    part: str, above: int, tiny: Callable[..., Path]
) -> None:
    model = locate(str(tiny()))
    cats = [
        validate(Layer(settings(tiny(), prompt=f"a {colour} cat")))
        for colour in ("red", "blue", "white", "black", "pink")
    ]
    jobs = [plan(config, model, [seed])[0] for seed, config in enumerate(cats, start=7)]
    plain = list(load(LoadKey.of(cats[0], model)).paint(jobs, batch_size=4))
    painter = load(LoadKey.of(cats[0], model))
    short_of_memory(attrgetter(part)(painter.model), above)
    survived = list(painter.paint(jobs, batch_size=4))
    assert [result.job.seed for result in survived] == [7, 8, 9, 10, 11]
    for one, other in zip(plain, survived, strict=True):
        assert furthest(one, other) <= 2
        assert any("at a time" in note for note in other.record.notes)


def test_each_half_of_a_batch_is_watched_by_its_own_run_whatever_is_painted_between(
    tiny: Callable[..., Path],
) -> None:
    asked, between = settings(tiny(), count=2, steps=3), settings(tiny(), steps=1)
    painter, model = painter_of(asked), locate(asked["model"])
    short_of_memory(painter.model.denoiser.unet, 2)  # guidance doubles the rows
    watcher, other = Watcher(), Watcher()
    halves = painter.paint(plan(validate(Layer(asked)), model), batch_size=2, watcher=watcher)
    next(halves)
    of_the_first = watcher.calls
    list(painter.paint(plan(validate(Layer(between)), model), watcher=other))
    next(halves)
    assert watcher.calls is not of_the_first
    assert (len(watcher.calls), len(other.calls)) == (3, 1)


def test_a_vae_that_does_not_fit_is_sliced_and_tiled(tiny: Callable[..., Path]) -> None:
    painter = painter_of(settings(tiny()))

    def fail(_module: Any, args: Any) -> None:
        if args[0].shape[-1] > 4:  # a whole latent is 8 wide, a tile 4
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    painter.model.vae.decoder.register_forward_pre_hook(fail)
    [result] = paint(settings(tiny()), painter)
    assert result.error is None
    assert "tiles" in result.record.notes[0]


def test_a_job_that_never_fits_fails_by_name_and_the_next_is_tried(tiny: Callable[..., Path]) -> None:
    asked = settings(tiny(), count=2)
    painter = painter_of(asked)
    hook = short_of_memory(painter.model.denoiser.unet, 0)
    results = painter.paint(plan(validate(Layer(asked)), locate(asked["model"])))
    first = next(results)
    hook.remove()
    assert first.image is None
    assert "memory ran out" in str(first.error)
    assert next(results).error is None


@pytest.mark.parametrize("change", [{"cache_interval": 2}, {"upscale": {"scale": 2, "tile": 128}}])
def test_a_second_pass_is_not_tiled_where_that_saves_nothing_or_does_not_fit(
    change: dict[str, Any], tiny: Callable[..., Path]
) -> None:
    asked = settings(tiny(), upscale=2) | change
    painter = painter_of(asked)

    def fail(_module: Any, args: Any) -> None:
        if args[0].shape[-1] > 8:  # the latents of the second pass
            raise RuntimeError("out of memory")

    painter.model.denoiser.unet.register_forward_pre_hook(fail)
    [result] = painter.paint(plan(validate(Layer(asked)), locate(asked["model"])))
    assert "nothing is left to save" in str(result.error)
    assert not any("denoised in tiles" in note for note in painter.model.placement.notes)


# --- errors of diffusers and torch ---------------------------------------------------------------------------------


class BrokenTokenizer:
    """The tokenizer of a model, which raises an error for one prompt."""

    def __init__(self, plain: Any, error: Exception) -> None:
        self._plain, self._error = plain, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __call__(self, text: Any, **options: Any) -> Any:
        if "bad" in text:
            raise self._error
        return self._plain(text, **options)


@pytest.mark.parametrize(
    "error", [IndexError("5"), KeyError("x"), TypeError("no"), OSError(5, "I/O error")], ids=repr
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_error_of_upstream_fails_its_job_by_name_and_the_others_are_painted(
    error: Exception, batch_size: int, tiny: Callable[..., Path]
) -> None:
    model = locate(str(tiny()))
    configs = [
        validate(Layer(settings(tiny(), prompt=prompt, steps=1))) for prompt in ("good", "bad", "fine")
    ]
    jobs = [plan(config, model)[0] for config in configs]
    painter = load(LoadKey.of(configs[0], model))
    [(tokenizer, encoder)] = painter.model.text.parts
    painter.model.text.parts = [(BrokenTokenizer(tokenizer, error), encoder)]
    results = list(painter.paint(jobs, batch_size, keep_going=True))
    assert [result.index for result in results] == [0, 1, 2]
    assert [result.error is None for result in results] == [True, False, True]
    assert str(results[1].error).startswith(f"{type(error).__name__}: ")
    with pytest.raises(UpstreamError, match=type(error).__name__) as raised:
        list(painter.paint(jobs, batch_size))
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [InterruptedRunError("stopped", 2), KeyError("mine"), KeyboardInterrupt()], ids=repr
)
def test_what_on_step_raises_is_passed_on(
    error: BaseException, tiny: Callable[..., Path], tiny_painter: Painter
) -> None:
    def stop(*_: int) -> None:
        raise error

    config = validate(Layer(settings(tiny())))
    with pytest.raises(type(error)) as raised:
        list(tiny_painter.paint(plan(config, locate(config.model)), on_step=stop, keep_going=True))
    assert raised.value is error


def test_an_input_that_changed_since_it_was_planned_fails_its_job(
    tiny: Callable[..., Path], tiny_painter: Painter, house: Path, mask: Path
) -> None:
    config = validate(Layer(settings(tiny(), task=tasks(house, mask)["img2img"])))
    jobs = plan(config, locate(config.model))
    Image.new("RGB", (64, 64), "red").save(house)
    [result] = tiny_painter.paint(jobs, keep_going=True)
    assert result.image is None
    assert "changed since it was planned" in str(result.error)


@pytest.mark.parametrize(
    ("scheduler", "given", "eta"),
    [("tcd", None, 0.3), ("tcd", 0.5, 0.5), ("ddim", None, 0.0), ("euler", None, None)],
)
def test_the_record_has_the_eta_that_ran(
    scheduler: str, given: float | None, eta: float | None, tiny: Callable[..., Path], tiny_painter: Painter
) -> None:
    [result] = paint(settings(tiny(), scheduler=scheduler, eta=given), tiny_painter)
    assert result.record.eta == eta


# --- loading ------------------------------------------------------------------------------------------------------


def test_weights_are_shared_by_the_three_pipelines_and_keep_their_dtype(
    tiny: Callable[..., Path], house: Path
) -> None:
    painter = painter_of(settings(tiny(), dtype="bfloat16"))
    units = {id(pipe.unet) for pipe in painter.model.pipelines.values()}
    assert len(units) == 1
    task = {"kind": "img2img", "image": str(house)}
    [result] = paint(settings(tiny(), dtype="bfloat16", task=task), painter)
    assert result.record.dtype == "bfloat16"
    assert painter.model.denoiser.unet.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_offloading_in_groups_changes_no_pixel(
    kind: str, tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    asked = settings(tiny(), task=tasks(house, mask)[kind])
    [plain] = paint(asked)
    pipe = painter_of(asked).model.pipelines["txt2img"]
    in_groups = Painter(LoadedModel(pipe, FAMILIES[0], torch.device("cpu"), Memory(offload="group")))
    assert furthest(plain, paint(asked, in_groups)[0]) == 0


def test_an_fp16_variant_alone_is_enough(tiny: Callable[..., Path]) -> None:
    assert paint(settings(tiny(variant="fp16")))[0].error is None


def test_a_model_for_inpainting_refuses_other_tasks_before_it_is_loaded(tiny: Callable[..., Path]) -> None:
    asked = validate(Layer(settings(tiny(in_channels=9))))
    with pytest.raises(ConfigError, match="made for inpainting"):
        plan(asked, locate(asked.model))


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_damaged_weights_are_refused_by_name(file: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny(), folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:-1000])
    with pytest.raises(UnavailableError, match=r"is damaged: 1,000 of .* bytes of its tensors are missing"):
        painter_of(settings(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer is missing"),
        (
            lambda folder: [file.unlink() for file in (folder / "tokenizer").iterdir()],
            "tokenizer cannot be read",
        ),
        (lambda folder: shutil.rmtree(folder / "unet"), "has no UNet that sdapp knows; supported"),
    ],
)
def test_a_folder_that_is_no_whole_stable_diffusion_is_refused(
    change: Callable[[Path], object], message: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny(), folder)
    change(folder)
    with pytest.raises(UnavailableError, match=message):
        painter_of(settings(folder))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_asked_for_and_absent_is_an_error(device: str) -> None:
    with pytest.raises(UnavailableError, match="no CUDA GPU"):
        choose_device(device)


def test_auto_is_bfloat16_for_large_models_on_a_cpu_that_is_fast_in_it(tmp_path: Path) -> None:
    cpu, fast, slow = torch.device("cpu"), tmp_path / "fast", tmp_path / "slow"
    fast.write_text("flags\t: fpu amx_bf16\n")
    slow.write_text("Features\t: fp bf16\n")
    assert choose_dtype("auto", cpu, True, fast) == torch.bfloat16
    assert choose_dtype("float32", cpu, True, fast) == torch.float32
    for large, info in ((False, fast), (True, slow), (True, tmp_path / "none")):
        assert choose_dtype("auto", cpu, large, info) == torch.float32


def test_float16_is_refused_on_a_cpu_and_auto_is_float32_there() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    with pytest.raises(ConfigError, match="bfloat16"):
        choose_dtype("float16", cpu)


def test_offload_without_a_gpu_is_refused(tiny: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="offload"):
        painter_of(settings(tiny(), device="cpu", memory={"offload": "model"}))
