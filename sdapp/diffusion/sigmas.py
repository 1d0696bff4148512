"""Noise levels (sigmas) as k-diffusion spreads them, given to the schedulers of diffusers."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from sdapp.profiles import Profile, Schedule, schedule_of
from sdapp.schedulers import Resolved

RHO = 7.0  # Karras et al. 2022
ONCE = (  # classes that call the UNet once a step
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)  # fmt: skip


def k_sigmas(schedule: Schedule, steps: int, levels: torch.Tensor) -> torch.Tensor:
    """Return the noise levels of `steps` steps, falling, without the 0 at the end, in float32.

    `levels` are those of the model's timesteps, rising. Formulas: `get_sigmas*` of k-diffusion, and
    `sgm_uniform` and `beta_scheduler` of A1111; to the last bit, because Brownian trees magnify the
    difference. Between timesteps the logarithm is interpolated.
    """
    low, high, last = float(levels[0]), float(levels[-1]), len(levels) - 1
    if schedule == "karras":
        ends = high ** (1 / RHO), low ** (1 / RHO)
        return torch.pow(ends[0] + torch.linspace(0, 1, steps) * (ends[1] - ends[0]), RHO)
    if schedule == "exponential":
        return torch.linspace(math.log(high), math.log(low), steps).exp()
    if schedule == "beta":
        shares = beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6)
        return torch.from_numpy(low + shares * (high - low)).float()
    timesteps = torch.linspace(last, 0, steps + (schedule == "trailing"))[:steps]
    below, above, part = timesteps.floor().long(), timesteps.ceil().long(), timesteps.frac()
    return ((1 - part) * levels.log()[below] + part * levels.log()[above]).exp()


def follow(scheduler: Any, resolved: Resolved, profile: Profile, seeds: Sequence[int]) -> None:
    """Let a scheduler run as in the program of a profile; only if `why_not_exact` finds nothing.

    Its noise levels are those of k-diffusion, its timesteps are not rounded, the first noise has the
    program's factor, and the noise of DPM++ 2M and 3M SDE comes from a Brownian tree.
    """
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5
    schedule, one_more = schedule_of(resolved), resolved.scheduler.name in profile.one_more
    assert schedule

    def sigmas_of(steps: int) -> torch.Tensor:
        return k_sigmas(schedule, steps + one_more, levels)[:steps]

    plain = scheduler.set_timesteps
    # diffusers computes init_noise_sigma from this: √(1 + sigma²) for leading timesteps, sigma for others.
    spacing = "leading" if profile.has_unit_variance else "linspace"

    @wraps(plain)  # the pipelines look at its signature
    def set_timesteps(steps: int, *args: Any, **kwargs: Any) -> None:
        if type(scheduler).__name__ in ONCE:
            plain(steps, *args, **kwargs)
            sigmas = sigmas_of(steps)
            timesteps = np.interp(sigmas.log(), levels.log(), np.arange(len(levels)))
            scheduler.sigmas = torch.cat([sigmas, torch.zeros(1)])
            scheduler.timesteps = torch.from_numpy(timesteps).float()
            scheduler.num_inference_steps = steps
        else:
            _set_in_between(scheduler, plain, sigmas_of, steps)
        scheduler.register_to_config(timestep_spacing=spacing)
        if not profile.has_unit_variance and type(scheduler).__name__ == ONCE[-1]:
            scheduler.init_noise_sigma = float(scheduler.sigmas[0] / (1 + scheduler.sigmas[0] ** 2) ** 0.5)

    scheduler.set_timesteps = set_timesteps
    if resolved.scheduler.name == "dpm++3m-sde":  # its second step is Heun's, the last but one as all
        scheduler.register_to_config(solver_type="heun", lower_order_final=False)
    if resolved.options.get("algorithm_type") == "sde-dpmsolver++":
        _draw_from_tree(scheduler, seeds)


def _set_in_between(
    scheduler: Any, set_timesteps: Callable[..., None], sigmas_of: Callable[[int], torch.Tensor], steps: int
) -> None:
    """Set the noise levels of a scheduler that adds some between them.

    It does that after its exponential spread, and from there on rounds nothing.
    """
    asked = {key: value for key, value in scheduler.config.items() if key.endswith("_sigmas")}
    scheduler.register_to_config(**dict.fromkeys(asked, False) | {"use_exponential_sigmas": True})
    scheduler._convert_to_exponential = lambda **_: sigmas_of(steps).numpy()
    try:
        set_timesteps(steps)
    finally:
        scheduler.register_to_config(**asked)
    scheduler.timesteps = scheduler.timesteps.float()


def brownian_tree(sigmas: torch.Tensor, shape: Sequence[int], seeds: Sequence[int]) -> Any:
    """The noise between two of these noise levels, float32 on the CPU: a function of both."""
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

    least, most = sigmas[sigmas > 0].min().item(), sigmas.max().item()
    return BrownianTreeNoiseSampler(torch.empty(tuple(shape)), least, most, seeds)


def _draw_from_tree(scheduler: Any, seeds: Sequence[int]) -> None:
    """Let DPM++ 2M SDE and 3M SDE draw their noise from a Brownian tree, as k-diffusion does."""
    original, tree = scheduler.step, None

    @wraps(original)  # the pipelines look at its signature
    def step(model_output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
        nonlocal tree
        tree = tree or brownian_tree(scheduler.sigmas, sample.shape, seeds)
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        sigma, below = scheduler.sigmas[scheduler.step_index : scheduler.step_index + 2]
        noise = tree(sigma, below) if below else torch.zeros(sample.shape)
        return original(model_output, timestep, sample, **kwargs | {"variance_noise": noise.to(sample)})

    scheduler.step = step
