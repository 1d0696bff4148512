"""Exact errors of schedulers: tested against theory, a published measurement and earlier values.

`analytic.json` has the errors of all deterministic schedulers with diffusers 0.42.1 and torch 2.13 on a CPU. To
make it again: `python tests/comparisons/test_analytic.py > analytic.json`, and move it here. Do so only if you
understand why the values changed.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sdapp import schedulers
from sdapp.comparisons import analytic
from sdapp.diffusion import solvers
from sdapp.errors import ConfigError
from sdapp.scheduler_table import TABLE, Option

GOLDEN = Path(__file__).with_name("analytic.json")
PAGE = Path(__file__).parents[2] / "docs" / "compare.md"
NAMES = analytic.deterministic()
# RMS error at 5, 10, 20 and 40 steps, measured independently: D = 4096, one sample, data of unpublished means and spreads.
PUBLISHED = {
    "ddim": (0.150, 0.088, 0.049, 0.027),
    "euler": (0.190, 0.104, 0.059, 0.033),
    "euler-karras": (0.168, 0.084, 0.043, 0.022),
    "heun": (0.149, 0.040, 0.013, 0.0039),
    "pndm": (0.062, 0.025, 0.010, 0.0040),
    "dpm++2m": (0.162, 0.088, 0.050, 0.030),
    "dpm++2m-karras": (0.019, 0.026, 0.0066, 0.0025),
    "unipc-karras": (0.027, 0.027, 0.0033, 0.0024),
    "dpm++2m-lu": (0.019, 0.010, 0.0033, 0.0024),
    "deis": (0.145, 0.074, 0.014, 0.0079),
}


WAS: dict[str, dict[str, float]] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def at_20(name: str) -> float:
    return WAS[name]["20"]


# --- the exact image --------------------------------------------------------------------------------------------


def gaussians(count: int) -> tuple[analytic.Data, torch.Tensor]:
    """Sampled means and spreads of the bench, and noise."""
    chance = torch.Generator().manual_seed(0)
    mean, noise = torch.randn(2, count, generator=chance, dtype=torch.float64)
    low, high = analytic.SPREADS
    spread = low + (high - low) * torch.rand(count, generator=chance, dtype=torch.float64)
    return analytic.Data(mean * analytic.MEANS, spread), noise


def test_noise_levels_are_those_of_diffusers() -> None:
    tables = solvers.build_scheduler(schedulers.resolve("ddim"), analytic.MODEL, ()).alphas_cumprod
    for timestep in (0, 1, 500, 999):
        alpha, sigma = analytic.noise_level(timestep)
        assert alpha**2 == pytest.approx(float(tables[timestep]), rel=1e-5)
        assert alpha**2 + sigma**2 == pytest.approx(1)


def test_fractional_timesteps_stand_for_the_sigmas_that_the_scheduler_steps_by() -> None:
    scheduler = solvers.build_scheduler(schedulers.resolve("euler-karras"), analytic.MODEL, ())
    scheduler.set_timesteps(20)
    levels = [analytic.noise_level(float(timestep)) for timestep in scheduler.timesteps]
    assert [sigma / alpha for alpha, sigma in levels] == pytest.approx(
        scheduler.sigmas[:-1].tolist(), rel=1e-4
    )


@pytest.mark.parametrize("timestep", [0.0, 300.5, 999.0])
def test_the_predicted_noise_is_the_mean_of_the_noise_that_was_added(timestep: float) -> None:
    """Least squares of ε on x over 100,000 images, for one Gaussian."""
    chance = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 100_000, generator=chance, dtype=torch.float64)
    data = analytic.Data(torch.tensor(0.7), torch.tensor(0.3))
    alpha, sigma = analytic.noise_level(timestep)
    x = alpha * (data.mean + data.spread * z) + sigma * noise
    slope, offset = np.polyfit(x.numpy(), noise.numpy(), 1)
    assert data.predict_noise(x, timestep).numpy() == pytest.approx(slope * x.numpy() + offset, abs=0.03)


def test_the_exact_end_is_that_of_the_integrated_ode() -> None:
    """dx/dr = E[ε | x] = r (x - μ) / (s² + r²) for x = x0 + r ε (Karras et al. 2022, equation 4 with σ(t) = t)."""
    data, noise = gaussians(50)
    alpha, sigma = analytic.noise_level(999)
    mean, spread = data.mean.numpy(), data.spread.numpy()
    solved = solve_ivp(
        lambda r, x: r * (x - mean) / (spread**2 + r**2),
        (sigma / alpha, 0),
        noise.numpy() / alpha,
        rtol=1e-10,
        atol=1e-12,
    )
    assert solved.y[:, -1] == pytest.approx(data.exact(noise).numpy(), abs=1e-7)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++2m-karras"])
def test_two_starts_stand_for_all_noises_and_means(name: str) -> None:
    data, noise = gaussians(40_000)
    end, calls = analytic.solve(name, 10, data, noise)
    row = analytic.measure_scheduler(name, 10)
    assert float((end - data.exact(noise)).square().mean().sqrt()) == pytest.approx(row.error, rel=0.03)
    assert calls == row.unet_calls


# --- the errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_error_is_what_it_was(name: str) -> None:
    rows = analytic.measure_all((name, steps) for steps in analytic.STEPS)
    assert {str(row.steps): row.error for row in rows} == pytest.approx(
        WAS[name], rel=3e-3
    )  # processors round differently
    assert [row.unet_calls for row in rows] == [
        schedulers.resolve(name).unet_calls(row.steps) for row in rows
    ]


def test_the_golden_file_has_no_others() -> None:
    assert tuple(WAS) == NAMES


@pytest.mark.parametrize(
    ("name", "steps", "published"),
    [
        (name, n, error)
        for name, figures in PUBLISHED.items()
        for n, error in zip((5, 10, 20, 40), figures, strict=True)
    ],
)
def test_the_published_errors_are_met(name: str, steps: int, published: float) -> None:
    assert analytic.measure_scheduler(name, steps).error == pytest.approx(published, rel=0.05)


def floor(noise_kept: float, last: str) -> float:
    """The error that is left when every step but the last is exact.

    `last` is what happens at the last noise level r of the schedule: "denoise" takes the mean of what the image may be,
    as one step of first order to noise 0 does; "stop" leaves the noise in. `noise_kept` is the share of the noise that the
    scheduler starts with.
    """
    alpha, sigma = analytic.noise_level(999)
    end_alpha, end_sigma = analytic.noise_level(0)
    squares = []
    for noise, mean in ((1.0, 0.0), (0.0, analytic.MEANS)):
        spread = torch.linspace(*analytic.SPREADS, 1000, dtype=torch.float64)
        reach = (noise_kept * noise - alpha * mean) / (alpha**2 * spread**2 + sigma**2).sqrt()
        around = (spread**2 + (end_sigma / end_alpha) ** 2).sqrt()
        end = mean + reach * spread**2 / around if last == "denoise" else end_alpha * (mean + reach * around)
        exact = analytic.Data(torch.tensor(mean), spread).exact(torch.full_like(spread, noise))
        squares.append((end - exact).square().mean())
    return float(sum(squares) ** 0.5)


SIGMA_START = 14.6146 / (14.6146**2 + 1) ** 0.5  # k-diffusion starts from σ·ε and not from √(σ² + 1)·ε


@pytest.mark.parametrize(
    ("name", "noise_kept", "last"),
    [
        ("dpm++2m-karras", 1.0, "denoise"),
        ("dpm++2m-lu", 1.0, "denoise"),
        ("unipc-karras", 1.0, "denoise"),
        ("heun-karras", SIGMA_START, "denoise"),
        ("dpm2-karras", SIGMA_START, "denoise"),
        ("dpm-karras", 1.0, "stop"),
        ("deis-karras", 1.0, "stop"),
    ],
)
def test_many_steps_come_to_the_floor_that_the_first_and_last_noise_levels_set(
    name: str, noise_kept: float, last: str
) -> None:
    assert analytic.measure_scheduler(name, 200).error == pytest.approx(floor(noise_kept, last), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_falls_as_steps_grow_until_the_floor(name: str) -> None:
    found = list(WAS[name].values())
    if name == "dpm++2m-karras":
        del found[0]  # the errors of its first and last steps cancel at 5 steps: 0.018, and 0.025 at 10
    worst_floor = 1.02 * max(floor(SIGMA_START, "denoise"), floor(1.0, "stop"))
    assert all(more < max(fewer, worst_floor) for fewer, more in pairwise(found))


@pytest.mark.parametrize("near", ["dpm++2m-karras", "unipc-karras", "lms-karras"])
@pytest.mark.parametrize("far", ["ddim", "euler", "euler-karras"])
def test_solvers_of_higher_order_are_nearer_at_20_steps(near: str, far: str) -> None:
    assert at_20(near) < at_20(far) / 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddim", {"timestep_spacing": "trailing"}),
        ("pndm", {"timestep_spacing": "trailing"}),
        ("euler", {"timestep_spacing": "leading"}),
        ("dpm++2m", {"timestep_spacing": "leading"}),
        ("dpm++2m-karras", {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
        ("dpm++2m-karras", {"solver_order": 1}),
        ("dpm++2m-karras", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("unipc-karras", {"beta_schedule": "linear"}),
        ("unipc-karras", {"prediction_type": "sample"}),
        ("ddim", {"set_alpha_to_one": True}),
    ],
)
def test_a_scheduler_that_is_built_wrong_shows(name: str, options: dict[str, Option]) -> None:
    error = analytic.measure_scheduler(name, 20, options).error
    assert not at_20(name) / 1.02 < error < at_20(name) * 1.02


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.stochastic])
def test_schedulers_that_add_noise_have_no_exact_image(name: str) -> None:
    with pytest.raises(ConfigError, match="adds new noise in its steps"):
        analytic.measure_scheduler(name, 5)


# --- the table in words -------------------------------------------------------------------------------------------


def test_the_table_lists_the_nearest_first_and_the_calls_where_they_differ() -> None:
    few = [
        analytic.Row("heun", 3, 5, 0.25),
        analytic.Row("euler", 5, 5, 0.125),
        analytic.Row("lms", 5, 5, 0.5),
    ]
    many = [analytic.Row("heun", 10, 19, 0.0312), analytic.Row("euler", 20, 20, 0.0625)]
    assert analytic.render_table({5: few, 20: many}).splitlines() == [
        "scheduler  5       20",
        "heun       0.2500  0.0312 (19)",
        "euler      0.1250  0.0625",
        "lms        0.5000  -",
    ]


def test_the_page_shows_the_golden_table() -> None:
    columns = {
        steps: [
            analytic.Row(name, steps, schedulers.resolve(name).unet_calls(steps), WAS[name][str(steps)])
            for name in NAMES
        ]
        for steps in analytic.STEPS
    }
    assert analytic.render_table(columns) in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    found = {
        name: {
            row.steps: float(f"{row.error:.6g}")
            for row in analytic.measure_all((name, n) for n in analytic.STEPS)
        }
        for name in NAMES
    }
    sys.stdout.write(
        "{\n" + ",\n".join(f'  "{name}": {json.dumps(errors)}' for name, errors in found.items()) + "\n}\n"
    )
