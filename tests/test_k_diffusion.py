"""The profiles a1111 and comfyui against k-diffusion itself: `make test-k-diffusion` installs it and runs these."""

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

if find_spec("k_diffusion") is None:
    pytest.skip("k-diffusion is not installed: make test-k-diffusion", allow_module_level=True)

import torch

from sdapp.config import RunConfig
from sdapp.diffusion.noise import Drawn, ImageNoise
from sdapp.jobs import LoadKey
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.pipelines import Painter, load
from sdapp.planning import plan

STEPS, GUIDANCE, SEED = 8, 3.0, 5
# Samplers: the name, the function of k-diffusion, the sigmas of A1111, whether it has one sigma more.
SAMPLERS = {
    "euler": ("sample_euler", "uniform", False),
    "euler-karras": ("sample_euler", "karras", False),
    "euler-exponential": ("sample_euler", "exponential", False),
    "euler-trailing": ("sample_euler", "sgm", False),
    "euler-beta": ("sample_euler", "beta", False),
    "euler-a": ("sample_euler_ancestral", "uniform", False),
    "heun": ("sample_heun", "uniform", False),
    "heun-karras": ("sample_heun", "karras", False),
    "dpm2": ("sample_dpm_2", "uniform", True),
    "dpm2-karras": ("sample_dpm_2", "karras", True),
    "dpm2-a-karras": ("sample_dpm_2_ancestral", "karras", True),
    "lms": ("sample_lms", "uniform", False),
    "lms-karras": ("sample_lms", "karras", False),
    "dpm++2m": ("sample_dpmpp_2m", "uniform", False),
    "dpm++2m-karras": ("sample_dpmpp_2m", "karras", False),
    "dpm++sde": ("sample_dpmpp_sde", "uniform", False),
    "dpm++sde-karras": ("sample_dpmpp_sde", "karras", False),
    "dpm++2m-sde": ("sample_dpmpp_2m_sde", "uniform", False),
    "dpm++2m-sde-exponential": ("sample_dpmpp_2m_sde", "exponential", False),
    "dpm++2m-sde-heun-karras": ("sample_dpmpp_2m_sde", "karras", False),
    "dpm++3m-sde-exponential": ("sample_dpmpp_3m_sde", "exponential", True),
}


@pytest.fixture(scope="module")
def k() -> Iterator[Any]:
    """The modules `sampling` and `external` of k-diffusion, without what only its training needs."""
    package = ModuleType("k_diffusion")
    spec = find_spec("k_diffusion")
    assert spec
    package.__path__ = list(spec.submodule_search_locations or ())
    unused = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchdiffeq")}
    unused["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    unused["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    loaded = {name: sys.modules.get(name) for name in (*unused, "k_diffusion")}
    sys.modules |= unused | {"k_diffusion": package}
    try:
        package.sampling = importlib.import_module("k_diffusion.sampling")  # type: ignore[attr-defined]
        package.external = importlib.import_module("k_diffusion.external")  # type: ignore[attr-defined]
        yield package
    finally:
        for name in [name for name in sys.modules if name in loaded or name.startswith("k_diffusion")]:
            del sys.modules[name]
        sys.modules |= {name: module for name, module in loaded.items() if module}


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> Model:
    return locate_model(str(tiny()))


@pytest.fixture(scope="module")
def painter(model: Model) -> Painter:
    return load(LoadKey.of(RunConfig(), model), model)


class Guided(torch.nn.Module):
    """A UNet with prompt and guidance, in the form that k-diffusion wants."""

    def __init__(self, pipe: Any, prompt: str, negative: str) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        self.unet, (words, nothing) = pipe.unet, pipe.encode_prompt(prompt, "cpu", 1, True, negative)
        self.conditioning = torch.cat([nothing, words])

    def apply_model(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        without, with_words = self.unet(torch.cat([x, x]), torch.cat([t, t]), self.conditioning)[0].chunk(2)
        return without + GUIDANCE * (with_words - without)


def sigmas_of(k: Any, model: Any, spread: str, steps: int, one_more: bool) -> torch.Tensor:
    """The sigmas as A1111 computes them."""
    steps += one_more
    ends = float(model.sigmas[0]), float(model.sigmas[-1])
    if spread == "uniform":
        sigmas = model.get_sigmas(steps)
    elif spread == "sgm":
        times = torch.linspace(999, 0, steps + 1)[:-1]
        sigmas = torch.cat([model.t_to_sigma(times), torch.zeros(1)])
    elif spread == "beta":
        from scipy.stats import beta

        share = torch.from_numpy(beta.ppf(1 - torch.linspace(0, 1, steps).double().numpy(), 0.6, 0.6))
        sigmas = torch.cat([ends[0] + share.float() * (ends[1] - ends[0]), torch.zeros(1)])
    else:
        sigmas = getattr(k.sampling, f"get_sigmas_{spread}")(steps, *ends)
    return torch.cat([sigmas[:-2], sigmas[-1:]]) if one_more else sigmas


def by_k_diffusion(
    k: Any, pipe: Any, name: str, start: Callable[[torch.Tensor], torch.Tensor], tree_seed: int | None = None,
    run: int | None = None, steps: int = STEPS, **more: Any,
) -> torch.Tensor:  # fmt: skip
    """Latents from k-diffusion, which starts with `start(sigma)`; `run` of the steps run, by default all."""
    function, spread, one_more = SAMPLERS[name]
    with torch.no_grad():
        denoiser = k.external.CompVisDenoiser(Guided(pipe, "a red house", "tree"))
        sigmas = sigmas_of(k, denoiser, spread, steps, one_more)
        first = sigmas[-(run or steps) - 1]
        x = start(first)
        if tree_seed is not None:
            ends = sigmas[sigmas > 0].min(), sigmas.max()
            more["noise_sampler"] = k.sampling.BrownianTreeNoiseSampler(x, *ends, seed=[tree_seed])
        if "sde-heun" in name:
            more["solver_type"] = "heun"
        sampler = getattr(k.sampling, function)
        return torch.as_tensor(sampler(denoiser, x, sigmas[sigmas <= first], disable=True, **more)[0])


def noises(name: str, noise: ImageNoise, size: int = 8) -> tuple[torch.Tensor, dict[str, Any]]:
    """The first noise, and what k-diffusion draws that of the steps with."""
    first = noise.draw((1, 4, size, size))
    if "sde" in name:
        return first, {"tree_seed": SEED}
    is_ancestral = name.startswith(("euler-a", "dpm2-a"))
    return first, {"noise_sampler": lambda *_: noise.draw((1, 4, size, size))} if is_ancestral else {}


def latents(painter: Painter, model: Model, name: str, **settings: Any) -> torch.Tensor:
    usual = {"prompt": "a red house", "negative_prompt": "tree", "seed": SEED, "steps": STEPS, "width": 64}
    usual |= {"scheduler": name, "model": str(model.path), "guidance_scale": GUIDANCE, "height": 64}
    (result,) = painter.paint(plan(RunConfig.model_validate(usual | settings), model))
    assert result.error is None
    return torch.as_tensor(result.latents)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a1111(name: str, k: Any, painter: Painter, model: Model) -> None:
    first, more = noises(name, ImageNoise("gpu", SEED))
    with Drawn("gpu"):
        theirs = by_k_diffusion(
            k, painter.model.pipelines["txt2img"], name, lambda sigma: first * sigma, **more
        )
    close(latents(painter, model, name, profile="a1111"), theirs)


def test_noise_of_the_cpu_and_ensd(k: Any, painter: Painter, model: Model) -> None:
    first, more = noises("euler-a", ImageNoise("cpu", SEED, ("cpu", SEED + 31337)))
    theirs = by_k_diffusion(
        k, painter.model.pipelines["txt2img"], "euler-a", lambda sigma: first * sigma, **more
    )
    close(latents(painter, model, "euler-a", profile="a1111", rng="cpu", ensd=31337), theirs)


@pytest.mark.parametrize("name", ["euler-a", "dpm++2m-karras", "dpm++2m-sde", "dpm2-karras"])
def test_comfyui(name: str, k: Any, painter: Painter, model: Model) -> None:
    first, more = noises(name, ImageNoise("cpu", SEED, ("gpu", SEED)))
    theirs = by_k_diffusion(
        k, painter.model.pipelines["txt2img"], name, lambda sigma: first * (1 + sigma**2) ** 0.5, **more
    )
    close(latents(painter, model, name, profile="comfyui"), theirs)


@pytest.mark.parametrize("name", ["euler-a", "dpm++2m-karras", "heun", "dpm++sde-karras"])
@pytest.mark.parametrize(("profile", "steps", "run"), [("a1111", 8, 5), ("comfyui", 16, 8)])
def test_img2img(
    name: str, profile: str, steps: int, run: int, k: Any, painter: Painter, model: Model, house: Path
) -> None:
    pipe, is_theirs = painter.model.pipelines["img2img"], profile == "a1111"
    pixels = pipe.image_processor.preprocess(Image.open(house))
    with torch.no_grad():
        image = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    noise = ImageNoise("gpu", SEED) if is_theirs else ImageNoise("cpu", SEED, ("gpu", SEED))
    first, more = noises(name, noise)
    with Drawn("gpu" if is_theirs else "cpu"):
        theirs = by_k_diffusion(
            k, pipe, name, lambda sigma: image + first * sigma, run=run, steps=steps, **more
        )
    task = {"kind": "img2img", "image": str(house), "strength": 0.5}
    close(latents(painter, model, name, profile=profile, task=task), theirs)


@pytest.mark.parametrize("name", ["euler-a", "dpm++2m-karras"])
def test_hires_pass_of_a1111(name: str, k: Any, painter: Painter, model: Model) -> None:
    small = latents(painter, model, name, profile="a1111")[None]
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    first, more = noises(name, ImageNoise("gpu", SEED), 16)
    pipe = painter.model.pipelines["img2img"]
    theirs = by_k_diffusion(k, pipe, name, lambda sigma: large + first * sigma, run=7, steps=10, **more)
    upscale = {"scale": 2, "enlarge": "latent", "strength": 0.7, "steps": 7}
    close(latents(painter, model, name, profile="a1111", upscale=upscale), theirs)
