"""The table of schedulers: for each its names, diffusers class, options, cost and randomness."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Option = str | int | float | bool | None
SIGMAS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
TIMESTEPS = 1000  # in the training of every Stable Diffusion 1.x and 2.x
ALLOWED_VALUES: dict[str, tuple[Option, ...]] = {
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "solver_order": (1, 2, 3),
    "algorithm_type": (  # without sde-dpmsolver: its noise grows, and diffusers has no third order of it
        "dpmsolver",
        "dpmsolver++",
        "sde-dpmsolver++",
        "deis",
        "data_prediction",
        "noise_prediction",
    ),
    "skip_prk_steps": (True,),  # Runge-Kutta steps call the UNet more often, and diverge
    "interpolation_type": ("linear",),  # diffusers has one sigma too many with log_linear
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large"),  # the others end in NaN
}
REFUSED_OPTIONS = {
    "use_flow_sigmas": "Stable Diffusion 1.x and 2.x are not flow models",
    "thresholding": "it clips pixel values, but Stable Diffusion works on latents",
    "noise_sampler_seed": "sdapp sets it from the seed of each image",
}
# Suffixes of a name, such as "Karras" in "DPM++ 2M Karras", without spaces and in small letters.
SIGMA_SUFFIXES = {name: name for name in SIGMAS} | {"k": "karras", "exp": "exponential"}
SPACING_SUFFIXES = {
    **dict.fromkeys(("sgmuniform", "simple", "trailing"), "trailing"),
    **dict.fromkeys(("uniform", "normal")),  # keep the scheduler's own spacing
}


@dataclass(frozen=True)
class Scheduler:
    """One row of the table."""

    name: str  # as sdapp writes it
    label: str  # as A1111 or Forge writes it; `DPM Solver`, `DPM++ 2S` and `TCD` are in neither
    class_name: str  # in diffusers
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)  # where sdapp sets other than the class
    order: int = 1
    calls: Literal["N", "N+1", "2N-1"] = "N"  # UNet calls for N steps
    stochastic: bool = False
    default_eta: float | None = None  # where the job gives none; None: this scheduler has no eta
    sigmas: tuple[str, ...] = ()  # the keys of SIGMAS that it supports
    needs: str | None = None  # an optional package
    automatic: str = ""  # sigmas of A1111's `Schedule type: Automatic`, if they are not uniform
    note: str = ""


_MULTISTEP = "DPMSolverMultistepScheduler"
_SIGMAS = ("karras", "exponential", "beta")
_SIGMAS_LU = (*_SIGMAS, "lu")
_LEADING: dict[str, Option] = {"timestep_spacing": "leading", "steps_offset": 1}
_LINSPACE: dict[str, Option] = {"timestep_spacing": "linspace"}
# DDIM and DDPM clip samples by default, which ruins latents.
_UNCLIPPED: dict[str, Option] = {"clip_sample": False}
_SDE = _LINSPACE | {"algorithm_type": "sde-dpmsolver++"}

# UNet calls, order and randomness were measured with diffusers 0.42.1; the tests measure the calls again.
TABLE: tuple[Scheduler, ...] = (
    Scheduler("pndm", "PLMS", "PNDMScheduler", ("plms",),
              _LEADING | {"skip_prk_steps": True, "set_alpha_to_one": False}, 4, "N+1"),
    Scheduler("ddim", "DDIM", "DDIMScheduler", (),
              _UNCLIPPED | _LEADING | {"set_alpha_to_one": False}, default_eta=0.0),
    Scheduler("ddpm", "DDPM", "DDPMScheduler", (), _UNCLIPPED | _LEADING, stochastic=True),
    Scheduler("lms", "LMS", "LMSDiscreteScheduler", ("k_lms",), _LINSPACE, 4, sigmas=_SIGMAS, needs="scipy",
              note="With few steps and strong guidance it amplifies every error, rounding in float16 too: "
                   "use more steps."),
    Scheduler("euler", "Euler", "EulerDiscreteScheduler", ("k_euler",), _LINSPACE, sigmas=_SIGMAS),
    Scheduler("euler-a", "Euler a", "EulerAncestralDiscreteScheduler", ("k_euler_a", "euler ancestral"),
              _LINSPACE, stochastic=True),
    Scheduler("heun", "Heun", "HeunDiscreteScheduler", ("k_heun",), _LINSPACE, 2, "2N-1", sigmas=_SIGMAS),
    Scheduler("dpm2", "DPM2", "KDPM2DiscreteScheduler", ("k_dpm_2", "kdpm2"), _LINSPACE, 2, "2N-1",
              sigmas=_SIGMAS, automatic="karras"),
    Scheduler("dpm2-a", "DPM2 a", "KDPM2AncestralDiscreteScheduler",
              ("k_dpm_2_a", "kdpm2_a", "kdpm2 ancestral", "dpm2 ancestral"), _LINSPACE, 2, "2N-1",
              stochastic=True, sigmas=_SIGMAS, automatic="karras"),
    Scheduler("dpm", "DPM Solver", _MULTISTEP, ("dpm-solver",),
              _LINSPACE | {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 2,
              sigmas=_SIGMAS_LU),
    Scheduler("dpm++2m", "DPM++ 2M", _MULTISTEP,
              ("dpm-solver++", "dpmsolver++ 2m", "dpm-solver++ 2m", "k_dpmpp_2m", "dpm++"),
              _LINSPACE | {"algorithm_type": "dpmsolver++"}, 2, sigmas=_SIGMAS_LU, automatic="karras"),
    Scheduler("dpm++2m-sde", "DPM++ 2M SDE", _MULTISTEP,
              ("sde-dpm-solver++", "dpm-solver++ 2m sde", "k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), _SDE, 2,
              stochastic=True, sigmas=_SIGMAS_LU, automatic="exponential"),
    Scheduler("dpm++2m-sde-heun", "DPM++ 2M SDE Heun", _MULTISTEP, (), _SDE | {"solver_type": "heun"}, 2,
              stochastic=True, sigmas=_SIGMAS_LU, automatic="exponential"),
    Scheduler("dpm++3m-sde", "DPM++ 3M SDE", _MULTISTEP, ("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
              _SDE | {"solver_order": 3}, 3, stochastic=True, sigmas=_SIGMAS_LU, automatic="exponential"),
    Scheduler("dpm++2s", "DPM++ 2S", "DPMSolverSinglestepScheduler",
              ("dpm-solver++ singlestep", "dpmsolver singlestep", "dpmsingle"),
              {"algorithm_type": "dpmsolver++", "lower_order_final": True}, 2, sigmas=_SIGMAS),
    Scheduler("dpm++sde", "DPM++ SDE", "DPMSolverSDEScheduler", ("k_dpmpp_sde",), _LINSPACE, 2, "2N-1",
              stochastic=True, sigmas=_SIGMAS, needs="torchsde", automatic="karras"),
    Scheduler("unipc", "UniPC", "UniPCMultistepScheduler", ("uni_pc_bh2",),
              _LINSPACE | {"solver_type": "bh2"}, 2, sigmas=_SIGMAS),
    Scheduler("deis", "DEIS", "DEISMultistepScheduler", (), _LINSPACE, 2, sigmas=_SIGMAS),
    Scheduler("sa-solver", "SA Solver", "SASolverScheduler", (),
              _LINSPACE | {"algorithm_type": "data_prediction"}, 2, stochastic=True, sigmas=_SIGMAS),
    Scheduler("lcm", "LCM", "LCMScheduler", (), _UNCLIPPED, stochastic=True,
              note="For models distilled for it."),
    Scheduler("tcd", "TCD", "TCDScheduler", (), _UNCLIPPED, stochastic=True, default_eta=0.3,
              note="For models distilled for it; eta is 0.3 unless you set it."),
)  # fmt: skip
# Classes that spread one timestep more than there are steps and leave out the last. With Karras and other
# sigmas they ignore the spacing; other classes spread sigmas from its first timestep to its last.
ONE_MORE = (_MULTISTEP, "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler")
DISTILLED = ("lcm", "tcd")  # rows for models that were distilled for them
# Classes that divide by the signal of the last timestep: zero with zero terminal SNR. Others keep a little.
DIVIDE_BY_SIGNAL = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler")
# The fewest steps, besides 1, that remove the noise: the result deviates at most twice as much as the data
# (Gaussian, 0.5; tests/comparisons/test_analytic.py). A second evaluation across a long step amplifies noise.
LEAST_STEPS = {
    "pndm": 3,
    "heun": 4, "heun-karras": 4, "heun-exponential": 4, "heun-beta": 7,
    "dpm2": 4, "dpm2-karras": 4, "dpm2-exponential": 3, "dpm2-beta": 8,
    "dpm2-a": 5, "dpm2-a-karras": 6, "dpm2-a-exponential": 6, "dpm2-a-beta": 11,
    "dpm++3m-sde-beta": 28,
    "sa-solver-karras": 7, "sa-solver-exponential": 4, "sa-solver-beta": 24,
}  # fmt: skip

# Names that other tools use for schedulers that diffusers does not have, or not for Stable Diffusion.
REFUSED_NAMES = {
    "dpmfast": "diffusers does not have it; the closest is `dpm++2m`",
    "dpmadaptive": "diffusers has no adaptive step sizes; the closest is `dpm++2m`",
    "restart": "diffusers does not have it; the closest is `heun`",
    "dpmpp2sancestral": "diffusers has no ancestral form of it; the closest is `dpm++2s`",
    "dpmpp2sa": "diffusers has no ancestral form of it; the closest is `dpm++2s`",
    "edmeuler": "its noise levels (up to 80) are not those of Stable Diffusion; use `euler-karras`",
    "ipndm": "it cannot add noise to a Stable Diffusion latent; use `pndm`",
}
