"""Guidance on a part of the run, and the deep part of the UNet taken from the call before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import random_pipeline
from sdapp import schedulers
from sdapp.commands.estimates import History
from sdapp.diffusion import solvers
from sdapp.diffusion.batch_size import BatchSizes
from sdapp.diffusion.text_encoder import PromptText
from sdapp.errors import InterruptedRunError
from sdapp.jobs import LoadKey
from sdapp.metadata.record import read_header
from sdapp.models.vae import locate_model
from sdapp.pipelines import Painter, load
from sdapp.planning import plan
from sdapp.records import Result
from sdapp.settings.layers import Layer
from sdapp.validation import validate

Settings = dict[str, Any]
SHORTCUTS: list[Settings] = [
    {"guidance_interval": [0.0, 0.5]},
    {"guidance_interval": [0.25, 0.75]},
    {"cache_interval": 2},
    {"guidance_interval": [0.25, 0.75], "cache_interval": 3},
]


@pytest.fixture(scope="module")
def painters(tiny: Callable[..., Path]) -> dict[int, Painter]:
    """Of 4 and of 9 channels."""
    return {channels: painter_of(settings(tiny(in_channels=channels))) for channels in (4, 9)}


@pytest.fixture
def painter(painters: dict[int, Painter]) -> Painter:
    return painters[4]


def settings(model: Path | str, **changes: Any) -> Settings:
    return {"model": str(model), "prompt": "a red house", "seed": 7, "steps": 4, "device": "cpu"} | changes


def painter_of(asked: Settings) -> Painter:
    config = validate(Layer(asked))
    return load(LoadKey.of(config, locate_model(config.model, config.revision, config.vae)))


def paint(painter: Painter, asked: Settings, **options: Any) -> list[Result]:
    config = validate(Layer(asked))
    return list(
        painter.paint(
            plan(config, locate_model(config.model, config.revision, config.vae)),
            config.batch_size,
            **options,
        )
    )


def furthest(one: Result, other: Result) -> int:
    first, second = (np.asarray(result.image).astype(int) for result in (one, other))
    return int(np.abs(first - second).max())


@contextmanager
def rows_of(module: torch.nn.Module) -> Iterator[list[int]]:
    """The rows that a module is given, call by call."""
    seen: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def touched(painter: Painter) -> list[str]:
    """The parts of the UNet that do something else than their class."""
    modules = painter.model.denoiser.unet.named_modules()
    return [
        name
        for name, part in modules
        if "forward" in vars(part) or part._forward_pre_hooks or part._forward_hooks
    ]


# --- guidance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "rows"),
    [
        ([0, 1], [4] * 10),
        ([0.0, 0.5], [4] * 5 + [2] * 5),
        ([0.7, 1.0], [2] * 7 + [4] * 3),
        ([0.1, 0.8], [2] + [4] * 7 + [2] * 2),
        ([0.31, 0.39], [2] * 10),
    ],
)
def test_outside_the_interval_the_unet_has_half_the_work(
    interval: list[float], rows: list[int], tiny: Callable[..., Path], painter: Painter
) -> None:
    asked = settings(tiny(), guidance_interval=interval, count=2, batch_size=2, steps=10)
    with rows_of(painter.model.denoiser.unet.conv_in) as seen:
        results = paint(painter, asked)
    assert seen == rows
    assert {(result.record.unet_calls, result.record.unguided_calls) for result in results} == {
        (10, rows.count(2))
    }


@pytest.mark.parametrize("name", ["heun", "dpm2", "pndm", "lcm", "dpm++sde"])
def test_the_interval_is_one_of_unet_calls_whatever_a_step_takes(
    name: str, tiny: Callable[..., Path], painter: Painter
) -> None:
    with rows_of(painter.model.denoiser.unet.conv_in) as seen:
        [result] = paint(painter, settings(tiny(), guidance_interval=[0.0, 0.5], scheduler=name, steps=5))
    calls = schedulers.resolve(name).unet_calls(5)
    guided = -(-calls // 2)
    assert seen == [2] * guided + [1] * (calls - guided)
    assert result.error is None


def test_guidance_on_the_first_half_by_hand(tiny: Callable[..., Path], painter: Painter) -> None:
    """DDIM: two steps with ε(∅) + w (ε(c) − ε(∅)), two with ε(c)."""
    [result] = paint(
        painter, settings(tiny(), scheduler="ddim", guidance_scale=3.0, guidance_interval=[0, 0.5])
    )
    scheduler = solvers.build_scheduler(schedulers.resolve("ddim"), painter.model.scheduler_config, [7])
    scheduler.set_timesteps(4)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    unet = painter.model.denoiser.unet
    with torch.no_grad():
        prompt, nothing = (painter.model.text.embed([PromptText(text)])[0] for text in ("a red house", ""))
        for i, time in enumerate(scheduler.timesteps):
            noise = unet(latents, time, prompt).sample
            if i < 2:
                away = unet(latents, time, nothing).sample
                noise = away + 3.0 * (noise - away)
            latents = scheduler.step(noise, time, latents).prev_sample
    assert torch.allclose(latents[0], result.latents, atol=1e-4)


def test_a_guidance_scale_of_one_has_no_half_to_leave_out(
    tiny: Callable[..., Path], painter: Painter
) -> None:
    exact = paint(painter, settings(tiny(), guidance_scale=1.0))[0]
    same = paint(painter, settings(tiny(), guidance_scale=1.0, guidance_interval=[0.0, 0.5]))[0]
    assert (furthest(exact, same), same.record.unguided_calls) == (0, 0)


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "whole"), [(1, 10), (2, 5), (3, 4), (10, 1), (99, 1)])
def test_between_whole_calls_the_deep_part_does_not_run(
    every: int, whole: int, tiny: Callable[..., Path], painter: Painter
) -> None:
    unet = painter.model.denoiser.unet
    asked = settings(tiny(), cache_interval=every, steps=10)
    with rows_of(unet.mid_block.resnets[0]) as deep, rows_of(unet.down_blocks[0].resnets[0]) as outer:
        [result] = paint(painter, asked)
    assert (len(deep), len(outer)) == (whole, 10)
    assert (result.record.unet_calls, result.record.cached_calls) == (10, 10 - whole)


def test_where_guidance_begins_or_ends_a_call_is_whole(tiny: Callable[..., Path], painter: Painter) -> None:
    asked = settings(tiny(), cache_interval=4, guidance_interval=[0.3, 0.6], steps=10)
    with rows_of(painter.model.denoiser.unet.mid_block.resnets[0]) as deep:
        paint(painter, asked)
    assert deep == [1, 2, 1]


def test_a_unet_of_a_single_block_has_its_middle_cached(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    pipe = random_pipeline(4, "epsilon")
    pipe.unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, block_out_channels=(32,), layers_per_block=1, attention_head_dim=4,
        cross_attention_dim=32, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        norm_num_groups=8,
    )  # fmt: skip
    pipe.save_pretrained(tmp_path / "single")
    [result] = paint(
        painter_of(settings(tmp_path / "single")), settings(tmp_path / "single", cache_interval=2)
    )
    assert (result.error, result.record.cached_calls) == (None, 2)


# --- both ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=str)
@pytest.mark.parametrize("scheduler", ["dpm++2m-karras", "euler-a"])
def test_an_image_depends_on_its_own_seed_alone(
    shortcut: Settings, scheduler: str, tiny: Callable[..., Path], painter: Painter
) -> None:
    asked = settings(tiny(), scheduler=scheduler, count=3) | shortcut
    alone, together = paint(painter, asked), paint(painter, asked | {"batch_size": 3})
    assert max(furthest(one, many) for one, many in zip(alone, together, strict=True)) <= 2
    exact = paint(painter, settings(tiny(), scheduler=scheduler))[0]
    assert furthest(alone[0], exact) > 0


@pytest.mark.parametrize("shortcut", SHORTCUTS[1:], ids=str)
@pytest.mark.parametrize(("kind", "channels"), [("img2img", 4), ("inpaint", 4), ("inpaint", 9)])
def test_every_task_takes_them(
    shortcut: Settings,
    kind: str,
    channels: int,
    tiny: Callable[..., Path],
    painters: dict[int, Painter],
    house: Path,
    mask: Path,
) -> None:
    task = {"kind": kind, "image": str(house), "strength": 1.0} | (
        {"mask": str(mask)} if kind == "inpaint" else {}
    )
    asked = settings(tiny(in_channels=channels), task=task, count=2)
    alone = paint(painters[channels], asked | shortcut)
    together = paint(painters[channels], asked | shortcut | {"batch_size": 2})
    assert max(furthest(one, many) for one, many in zip(alone, together, strict=True)) <= 2
    assert furthest(alone[0], paint(painters[channels], asked)[0]) > 0


def test_all_of_the_run_and_every_call_are_the_exact_image(
    tiny: Callable[..., Path], painter: Painter
) -> None:
    exact, same = (
        paint(painter, settings(tiny(), **said))[0]
        for said in ({}, {"guidance_interval": [0, 1], "cache_interval": 1})
    )
    assert (furthest(exact, same), exact.job.id) == (0, same.job.id)


@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=str)
def test_afterwards_the_unet_is_what_it_was(
    shortcut: Settings, tiny: Callable[..., Path], painter: Painter
) -> None:
    def stop(_first: int, _together: int, step: int, _of: int) -> None:
        assert len(touched(painter)) == (4 if "cache_interval" in shortcut else 1)
        if step == 3:
            raise InterruptedRunError("stopped", 2)

    before = paint(painter, settings(tiny()))[0]
    with pytest.raises(InterruptedRunError):
        paint(painter, settings(tiny()) | shortcut, on_step=stop)
    assert touched(painter) == []
    paint(painter, settings(tiny()) | shortcut)
    assert touched(painter) == []
    assert furthest(before, paint(painter, settings(tiny()))[0]) == 0


def test_times_with_a_shortcut_say_nothing_of_those_without(
    tiny: Callable[..., Path], painter: Painter, tmp_path: Path
) -> None:
    config = validate(Layer({"model": str(tiny())}))
    load_key = LoadKey.of(config, locate_model(config.model))
    history, sizes = History(load_key, tmp_path / "history.json"), BatchSizes(painter.model.device)
    [result] = paint(painter, settings(tiny(), cache_interval=2))
    exact = result.job.model_copy(update={"cache_interval": 1})
    history.add(replace(result, path=tiny() / "model_index.json"))
    history.save()
    sizes.learn(result.job, 1, 0.1, 0)
    assert history.expect(result.job)
    assert history.expect(exact) is None
    assert (sizes.of(result.job, "auto"), sizes.of(exact, "auto")) == (2, 1)


# --- as settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "guidance_interval=[0.5,0.5]",
            "two fractions of the run from 0 to 1, the first below the second, such as 0..0.5 or [0, 0.5]",
        ),
        ("guidance_interval=[0.5,0.2]", "two fractions of the run"),
        ("guidance_interval=[-0.1,0.2]", "two fractions of the run"),
        ("guidance_interval=[0,1.5]", "two fractions of the run"),
        ("guidance_interval=[0,true]", "two fractions of the run"),
        ("guidance_interval=[0,0.5,1]", "two fractions of the run"),
        ("guidance_interval=0.5", "two fractions of the run"),
        ("guidance_interval=half", "not 'half'"),
        ("cache_interval=0", "must be 1 or more, not 0"),
        ("cache_interval=1.5", "must be a whole number"),
    ],
)
def test_what_cannot_be_honoured_is_refused(said: str, message: str, sdapp: Callable[..., Any]) -> None:
    run = sdapp("generate", "a red house", "--set", said)
    assert run.exit_code == 2
    assert f"--set {said}: " in run.stderr
    assert message in run.stderr


def test_an_image_says_them_and_is_painted_again_with_them(
    sdapp: Callable[..., Any], tiny: Callable[..., Path]
) -> None:
    flags = ("--model", tiny(), "--steps", 4, "--seed", 7, "--out", ".", "--device", "cpu")
    said = ("--set", "guidance_interval=[0, 0.5]", "--set", "cache_interval=2")
    assert sdapp("generate", "a red house", *flags, *said).exit_code == 0
    shown = sdapp("show", "a-red-house-7.png", "--full").stdout
    assert "guidance_interval: [0.0, 0.5]" in " ".join(shown.split()).replace("- 0.0 - 0.5", "[0.0, 0.5]")
    assert "cached_calls: 2" in shown
    assert sdapp("replay", "a-red-house-7.png", "--verify").exit_code == 0
    assert sdapp("generate", "--config", "a-red-house-7.png", "--out", "again").exit_code == 0
    [again] = Path("again").iterdir()
    assert read_header(again)["job"]["guidance_interval"] == [0.0, 0.5]


def test_they_may_differ_from_line_to_line_and_be_compared(sdapp: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(
        "a cat --guidance_interval 0..0.5\na cat --cache_interval 2|3\na cat --guidance_interval 0|1\n"
    )
    (tmp_path / "p.yaml").write_text("- {prompt: a cat, guidance_interval: [0, 0.5]}\n"
                                     "- {prompt: a cat, guidance_interval: [[0, 0.5], [0.1, 0.8]]}\n")  # fmt: skip
    for file, images in (("p.txt", 4), ("p.yaml", 3)):
        run = sdapp("batch", file, "--out", file[:-4], "--seed", 7, "--dry-run")
        assert f"{images} images: 0 done" in run.stderr, run.stderr
    vary = ("--vary", "cache_interval=1,2,3", "--vary", "guidance_interval=0..0.5,0..1")
    run = sdapp("compare", "a cat", "--schedulers", "ddim", "--steps", 5, "--seeds", 1, "--dry-run", *vary)
    assert (run.exit_code, "6 cells" in run.stderr) == (0, True), run.stderr


def test_an_interval_without_guidance_is_told(sdapp: Callable[..., Any], tiny: Callable[..., Path]) -> None:
    flags = (
        "--model",
        tiny(),
        "--steps",
        1,
        "--out",
        ".",
        "--guidance-scale",
        1,
        "--set",
        "guidance_interval=[0,0.5]",
    )
    assert (
        "guidance_interval has no effect at a guidance_scale of 1 or below"
        in sdapp("generate", "a cat", *flags).stderr
    )
