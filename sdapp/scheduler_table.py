"""What is known of each scheduler: names in every dialect, class, options, cost, randomness."""

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
TIMESTEPS = 1000  # of every Stable Diffusion 1.x and 2.x
VALUES: dict[str, tuple[Option, ...]] = {
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "solver_order": (1, 2, 3),
}
NOT_HERE = {
    "use_flow_sigmas": "Stable Diffusion 1.x and 2.x are no flow models",
    "thresholding": "it clips pixels, and these are latents",
    "noise_sampler_seed": "it follows the seed of each image",
}
SIGMA_SUFFIXES = {name: name for name in SIGMAS} | {"k": "karras", "exp": "exponential"}
SPACING_SUFFIXES = {
    "sgmuniform": "trailing",
    "simple": "trailing",
    "trailing": "trailing",
    "uniform": None,
    "normal": None,
}
KEB = ("karras", "exponential", "beta")


@dataclass(frozen=True)
class Scheduler:
    """One row of the table: `label` is the name in A1111, or in Forge where A1111 does not have it.

    `calls` is the number of UNet calls in terms of the steps N; `automatic` names the sigmas that A1111's
    `Schedule type: Automatic` stands for, where those are not uniform.
    """

    name: str
    label: str  # `DPM Solver`, `DPM++ 2S` and `TCD` are in neither tool
    class_name: str
    aliases: tuple[str, ...]
    options: Mapping[str, Option] = field(default_factory=dict)
    order: int = 1
    calls: Literal["N", "N+1", "2N-1"] = "N"
    stochastic: bool = False
    takes_eta: bool = False
    sigmas: tuple[str, ...] = ()
    needs: str | None = None
    automatic: str = ""
    note: str = ""


_DPM = "DPMSolverMultistepScheduler"
_DPM_SIGMAS = (*KEB, "lu")
_LEADING: dict[str, Option] = {"timestep_spacing": "leading", "steps_offset": 1}
_LINSPACE: dict[str, Option] = {"timestep_spacing": "linspace"}
_UNCLIPPED: dict[str, Option] = {
    "clip_sample": False
}  # diffusers takes a missing clip_sample for True, which ruins latents

# UNet calls, order and randomness were measured with diffusers 0.42.1; the tests measure the calls again.
TABLE: tuple[Scheduler, ...] = (
    Scheduler("pndm", "PLMS", "PNDMScheduler", ("plms",),
              _LEADING | {"skip_prk_steps": True, "set_alpha_to_one": False}, 4, "N+1"),
    Scheduler("ddim", "DDIM", "DDIMScheduler", (), _UNCLIPPED | _LEADING | {"set_alpha_to_one": False},
              takes_eta=True),
    Scheduler("ddpm", "DDPM", "DDPMScheduler", (), _UNCLIPPED | _LEADING, stochastic=True),
    Scheduler("lms", "LMS", "LMSDiscreteScheduler", ("k_lms",), _LINSPACE, 4, sigmas=KEB, needs="scipy",
              note="With few steps and strong guidance it multiplies every error, float16's rounding too: "
                   "give it more steps."),
    Scheduler("euler", "Euler", "EulerDiscreteScheduler", ("k_euler",), _LINSPACE, sigmas=KEB),
    Scheduler("euler-a", "Euler a", "EulerAncestralDiscreteScheduler", ("k_euler_a", "euler ancestral"),
              _LINSPACE, stochastic=True),
    Scheduler("heun", "Heun", "HeunDiscreteScheduler", ("k_heun",), _LINSPACE, 2, "2N-1", sigmas=KEB),
    Scheduler("dpm2", "DPM2", "KDPM2DiscreteScheduler", ("k_dpm_2", "kdpm2"),
              _LINSPACE, 2, "2N-1", sigmas=KEB, automatic="karras"),
    Scheduler("dpm2-a", "DPM2 a", "KDPM2AncestralDiscreteScheduler",
              ("k_dpm_2_a", "kdpm2_a", "kdpm2 ancestral", "dpm2 ancestral"),
              _LINSPACE, 2, "2N-1", stochastic=True, sigmas=KEB, automatic="karras"),
    Scheduler("dpm", "DPM Solver", _DPM, ("dpm-solver",),
              _LINSPACE | {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
              2, sigmas=_DPM_SIGMAS),
    Scheduler("dpm++2m", "DPM++ 2M", _DPM,
              ("dpm-solver++", "dpmsolver++ 2m", "dpm-solver++ 2m", "k_dpmpp_2m", "dpm++"),
              _LINSPACE | {"algorithm_type": "dpmsolver++"}, 2, sigmas=_DPM_SIGMAS, automatic="karras"),
    Scheduler("dpm++2m-sde", "DPM++ 2M SDE", _DPM,
              ("sde-dpm-solver++", "dpm-solver++ 2m sde", "k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
              _LINSPACE | {"algorithm_type": "sde-dpmsolver++"},
              2, stochastic=True, sigmas=_DPM_SIGMAS, automatic="exponential"),
    Scheduler("dpm++2m-sde-heun", "DPM++ 2M SDE Heun", _DPM, (),
              _LINSPACE | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
              2, stochastic=True, sigmas=_DPM_SIGMAS, automatic="exponential"),
    Scheduler("dpm++3m-sde", "DPM++ 3M SDE", _DPM, ("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
              _LINSPACE | {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
              3, stochastic=True, sigmas=_DPM_SIGMAS, automatic="exponential"),
    Scheduler("dpm++2s", "DPM++ 2S", "DPMSolverSinglestepScheduler",
              ("dpm-solver++ singlestep", "dpmsolver singlestep", "dpmsingle"),
              {"algorithm_type": "dpmsolver++", "lower_order_final": True}, 2, sigmas=KEB),
    Scheduler("dpm++sde", "DPM++ SDE", "DPMSolverSDEScheduler", ("k_dpmpp_sde",), _LINSPACE, 2, "2N-1",
              stochastic=True, sigmas=KEB, needs="torchsde", automatic="karras"),
    Scheduler("unipc", "UniPC", "UniPCMultistepScheduler", ("uni_pc_bh2",),
              _LINSPACE | {"solver_type": "bh2"}, 2, sigmas=KEB),
    Scheduler("deis", "DEIS", "DEISMultistepScheduler", (), _LINSPACE, 2, sigmas=KEB),
    Scheduler("sa-solver", "SA Solver", "SASolverScheduler", (),
              _LINSPACE | {"algorithm_type": "data_prediction"}, 2, stochastic=True, sigmas=KEB),
    Scheduler("lcm", "LCM", "LCMScheduler", (), _UNCLIPPED, stochastic=True,
              note="For models distilled for it."),
    Scheduler("tcd", "TCD", "TCDScheduler", (), _UNCLIPPED, stochastic=True, takes_eta=True,
              note="For models distilled for it; eta is 0.3 unless you set it."),
)  # fmt: skip

REFUSED = {
    "dpmfast": "diffusers has no such scheduler; `dpm++2m` is the nearest",
    "dpmadaptive": "diffusers has no adaptive steps; `dpm++2m` is the nearest",
    "restart": "diffusers has no such scheduler; `heun` is the nearest",
    "dpmpp2sancestral": "diffusers has no ancestral form; `dpm++2s` is the nearest",
    "dpmpp2sa": "diffusers has no ancestral form; `dpm++2s` is the nearest",
    "edmeuler": "its noise levels (up to 80) are not those of Stable Diffusion; use `euler-karras`",
    "ipndm": "it cannot add noise to a Stable Diffusion latent; use `pndm`",
}
