"""Build the schedulers of diffusers for a model, with repairs of what diffusers 0.42 gets wrong."""

import inspect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import wraps
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from sdapp.diffusion.sigmas import brownian_tree, follow
from sdapp.errors import ConfigError, UnavailableError
from sdapp.profiles import PROFILES, ProfileName, is_exact
from sdapp.scheduler_table import SIGMAS, TIMESTEPS
from sdapp.schedulers import FROM_MODEL, Resolved, check_noise_schedule

# Building with one of these warns that they are deprecated; setting them afterwards does not.
DEPRECATED = ("dpmsolver", "sde-dpmsolver")


class LMSDiscreteScheduler(diffusers.LMSDiscreteScheduler):  # type: ignore[misc]
    """Takes the order from the derivatives that it has.

    diffusers takes it from the index of the step: `order = min(self.step_index + 1, order)`. img2img begins
    at a later index, so its first steps lack the derivatives of their coefficients, and noise is left.
    """

    def step(self, model_output: Any, timestep: Any, sample: Any, order: int = 4, **kwargs: Any) -> Any:
        """Do one step, of an order that the derivatives so far allow."""
        return super().step(model_output, timestep, sample, min(order, len(self.derivatives) + 1), **kwargs)


class DDIMScheduler(diffusers.DDIMScheduler):  # type: ignore[misc]
    """Steps to the next timestep, however far it is; diffusers always goes T // steps (its issue 12633)."""

    def step(self, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """Do one step."""
        self.num_inference_steps = _rate(self, timestep - _next_below(self, timestep))
        return super().step(model_output, timestep, sample, *args, **kwargs)

    step.__signature__ = inspect.signature(diffusers.DDIMScheduler.step)  # type: ignore[attr-defined]


class PNDMScheduler(diffusers.PNDMScheduler):  # type: ignore[misc]
    """Begins in the middle of its timesteps too, and steps to the next timestep like DDIMScheduler.

    The second and third timestep are the same: `step_plms` of diffusers goes from the first to the second and
    corrects that at the third call. For img2img and inpainting, which leave out the first timesteps, it does
    so too, although no timestep is repeated: from then on all timesteps are one too low, and noise is left.
    """

    _begin = 0
    counter: int  # the calls so far

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set which timestep comes first; pipelines that start from an image call it."""
        self._begin = begin_index

    def step_plms(
        self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Any]:
        """Do one step; without the correction if the run begins after the first timestep."""
        if self._begin == 1:  # the first of the two equal timesteps: there is nothing to correct yet
            self._begin = 2
            return SchedulerOutput(prev_sample=sample) if return_dict else (sample,)
        if self.counter == 1:  # the correction: from the first timestep to this one again
            self.num_inference_steps = _rate(self, self.timesteps[0] - timestep)
        else:
            self.num_inference_steps = _rate(self, timestep - _next_below(self, timestep))
        result: SchedulerOutput | tuple[Any] = super().step_plms(model_output, timestep, sample, return_dict)
        if self._begin and self.counter == 1:
            self.counter = 2
        return result


class DPMSolverMultistepScheduler(diffusers.DPMSolverMultistepScheduler):  # type: ignore[misc]
    """Has the right sign in the third order of sde-dpmsolver++ (DPM++ 3M SDE).

    The factor of D2 is (1 - exp(-2h) - 2h) / (2h)² + 1/2, as for dpmsolver++ with 2h for h, and as in
    `sample_dpmpp_3m_sde` of k-diffusion. diffusers has - 1/2, so noise is left at any number of steps.
    """

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Do one step of third order."""
        x = super().multistep_dpm_solver_third_order_update(model_output_list, *args, **kwargs)
        if self.config.algorithm_type != "sde-dpmsolver++":
            return x
        sigmas = self.sigmas[self.step_index - 2 : self.step_index + 2]
        h_1, h_0, h = sigmas.log().diff().neg()
        m2, m1, m0 = model_output_list[-3:]
        d2 = ((m0 - m1) / h_0 - (m1 - m2) / h_1) * h**2 / (h_0 + h_1)
        alpha, _ = self._sigma_to_alpha_sigma_t(sigmas[-1])
        return x + alpha * d2


REPAIRED = {
    cls.__name__: cls
    for cls in (LMSDiscreteScheduler, DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler)
}


def _next_below(scheduler: Any, timestep: Any) -> Any:
    """The timestep that follows, or one that stands for the end."""
    below = scheduler.timesteps[scheduler.timesteps < timestep]
    return below[0] if len(below) else timestep - scheduler.config.num_train_timesteps


def _rate(scheduler: Any, gap: Any) -> Fraction:
    """The number of steps for which diffusers, dividing by it, goes as far as `gap`."""
    return Fraction(scheduler.config.num_train_timesteps, int(gap))


def build_scheduler(
    resolved: Resolved,
    model_config: Mapping[str, Any],
    seeds: Sequence[int],
    profile: ProfileName = "diffusers",
) -> Any:
    """Build a fresh diffusers scheduler for one call, from the model's noise schedule and our options.

    `model_config` is the content of the model's scheduler_config.json; `seeds`, one for each image, are for
    Brownian trees. Not with `from_config`, which keeps other options of the model. Raises ConfigError for a
    value that the class refuses, UnavailableError for a missing package.
    """
    check_noise_schedule(resolved, model_config)
    class_name = resolved.scheduler.class_name
    cls = REPAIRED.get(class_name) or getattr(diffusers, class_name)
    known = inspect.signature(cls).parameters
    options = {key: model_config[key] for key in FROM_MODEL if key in model_config and key in known}
    options |= resolved.options
    if "noise_sampler_seed" in known:
        options["noise_sampler_seed"] = list(seeds)
    later = {key: value for key, value in options.items() if value in DEPRECATED}
    try:
        scheduler = cls(**options | dict.fromkeys(later, "dpmsolver++"))
    except ImportError as exc:
        package = resolved.scheduler.needs or "scipy"
        raise UnavailableError(f"{resolved.name} needs {package}; fix: pip install {package}") from exc
    except (ValueError, NotImplementedError, TypeError) as exc:
        raise ConfigError(f"{resolved.name}: {exc}") from exc
    scheduler.register_to_config(**later)
    row = PROFILES[profile]
    if is_exact(profile, resolved):
        follow(scheduler, resolved, row, seeds)
        return _set_our_way(scheduler, is_spread=False)
    return _set_our_way(scheduler)


def _set_our_way(scheduler: Any, is_spread: bool = True) -> Any:
    """Make every run begin at its first sigma, and keep the timesteps on the CPU, where reading them is fast.

    diffusers finds the first sigma by the first timestep. With beta sigmas and about 30 steps or more, the
    first two timesteps are rounded to the same number, so it starts at the second and runs past the last.
    `is_spread` says that the noise levels are those of diffusers.
    """
    original = scheduler.set_timesteps

    @wraps(original)  # the pipelines look at its signature
    def set_timesteps(steps: int, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("device", None)
        original(steps, *args, **kwargs)
        if is_spread and steps == 1 and not _removes_noise(scheduler):
            # One step has no spacing: from the last timestep to the end.
            off = {option: False for option in SIGMAS.values() if option in scheduler.config}
            scheduler.register_to_config(timestep_spacing="trailing", **off)
            original(steps, *args, **kwargs)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # img2img and inpaint set theirs afterwards

    scheduler.set_timesteps = set_timesteps
    if hasattr(scheduler, "noise_sampler"):
        _draw_on_cpu(scheduler)
    return scheduler


def _removes_noise(scheduler: Any) -> bool:
    """Whether the only step begins at pure noise and ends below it.

    In diffusers, leading and linspace begin at 0 or 1 then, and the Karras sigmas of DEIS and SA-Solver do
    not fall.
    """
    sigmas = getattr(scheduler, "sigmas", (1, 0))
    return bool(scheduler.timesteps[0] > 0.9 * TIMESTEPS and sigmas[0] > sigmas[-1])


def _draw_on_cpu(scheduler: Any) -> None:
    """Make DPM++ SDE draw its noise in float32 on the CPU: the same noise for every device and dtype."""
    original = scheduler.step

    @wraps(original)
    def step(model_output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
        if scheduler.noise_sampler is None:
            tree = brownian_tree(scheduler.sigmas, sample.shape, scheduler.noise_sampler_seed)
            place = {"device": sample.device, "dtype": sample.dtype}
            scheduler.noise_sampler = lambda *sigmas: tree(*sigmas).to(**place)
        return original(model_output, timestep, sample, **kwargs)

    scheduler.step = step
