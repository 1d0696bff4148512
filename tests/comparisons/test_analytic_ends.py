"""Where every scheduler ends on Gaussian data, from pure noise and from the middle of its timesteps.

Half of the data have a standard deviation of 0.5, half of 0.05; their mean is 1. A perfect model is known for
them (`analytic.Data`), so a scheduler that steps right ends near this mean and these deviations.
"""

import inspect
import re

import pytest
import torch

from sdapp import schedulers
from sdapp.comparisons import analytic
from sdapp.diffusion import solvers
from sdapp.errors import ConfigError
from sdapp.scheduler_table import ONE_MORE, TABLE, Option

NAMES = [row.name for row in TABLE]
SIGMAS = [f"{row.name}-{sigmas}" for row in TABLE for sigmas in row.sigmas]
SPACED = [row.name for row in TABLE if "timestep_spacing" in schedulers.constructor_options(row.class_name)]
WIDE, NARROW = 0.5, 0.05
DATA = analytic.Data(
    torch.tensor(1.0, dtype=torch.float64), torch.tensor([[WIDE], [NARROW]], dtype=torch.float64)
)
SHAPE = (1, 2, 1024)


def end(
    name: str, steps: int, strength: float = 1.0, options: dict[str, Option] | None = None
) -> list[float]:
    """Run a scheduler as the pipelines do: the mean and the deviations, wide and narrow, of the result."""
    resolved = schedulers.resolve(name, options)
    scheduler = solvers.build_scheduler(resolved, analytic.MODEL, seeds=[0])
    scheduler.set_timesteps(steps)
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(SHAPE, generator=chance)
    first = (steps - int(steps * strength)) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    assert timesteps[0] >= (0.88 * 1000 if strength == 1 and steps > 8 else 0)
    x = noise * scheduler.init_noise_sigma
    if strength < 1:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        clean = DATA.mean + DATA.spread * torch.randn(SHAPE, generator=chance)
        x = scheduler.add_noise(clean.float(), noise, timesteps[:1])
    taken = inspect.signature(scheduler.step).parameters
    extra = {"generator": chance} if "generator" in taken else {}
    extra |= {"eta": resolved.scheduler.default_eta} if "eta" in taken else {}
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(x, timestep).double()
        predicted = DATA.predict_noise(scaled, float(timestep)).float()
        x = scheduler.step(predicted, timestep, x, **extra, return_dict=False)[0]
    wide, narrow = x[0].std(dim=1).tolist()
    return [float(x.mean()), wide, narrow]


def refusal(name: str, steps: int, options: dict[str, Option] | None = None) -> str:
    try:
        schedulers.check_run(schedulers.resolve(name, options), steps, eta=None)
    except ConfigError as exc:
        return str(exc)
    return ""


def check(name: str, steps: int, strength: float, options: dict[str, Option] | None = None) -> None:
    """The end is within bounds; so few steps that it is not have a note, and those that fail are refused."""
    if not int(steps * strength):
        return
    if reason := refusal(name, steps, options):
        assert re.search("at most 50|it begins at timestep", reason)
        return
    mean, wide, narrow = end(name, steps, strength, options)
    if schedulers.few_steps(schedulers.resolve(name, options), steps):
        assert max(abs(mean), wide, narrow) < 20
    elif steps < 20:
        assert abs(mean - 1) < 0.15
        assert max(wide, narrow) <= 2 * WIDE
    else:
        assert abs(mean - 1) < 0.1
        assert abs(wide - WIDE) < (0.35 if steps < 100 else 0.06)
        assert narrow < (0.35 if steps < 100 else 0.1)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_ends_at_the_data(name: str, strength: float) -> None:
    for steps in (1, 2, 3, 5, 20, 150):
        check(name, steps, strength)
    # DPM++ SDE takes 7 ms a step, and LMS and DPM2 a few: of these only some steps.
    slow = name == "dpm++sde" or (strength < 1 and name in ("lms", "dpm2", "dpm2-a"))
    check(name, 999, 0.05 if slow else strength)


@pytest.mark.parametrize("name", SIGMAS)
def test_it_does_with_every_kind_of_sigmas(name: str) -> None:
    for steps in (1, 2, 3, 5, 20):
        check(name, steps, 1.0)
    for steps in (3, 20):
        check(name, steps, 0.5)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("name", SPACED)
def test_it_does_with_every_spacing_however_uneven(name: str, spacing: str) -> None:
    for steps in (1, 2, 7, 30, 110):
        check(name, steps, 1.0, {"timestep_spacing": spacing})
    check(name, 30, 0.5, {"timestep_spacing": spacing})


@pytest.mark.parametrize("name", [*NAMES, *SIGMAS])
def test_a_thousand_steps_have_a_thousand_levels_of_noise_or_are_refused(name: str) -> None:
    resolved = schedulers.resolve(name)
    if reason := refusal(name, 1000):
        assert re.search("ends in NaN at 1000 steps.*; at most 99[89]|at most 50|it begins at", reason)
        return
    scheduler = solvers.build_scheduler(resolved, analytic.MODEL, seeds=[0])
    scheduler.set_timesteps(1000)
    if resolved.scheduler.class_name in ONE_MORE:  # these divide by the fall of each step
        assert (scheduler.sigmas.diff()[:-1] < 0).all()
    assert scheduler.timesteps[0] >= 998


def test_one_step_goes_from_the_last_timestep_to_the_end() -> None:
    for name in [*NAMES, *SIGMAS]:
        scheduler = solvers.build_scheduler(schedulers.resolve(name), analytic.MODEL, seeds=[0])
        scheduler.set_timesteps(1)
        assert scheduler.timesteps[0] >= 998, name


def test_the_third_order_of_dpm_sde_converges() -> None:
    ends = [end("dpm++3m-sde", steps)[1] for steps in (50, 200, 500)]
    assert ends == pytest.approx([WIDE] * 3, abs=0.03)


@pytest.mark.parametrize("name", ["lms", "lms-karras", "pndm", "pndm-trailing"])
def test_multistep_schedulers_leave_no_noise_if_they_begin_in_the_middle(name: str) -> None:
    assert end(name, 20, strength=0.5)[1:] == pytest.approx([WIDE, NARROW], abs=0.025)


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_uneven_timesteps_are_walked_to_the_next_one(name: str) -> None:
    """600 steps through 1,000 timesteps go on by 1 or 2; diffusers always goes on by 1."""
    assert end(name, 600, options={"timestep_spacing": "trailing"})[1:] == pytest.approx(
        [WIDE, NARROW], abs=0.02
    )


@pytest.mark.parametrize(
    "option", [{"lower_order_final": False}, {"predict_x0": False}, {"solver_type": "bh1"}]
)
def test_options_of_unipc_that_end_in_nan_are_refused_and_run_with_another_last_sigma(
    option: dict[str, Option],
) -> None:
    with pytest.raises(ConfigError, match="ends in NaN"):
        schedulers.resolve("unipc", option | {"final_sigmas_type": "zero"})
    check("unipc", 20, 1.0, option | {"final_sigmas_type": "sigma_min"})
