"""Profiles without a model: noise of NVIDIA's GPUs, steps, ids, what is refused, and infotext."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdapp.config import RunConfig
from sdapp.diffusion.noise import Drawn, Float32Noise, ImageNoise, gpu_randn, philox
from sdapp.diffusion.sigmas import k_sigmas
from sdapp.errors import ConfigError
from sdapp.jobs import Job, LoadKey
from sdapp.metadata.infotext_read import read_infotext
from sdapp.metadata.infotext_write import write_infotext
from sdapp.metadata.read import read_settings
from sdapp.models.vae import locate_model
from sdapp.notes import notes_before_painting
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.profiles import PROFILES, why_not_exact
from sdapp.schedulers import resolve
from sdapp.settings.layers import Layer
from sdapp.validation import validate

# From the file kat_vectors of Random123, for philox4x32 with 10 rounds: counter, key, words.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter: str, key: str, words: str) -> None:
    numbers = [np.array([int(word, 16) for word in text.split()], np.uint32) for text in (counter, key)]
    assert [f"{word:08x}" for word in philox(numbers[0][:, None], numbers[1])[:, 0]] == words.split()


def test_noise_of_a_gpu_is_normal_and_goes_on() -> None:
    drawn = gpu_randn((4, 64, 64), 7)
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02
    assert torch.equal(gpu_randn((3,), 7), drawn.flatten()[:3])  # each number by its place
    noise = ImageNoise("gpu", 7)
    assert torch.equal(noise.draw((4, 64, 64)), drawn)
    assert torch.equal(noise.draw((5,)), gpu_randn((5,), 7, calls=1))
    assert not torch.equal(gpu_randn((5,), 7, calls=1), drawn.flatten()[:5])
    assert not torch.equal(gpu_randn((5,), 7 + 2**32), drawn.flatten()[:5])  # a seed has 64 bits


def test_noise_in_a_context() -> None:
    plain = torch.randn((2, 3), generator=torch.Generator().manual_seed(5))
    assert torch.equal(
        torch.randn((2, 3), generator=ImageNoise("cpu", 5)), plain
    )  # outside it, like any other
    with Drawn("cpu"):
        assert torch.equal(torch.randn((2, 3), generator=ImageNoise("cpu", 5)), plain)
        half = torch.randn((2, 3), generator=ImageNoise("gpu", 5), dtype=torch.float16)
        tree = torch.randn((2, 3), generator=torch.Generator().manual_seed(5))
    with Drawn("cpu"), Float32Noise():  # as within a pipeline in half precision
        again = torch.randn((2, 3), generator=ImageNoise("gpu", 5), dtype=torch.float16)
    assert torch.equal(half, gpu_randn((2, 3), 5).half())
    assert torch.equal(again, half)
    assert torch.equal(tree, plain)
    with Drawn("gpu"):
        tree = torch.randn((2, 3), generator=torch.Generator().manual_seed(5))
    assert torch.equal(tree, gpu_randn((2, 3), 5))


def test_noise_of_the_steps_is_drawn_anew() -> None:
    noise = ImageNoise("cpu", 5, ("gpu", 6))
    noise.draw((2,))
    assert torch.equal(noise.draw((2,)), gpu_randn((2,), 6))
    assert torch.equal(noise.draw((2,)), gpu_randn((2,), 6, calls=1))


# --- steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "strength", "steps"),
    [
        ("diffusers", 0.75, (20, 15)), ("diffusers", 1, (20, 20)), ("diffusers", 0.01, (20, 0)),
        ("a1111", 0.75, (20, 16)), ("a1111", 1, (20, 20)), ("a1111", 0.01, (20, 1)),
        ("comfyui", 0.75, (26, 20)), ("comfyui", 1, (20, 20)), ("comfyui", 0, (20, 0)),
    ],
)  # fmt: skip
def test_steps_of_img2img(profile: Any, strength: float, steps: tuple[int, int]) -> None:
    assert PROFILES[profile].steps(20, strength) == steps


def test_all_steps_of_a_hires_pass_run_in_a1111() -> None:
    row = PROFILES["a1111"]
    for steps in range(1, 60):
        for percent in range(1, 101):
            in_all, strength = row.second_pass(steps, percent / 100)
            assert row.steps(in_all, strength) == (int(steps / min(percent / 100, 0.999)), steps)


X1 = {"kind": "img2img", "image": str(Path(__file__).parent / "pinned" / "house.png")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "comfyui", "scheduler": "lcm", "steps": 8, "task": {**X1, "strength": 0.1}},
         "task.strength: 8 steps at strength 0.1 are the last of 80: lcm has at most 50 (its option"),
        ({"profile": "a1111", "scheduler": "tcd", "steps": 8, "upscale": {"strength": 0.1}},
         "upscale.strength: 8 steps at strength 0.1 are the last of 80: tcd has at most 50"),
        ({"profile": "comfyui", "scheduler": "euler", "steps": 8, "task": {**X1, "strength": 0.001}},
         "task.strength: 8 steps at strength 0.001 are the last of 8,000, at most 1,000 are possible; use more"),
        ({"profile": "a1111", "steps": 8, "upscale": {"strength": 1e-320}},
         "are the last of 1,000,000,000, at most 1,000 are possible"),
        ({"profile": "comfyui", "scheduler": "lcm", "steps": 8, "task": {**X1, "strength": 0.2}}, ""),
        ({"profile": "comfyui", "scheduler": "euler", "steps": 50, "task": {**X1, "strength": 0.06}}, ""),
        ({"scheduler": "lcm", "steps": 8, "task": {**X1, "strength": 0.2}}, ""),
    ],
)  # fmt: skip
def test_steps_are_checked_as_they_run(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) if message else nullcontext() as caught:
        job_of(**settings)
    assert not caught or message in str(caught.value)


def test_levels_of_stable_diffusion() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    levels = ((1 - alphas) / alphas) ** 0.5
    for spread in ("uniform", "karras", "exponential", "beta", "trailing"):
        sigmas = k_sigmas(spread, 10, levels)
        assert len(sigmas) == 10
        assert float(sigmas[0]) == pytest.approx(14.6146, abs=1e-3)
        assert (sigmas.diff() < 0).all()
        assert (float(sigmas[-1]) == pytest.approx(0.0292, abs=1e-4)) == (spread != "trailing")


@pytest.mark.parametrize(
    ("profile", "scheduler", "reason"),
    [
        ("a1111", "dpm++2m-karras", ""), ("diffusers", "ddim", ""), ("comfyui", "euler-trailing", ""),
        ("a1111", "ddim", "ddim is another method in diffusers than in A1111"),
        ("comfyui", "euler-beta", "ComfyUI spreads the noise levels of euler-beta otherwise"),
        ("a1111", "dpm++2m-lu", "A1111 spreads the noise levels of dpm++2m-lu otherwise"),
    ],
)  # fmt: skip
def test_what_is_not_exact_says_why(profile: Any, scheduler: str, reason: str) -> None:
    assert why_not_exact(profile, resolve(scheduler)) == reason


def test_other_options_of_a_scheduler_are_those_of_diffusers() -> None:
    assert why_not_exact("a1111", resolve("dpm++2m", {"timestep_spacing": "trailing"})) == ""
    changed = resolve("dpm++2m", {"solver_order": 3})
    assert why_not_exact("a1111", changed) == "solver_order of dpm++2m is an option of diffusers"


# --- settings, ids, infotext --------------------------------------------------------------------------------


def job_of(**settings: Any) -> Job:
    config = RunConfig.model_validate({"prompt": "a red house", "seed": 7} | settings)
    return plan(config, locate_model("postcards"))[0]


def test_what_changes_nothing_is_not_in_the_id() -> None:
    ids = {job_of(**settings).id for settings in ({}, {"profile": "diffusers"}, {"rng": "cpu"})}
    assert len(ids) == 1
    assert job_of(profile="a1111").id == job_of(profile="a1111", rng="gpu").id
    others = [{"rng": "gpu"}, {"profile": "a1111"}, {"profile": "a1111", "ensd": 1}, {"profile": "comfyui"}]
    assert len(ids | {job_of(**settings).id for settings in others}) == 5


def test_ensd_without_a1111_is_refused() -> None:
    with pytest.raises(ConfigError, match="ensd: only A1111 has it; add profile: a1111"):
        validate(Layer({"ensd": 31337}))


@pytest.mark.parametrize(
    "settings",
    [
        {"profile": "a1111"},
        {"profile": "a1111", "rng": "cpu", "ensd": 31337},
        {"rng": "gpu"},
        {"profile": "comfyui", "upscale": {"scale": 2, "strength": 0.5, "steps": 9}},
        {"profile": "a1111", "upscale": {"scale": 2, "strength": 0.7, "steps": 9}},
    ],
)
def test_infotext_of_ours_is_read_back(settings: dict[str, Any]) -> None:
    job = job_of(**settings)
    found = read_infotext({"parameters": write_infotext(job.model_dump(mode="json"), "postcards", "1.0")})
    assert found
    again = job_of(**found[1].values | {"model": "postcards"})
    assert json.loads(again.model_dump_json()) == json.loads(job.model_dump_json())
    assert again.id == job.id


A1111 = (
    "a house\nSteps: 20, Sampler: {}, CFG scale: 7, Seed: 5, Size: 512x512, Model: foo, {}Version: v1.10.1"
)


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ("", {}),
        ("RNG: CPU, ", {"rng": "cpu"}),
        ("RNG: NV, ENSD: 31337, ", {"ensd": 31337}),
    ],
)
def test_an_image_of_a1111_chooses_its_profile(fields: str, values: dict[str, Any]) -> None:
    found = read_infotext({"parameters": A1111.format("Euler a", fields)})
    assert found
    noise = {key: value for key, value in found[1].values.items() if key in ("profile", "rng", "ensd")}
    assert noise == {"profile": "a1111"} | values
    assert found[1].left_out == []
    assert found[1].notes == []


def test_replay_says_that_it_paints_as_a1111_does(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", A1111.format("Euler a", ""))
    Image.new("RGB", (512, 512)).save(tmp_path / "in.png", pnginfo=info)
    layer = read_settings(tmp_path / "in.png")
    assert layer.values["profile"] == "a1111"
    (note,) = layer.notes
    assert all(word in note for word in ("painted as A1111 does", "xformers", "half precision", "missing"))


def test_names_that_differ_a_little_get_a_note() -> None:
    found = read_infotext({"parameters": A1111.format("Euler", "Schedule type: Simple, ")})
    assert found
    assert any("Simple is painted as SGM Uniform" in note for note in found[1].notes)


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"scheduler": "ddim"}, "profile: a1111: ddim is another method in diffusers than in A1111: the image"),
        ({"scheduler": "euler", "ensd": 5}, "ensd has no effect on a scheduler whose steps draw no noise"),
        ({"scheduler": "euler-a", "ensd": 5}, ""),
        ({"upscale": {"scale": 2, "strength": 0.7, "steps": 7}},
         "7 of 10 steps run again at 128x128 at strength 0.7"),
    ],
)  # fmt: skip
def test_notes(settings: dict[str, Any], note: str) -> None:
    config = RunConfig.model_validate({"prompt": "a red house", "seed": 7, "profile": "a1111"} | settings)
    model = locate_model("postcards")
    notes = list(notes_before_painting(config, model, plan(config, model)[0]))
    assert any(note in each for each in notes) if note else notes == []


@pytest.mark.parametrize("scheduler", ["euler-a", "dpm++2m-sde", "dpm++sde-karras"])
def test_an_image_does_not_depend_on_those_beside_it(scheduler: str, tiny: Callable[..., Path]) -> None:
    model = locate_model(str(tiny()))
    given = {"prompt": "a cat", "model": str(model.path), "scheduler": scheduler, "steps": 3, "width": 64}
    asked = given | {"height": 64, "seed": 5, "count": 2, "profile": "a1111", "ensd": 31337}
    config = RunConfig.model_validate(asked)
    painter, jobs = load(LoadKey.of(config, model), model), plan(config, model)
    together = [result.latents for result in painter.paint(jobs, batch_size=2)]
    alone = [result.latents for job in jobs for result in painter.paint([job])]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    assert not torch.allclose(together[0], together[1])
