"""What other programs compute otherwise than diffusers, where it decides pixels: a row for each profile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sdapp.scheduler_table import SIGMAS
from sdapp.schedulers import Resolved

Rng = Literal["cpu", "gpu"]
ProfileName = Literal["diffusers", "a1111", "comfyui"]
Schedule = Literal["uniform", "karras", "exponential", "beta", "trailing"]

# Schedulers whose steps are those of k-diffusion, which A1111 and ComfyUI use (tests/test_k_diffusion.py).
EXACT = (
    "euler", "euler-a", "heun", "dpm2", "dpm2-a", "lms", "dpm++2m", "dpm++2m-sde", "dpm++2m-sde-heun",
    "dpm++3m-sde", "dpm++sde",
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """How a program spreads noise levels, draws noise, and counts the steps of img2img."""

    label: str
    rng: Rng = "cpu"  # draws the noise, if the setting `rng` names none
    step_rng: Rng | None = None  # draws the noise of steps, anew from the seed; None: the first goes on
    is_k_diffusion: bool = False  # its noise levels and timesteps; latents of an image are the mean
    has_unit_variance: bool = False  # the first noise gets the factor √(1 + sigma²), not sigma
    one_more: tuple[str, ...] = ()  # schedulers that spread one noise level more, and leave out the last
    without: tuple[Schedule, ...] = ()  # spreads that it has under the same name, with other noise levels
    cuts_levels: bool = False  # a channel of 127.9 becomes 127, not 128
    max_strength: float = 1.0
    keeps_steps: bool = False  # img2img runs all `steps`, of steps / strength; otherwise a share of `steps`
    more_steps: int = 0  # that img2img runs besides that share

    def steps(self, steps: int, strength: float) -> tuple[int, int]:
        """Return over how many steps img2img spreads the noise levels, and how many of these run."""
        strength = min(strength, self.max_strength)
        if self.keeps_steps:
            return (_whole(steps / strength), steps) if strength else (steps, 0)
        return steps, min(int(steps * strength) + self.more_steps, steps)

    def second_pass(self, steps: int, strength: float) -> tuple[int, float]:
        """Return the steps and the strength of img2img with which `steps` of a second pass are computed.

        A1111, of whose img2img a share of the steps runs, runs all steps of its hires pass.
        """
        if not self.more_steps:
            return steps, strength
        in_all = _whole(steps / min(strength, self.max_strength))
        return in_all, (steps - 0.5) / in_all  # half a step from where rounding would matter


# A1111 1.10.1: modules/rng.py, sd_samplers_kdiffusion.py, sd_samplers_common.py (setup_img2img_steps);
# ComfyUI 0.3: comfy/samplers.py, comfy/k_diffusion/sampling.py (default_noise_sampler), comfy/sample.py.
PROFILES: Mapping[ProfileName, Profile] = {
    "diffusers": Profile("diffusers"),
    "a1111": Profile(
        "A1111", rng="gpu", is_k_diffusion=True, one_more=("dpm2", "dpm2-a", "dpm++3m-sde"),
        cuts_levels=True, max_strength=0.999, more_steps=1,
    ),
    "comfyui": Profile(
        "ComfyUI", step_rng="gpu", is_k_diffusion=True, has_unit_variance=True, one_more=("dpm2", "dpm2-a"),
        without=("beta",), cuts_levels=True, keeps_steps=True,
    ),
}  # fmt: skip


def _whole(steps: float) -> int:
    """A number of steps, rounded down; of an infinite one, one that is refused too."""
    return int(min(steps, 1e9))


def schedule_of(resolved: Resolved) -> Schedule | None:
    """Return how a scheduler spreads its noise levels; None if k-diffusion has no such spread."""
    options = resolved.options
    if options.get("use_lu_lambdas") or options.get("timestep_spacing") == "leading":
        return None
    names: tuple[Schedule, ...] = ("karras", "exponential", "beta")
    chosen = next((name for name in names if options.get(f"use_{name}_sigmas")), None)
    return chosen or ("trailing" if options.get("timestep_spacing") == "trailing" else "uniform")


def why_not_exact(profile: ProfileName, resolved: Resolved) -> str:
    """Say why a scheduler runs as in diffusers under a profile, "" if it runs as in that program."""
    row = PROFILES[profile]
    if not row.is_k_diffusion:
        return ""
    if resolved.scheduler.name not in EXACT:
        return f"{resolved.name} is another method in diffusers than in {row.label}"
    changed = [key for key, value in resolved.options.items() if resolved.scheduler.options.get(key) != value]
    if changed := [key for key in changed if key not in (*SIGMAS.values(), "timestep_spacing")]:
        return f"{', '.join(changed)} of {resolved.name} is an option of diffusers"
    schedule = schedule_of(resolved)
    if schedule is None or schedule in row.without:
        return f"{row.label} spreads the noise levels of {resolved.name} otherwise"
    return ""


def is_exact(profile: ProfileName, resolved: Resolved) -> bool:
    """Whether a scheduler runs as in k-diffusion under a profile, at any number of steps."""
    return PROFILES[profile].is_k_diffusion and not why_not_exact(profile, resolved)
