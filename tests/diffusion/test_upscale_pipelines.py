"""Upscalers of Stable Diffusion, of the real classes with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

import sdapp as package
from conftest import random_pipeline
from sdapp.arguments import as_layer
from sdapp.metadata.record import read_header
from sdapp.notes import Notes
from sdapp.replays import plan_replays
from sdapp.upscales import plan_upscales

Command = Callable[..., Any]


@pytest.fixture(scope="session")
def upscalers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of an x2 and an x4 upscaler."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        EulerDiscreteScheduler,
        StableDiffusionLatentUpscalePipeline,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(0)
    base = random_pipeline(4, "epsilon")
    shared = {"tokenizer": base.tokenizer, "text_encoder": base.text_encoder.eval()}
    blocks = {"layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16}
    unet4 = UNet2DConditionModel(
        in_channels=7,
        block_out_channels=(32, 64),
        attention_head_dim=4,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=1000,
        **blocks,
    )
    vae4 = AutoencoderKL(
        block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.08333,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.0001, "beta_end": 0.02}
    four = StableDiffusionUpscalePipeline(
        **shared, unet=unet4, vae=vae4, low_res_scheduler=DDPMScheduler(**betas),
        scheduler=DDIMScheduler(**betas, prediction_type="v_prediction", clip_sample=False),
        max_noise_level=350,
    )  # fmt: skip
    unet2 = UNet2DConditionModel(
        in_channels=8,
        out_channels=5,
        block_out_channels=(32, 32, 64, 64),
        attention_head_dim=8,
        cross_attention_dim=32,
        down_block_types=(
            "KDownBlock2D",
            "KCrossAttnDownBlock2D",
            "KCrossAttnDownBlock2D",
            "KCrossAttnDownBlock2D",
        ),
        up_block_types=("KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"),
        mid_block_type=None,
        act_fn="gelu",
        only_cross_attention=False,
        conv_in_kernel=1,
        conv_out_kernel=1,
        time_cond_proj_dim=128 + 32,
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        resnet_time_scale_shift="scale_shift",
        dual_cross_attention=False,
        **blocks | {"norm_num_groups": None, "layers_per_block": 1},
    )
    euler = EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="sample")
    two = StableDiffusionLatentUpscalePipeline(**shared, unet=unet2, vae=base.vae, scheduler=euler)
    folders = {}
    for scale, pipe in ((2, two), (4, four)):
        folders[scale] = tmp_path_factory.mktemp(f"x{scale}")
        pipe.save_pretrained(folders[scale])
    return folders


def furthest(one: Path, other: Path) -> int:
    with Image.open(one) as first, Image.open(other) as second:
        return max(
            high
            for _, high in ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getextrema()
        )


def painted(sdapp: Command, *arguments: object) -> list[Path]:
    result = sdapp(*arguments)
    assert result.exit_code == 0, result.output
    return [Path(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("scale", [2, 4])
def test_it_is_what_the_pipeline_makes_recorded_and_replayed(
    scale: int, upscalers: dict[int, Path], sdapp: Command, house: Path
) -> None:
    import diffusers

    shared = ("--method", "diffusion", "--upscaler", upscalers[scale], "--scale", scale, "--set", "steps=3")
    guided = (
        "--prompt",
        "a house",
        "--set",
        "seed=5",
        "--set",
        "guidance_scale=3",
        "--set",
        "scheduler=ddim",
    )
    [path] = painted(sdapp, "upscale", house, *shared, *guided, "--out", "up")
    content = read_header(path)
    second = content["record"]["second_pass"]
    assert (content["record"]["unet_calls"], second["unet_calls"]) == (3, 3)
    assert second["scheduler_class"] == {2: "EulerDiscreteScheduler", 4: "DDIMScheduler"}[scale]
    assert len(content["job"]["upscale"]["sha256"]) == 64
    name = json.loads((upscalers[scale] / "model_index.json").read_text())["_class_name"]
    pipe = getattr(diffusers, name).from_pretrained(upscalers[scale])
    if scale == 4:
        from sdapp.diffusion.solvers import build_scheduler
        from sdapp.schedulers import resolve

        pipe.scheduler = build_scheduler(resolve("ddim"), dict(pipe.scheduler.config), [5])
    given = {"prompt": "a house", "num_inference_steps": 3, "generator": torch.manual_seed(5)}
    guidance = 3.0 if scale == 4 else 1.0
    with Image.open(house) as image:
        exact = pipe(image=image.convert("RGB"), guidance_scale=guidance, **given).images[0]
    exact.save("exact.png")
    assert exact.size == (64 * scale, 64 * scale)
    assert furthest(path, Path("exact.png")) <= 1  # the text is encoded in another order
    [line] = sdapp("replay", path, "--verify", "--json").stdout.splitlines()
    assert json.loads(line)["largest_difference"] == 0


def test_the_calls_of_an_upscaler_are_known_before(
    upscalers: dict[int, Path], sdapp: Command, house: Path
) -> None:
    asked = ("--method", "diffusion", "--upscaler", upscalers[4], "--scale", 4, "--prompt", "a house")
    [path] = painted(sdapp, "upscale", house, *asked, "--steps", 3, "--scheduler", "heun", "--out", "up")
    job = plan_replays([path], [], Notes(None))[0][0].jobs[0]
    assert job.upscaler_calls == read_header(path)["record"]["unet_calls"] == 5


def test_an_image_depends_on_its_own_seed_alone(
    upscalers: dict[int, Path], sdapp: Command, tiny: Callable[..., Path]
) -> None:
    upscale = f"upscale={{method: diffusion, scale: 1.5, model: {upscalers[4]}, steps: 2}}"
    shared = ("generate", "a", "--model", tiny(), "--steps", 2, "--set", upscale)
    both = painted(sdapp, *shared, "--seed", 1, "--count", 2, "--set", "batch_size=2", "--out", "both")
    [alone] = painted(sdapp, *shared, "--seed", 2, "--out", "alone")
    assert Image.open(alone).size == (96, 96)
    assert furthest(both[1], alone) <= 1  # a UNet rounds by the size of its batch
    assert read_header(alone)["record"]["unet_calls"] == 4
    other = painted(sdapp, *shared, "--seed", 1, "--out", "other")[0]
    assert furthest(other, alone) > 1


@pytest.mark.parametrize(("scale", "tile"), [(4, 128), (2, 128)])
def test_tiles_and_sides_that_are_no_multiples(
    scale: int, tile: int, upscalers: dict[int, Path], sdapp: Command, tmp_path: Path
) -> None:
    Image.effect_noise((71, 93), 60).convert("RGBA").save("odd.png")
    shared = (
        "upscale",
        "odd.png",
        "--method",
        "diffusion",
        "--upscaler",
        upscalers[scale],
        "--set",
        "steps=2",
    )
    [whole] = painted(sdapp, *shared, "--out", "whole")
    [tiled] = painted(sdapp, *shared, "--tile", tile, "--out", "tiled")
    assert Image.open(whole).size == Image.open(tiled).size == (142, 186)
    assert furthest(whole, tiled) > 0


def test_what_is_refused_before_anything_is_loaded(
    upscalers: dict[int, Path], sdapp: Command, tiny: Callable[..., Path], house: Path, tmp_path: Path
) -> None:
    def refused(model: object, *more: str) -> str:
        given = () if model is None else ("--upscaler", model)
        sets = [part for each in more for part in ("--set", f"upscale.{each}")]
        result = sdapp("upscale", house, "--method", "diffusion", *given, *sets)
        assert result.exit_code in (2, 65, 69), result.output
        return str(result.stderr)

    assert "upscale.model: is missing: which upscaler? Give stabilityai/stable-diffusion-x4" in refused(None)
    assert "is Stable Diffusion 1.x; give an upscaler such as stabilityai/" in refused(tiny())
    assert "is Stable Diffusion XL; give an upscaler" in refused(tiny(is_xl=True))
    assert "no folder or file none" in refused("none")
    for wrong_solver in ("ddim", "euler-karras", "{name: euler, options: {timestep_spacing: trailing}}"):
        said = refused(upscalers[2], f"scheduler={wrong_solver}")
        assert "works with euler only, without options; leave it out, or set it to null" in said
    assert "upscale.steps: lcm has at most 50" in refused(upscalers[4], "scheduler=lcm", "steps=60")
    assert "has none; leave it out" in refused(upscalers[2], "noise_level=30")
    assert "must be a multiple of 64, at least 128" in refused(upscalers[2], "tile=64")
    assert "is not the file that was used" in refused(upscalers[4], f"sha256={'0' * 64}")
    broken = shutil.copytree(upscalers[4], tmp_path / "broken")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "vae has no .safetensors file" in refused(broken)
    sets = (
        "task.kind=upscale",
        f"task.image={house}",
        f"upscale.model={upscalers[4]}",
        "upscale.method=diffusion",
    )
    film = sdapp("generate", "a cat", "--film", "f.gif", *(word for each in sets for word in ("--set", each)))
    assert (film.exit_code, "film: the model denoises nothing of this image" in film.stderr) == (2, True)
    wrong = sdapp("generate", "a cat", "--set", "upscale={scale: 2, noise_level: 30}")
    assert "upscale.noise_level: is not used; it is for upscale.method: diffusion" in wrong.stderr


def test_steps_of_both_passes_are_counted_as_one(
    upscalers: dict[int, Path], tiny: Callable[..., Path]
) -> None:
    steps: list[tuple[int, int]] = []
    upscale = {"method": "diffusion", "model": str(upscalers[4]), "scale": 2, "steps": 3}
    given = {"model": str(tiny()), "steps": 2, "seed": 1, "batch_size": 2, "count": 2, "upscale": upscale}
    package.generate("a", on_step=lambda _first, _images, step, of: steps.append((step, of)), **given)
    assert sorted(set(steps)) == [(n, 5) for n in range(1, 6)]
    assert steps == sorted(steps)


def test_a_model_that_is_an_upscaler_is_told_where_it_belongs(
    upscalers: dict[int, Path], sdapp: Command
) -> None:
    for scale, what in ((2, "the x2 latent upscaler"), (4, "the x4 upscaler (7 input channels)")):
        result = sdapp("generate", "a", "--model", upscalers[scale])
        assert result.exit_code == 69
        assert what in result.stderr
        assert f"--set upscale.method=diffusion --set upscale.model={upscalers[scale]}" in result.stderr


def test_memory_that_is_not_there_is_named_before_painting(
    upscalers: dict[int, Path], tmp_path: Path
) -> None:
    Image.new("RGB", (2048, 2048)).save(tmp_path / "large.png")

    def notes(**more: Any) -> str:
        told: list[str] = []
        upscale = {"method": "diffusion", "model": str(upscalers[4]), "scale": 4, **more}
        layer = as_layer({"upscale": upscale, "device": "cpu", "steps": 2})
        _, errors = plan_upscales([tmp_path / "large.png"], [layer], Notes(told.append))
        assert errors == []
        return " ".join(told)

    assert "decoding 8192x8192 takes about 192 GiB" in notes()
    assert "upscale.tile: 512 needs less" in notes()
    assert "decoding" not in notes(tile=512)
