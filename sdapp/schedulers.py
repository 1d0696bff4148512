"""Schedulers: their names in every dialect, what is known of each, and how one is built for a model."""

import ast
import importlib.util
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sdapp.errors import ConfigError, UnavailableError

Option = str | int | float | bool | None
SIGMAS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
SIGMA_SUFFIXES = {name: name for name in SIGMAS} | {"k": "karras", "exp": "exponential"}
SPACING_SUFFIXES = {"sgmuniform": "trailing", "simple": "trailing", "trailing": "trailing", "uniform": None, "normal": None}
KEB = ("karras", "exponential", "beta")


@dataclass(frozen=True)
class Scheduler:
    """One row of the table. `calls` is the number of UNet calls in terms of the steps N."""

    name: str
    class_name: str
    aliases: tuple[str, ...]
    options: Mapping[str, Option] = field(default_factory=dict)
    order: int = 1
    calls: Literal["N", "N+1", "2N-1"] = "N"
    stochastic: bool = False
    takes_eta: bool = False
    sigmas: tuple[str, ...] = ()
    needs: str | None = None
    note: str = ""


_DPM = "DPMSolverMultistepScheduler"
_DPM_SIGMAS = (*KEB, "lu")
_LEADING: dict[str, Option] = {"timestep_spacing": "leading", "steps_offset": 1}
_LINSPACE: dict[str, Option] = {"timestep_spacing": "linspace"}
_UNCLIPPED: dict[str, Option] = {"clip_sample": False}  # diffusers takes a missing clip_sample for True, which ruins latents

# UNet calls, order and randomness were measured with diffusers 0.42.1; the tests measure the calls again.
TABLE: tuple[Scheduler, ...] = (
    Scheduler("pndm", "PNDMScheduler", ("plms",), _LEADING | {"skip_prk_steps": True, "set_alpha_to_one": False}, 4, "N+1"),
    Scheduler("ddim", "DDIMScheduler", (), _UNCLIPPED | _LEADING | {"set_alpha_to_one": False}, takes_eta=True),
    Scheduler("ddpm", "DDPMScheduler", (), _UNCLIPPED | _LEADING, stochastic=True),
    Scheduler("lms", "LMSDiscreteScheduler", ("k_lms",), _LINSPACE, 4, sigmas=KEB, needs="scipy"),
    Scheduler("euler", "EulerDiscreteScheduler", ("k_euler",), _LINSPACE, sigmas=KEB),
    Scheduler("euler-a", "EulerAncestralDiscreteScheduler", ("k_euler_a", "euler ancestral"), _LINSPACE, stochastic=True),
    Scheduler("heun", "HeunDiscreteScheduler", ("k_heun",), _LINSPACE, 2, "2N-1", sigmas=KEB),
    Scheduler("dpm2", "KDPM2DiscreteScheduler", ("k_dpm_2", "kdpm2"), _LINSPACE, 2, "2N-1", sigmas=KEB),
    Scheduler("dpm2-a", "KDPM2AncestralDiscreteScheduler", ("k_dpm_2_a", "kdpm2_a", "kdpm2 ancestral", "dpm2 ancestral"),
              _LINSPACE, 2, "2N-1", stochastic=True, sigmas=KEB),
    Scheduler("dpm", _DPM, ("dpm-solver",),
              _LINSPACE | {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 2, sigmas=_DPM_SIGMAS),
    Scheduler("dpm++2m", _DPM, ("dpm-solver++", "dpmsolver++ 2m", "k_dpmpp_2m", "dpm++", _DPM),
              _LINSPACE | {"algorithm_type": "dpmsolver++"}, 2, sigmas=_DPM_SIGMAS),
    Scheduler("dpm++2m-sde", _DPM, ("sde-dpm-solver++", "k_dpmpp_2m_sde", "dpmpp_sde_2m"),
              _LINSPACE | {"algorithm_type": "sde-dpmsolver++"}, 2, stochastic=True, sigmas=_DPM_SIGMAS),
    Scheduler("dpm++2m-sde-heun", _DPM, (), _LINSPACE | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
              2, stochastic=True, sigmas=_DPM_SIGMAS),
    Scheduler("dpm++3m-sde", _DPM, ("k_dpmpp_3m_sde",), _LINSPACE | {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
              3, stochastic=True, sigmas=_DPM_SIGMAS),
    Scheduler("dpm++2s", "DPMSolverSinglestepScheduler", ("dpm-solver++ singlestep", "dpmsolver singlestep", "dpmsingle"),
              {"algorithm_type": "dpmsolver++", "lower_order_final": True}, 2, sigmas=KEB),
    Scheduler("dpm++sde", "DPMSolverSDEScheduler", ("k_dpmpp_sde",), _LINSPACE, 2, "2N-1", stochastic=True, sigmas=KEB,
              needs="torchsde", note="Takes its noise from the image's seed by way of a Brownian tree."),
    Scheduler("unipc", "UniPCMultistepScheduler", ("uni_pc",), _LINSPACE | {"solver_type": "bh2"}, 2, sigmas=KEB),
    Scheduler("deis", "DEISMultistepScheduler", (), _LINSPACE, 2, sigmas=KEB),
    Scheduler("sa-solver", "SASolverScheduler", ("sa_solver",), _LINSPACE | {"algorithm_type": "data_prediction"}, 2,
              stochastic=True, sigmas=KEB),
    Scheduler("lcm", "LCMScheduler", (), _UNCLIPPED | _LEADING, stochastic=True, note="For models distilled for it."),
    Scheduler("tcd", "TCDScheduler", (), _UNCLIPPED | _LEADING, stochastic=True, takes_eta=True,
              note="For models distilled for it; eta is 0.3 unless you set it."),
)  # fmt: skip

REFUSED = {
    "dpmfast": "diffusers has no such scheduler; `dpm++2m` is the nearest",
    "dpmadaptive": "diffusers has no adaptive steps; `dpm++2m` is the nearest",
    "restart": "diffusers has no such scheduler; `heun` is the nearest",
    "dpmpp2sa": "diffusers has no ancestral form; `dpm++2s` is the nearest",
    "edmeuler": "its noise levels (up to 80) are not those of Stable Diffusion; use `euler-karras`",
    "ipndm": "it cannot add noise to a Stable Diffusion latent; use `pndm`",
}


@dataclass(frozen=True)
class Resolved:
    """A scheduler and every option that it will be built with; `name` is its canonical spelling."""

    scheduler: Scheduler
    name: str
    options: Mapping[str, Option]
    told: tuple[str, ...] = ()

    def unet_calls(self, steps: int) -> int:
        return {"N": steps, "N+1": steps + 1 if steps > 1 else steps, "2N-1": 2 * steps - 1}[self.scheduler.calls]

    @property
    def stochastic(self) -> bool:
        return self.scheduler.stochastic


def _key(name: str) -> str:
    """The spelling that is compared: no case, space, dot, `-`, `_`, `k_` in front or `Scheduler` behind; `++` is `pp`."""
    key = "".join(letter for letter in name.lower().replace("++", "pp") if letter not in " -_.")
    return key.removesuffix("scheduler").removesuffix("discrete") or key


@cache
def _by_key() -> dict[str, Scheduler]:
    found: dict[str, Scheduler] = {}
    for scheduler in TABLE:
        for spelling in (scheduler.name, *scheduler.aliases, scheduler.class_name):
            found.setdefault(_key(spelling), scheduler)
    found[_key(_DPM)] = found[_key("dpm++2m")]
    return found


def resolve(name: str, options: Mapping[str, Option] | None = None) -> Resolved:
    """Find a scheduler by any of its names, such as "DPM++ 2M Karras", `dpmpp_2m_k` or `k_lms`, and check its options.

    Raises ConfigError for a name that no dialect knows, a variant that the class has not, an option that it does not
    take, and the combinations that are known to end in wrong pictures.
    """
    scheduler, suffix = _match(name)
    given = dict(options or {})
    chosen: dict[str, Option] = dict(scheduler.options)
    canonical = scheduler.name
    if suffix in SIGMA_SUFFIXES:
        sigmas = SIGMA_SUFFIXES[suffix]
        if sigmas not in scheduler.sigmas:
            allowed = ", ".join(scheduler.sigmas) or "none"
            raise ConfigError(f"{scheduler.class_name} has no {sigmas} sigmas; what it has: {allowed}")
        chosen[SIGMAS[sigmas]] = True
        canonical += f"-{sigmas}"
    elif spacing := SPACING_SUFFIXES.get(suffix):
        chosen["timestep_spacing"] = spacing
        canonical += f"-{spacing}"
    _check_options(scheduler, chosen, given)
    told = _check_traps(scheduler, chosen, given)
    return Resolved(scheduler, canonical, chosen | given, told)


def _match(name: str) -> tuple[Scheduler, str]:
    key, table = _key(name), _by_key()
    for suffix in ("", *sorted(SIGMA_SUFFIXES | SPACING_SUFFIXES, key=len, reverse=True)):
        base = key.removesuffix(suffix) if suffix and key.endswith(suffix) else key
        if suffix and base == key:
            continue
        for candidate in (base, base.removeprefix("k")):
            if candidate in REFUSED:
                raise ConfigError(f"no scheduler {name!r}: {REFUSED[candidate]}")
            if candidate in table:
                return table[candidate], suffix
    spellings = [spelling for row in TABLE for spelling in (row.name, *(f"{row.name}-{sigmas}" for sigmas in row.sigmas))]
    raise ConfigError(f"no scheduler {name!r}{_mean(name.lower(), spellings)}; `sdapp schedulers` lists them")


def _check_options(scheduler: Scheduler, chosen: Mapping[str, Option], given: Mapping[str, Option]) -> None:
    known = constructor_options(scheduler.class_name)
    for option, value in {**chosen, **given}.items():
        if option not in known:
            raise ConfigError(f"{scheduler.class_name} takes no option {option!r}{_mean(option, known)}; "
                              f"it takes: {', '.join(known)}")  # fmt: skip
        try:
            default = ast.literal_eval(known[option])
        except ValueError:  # an expression, such as -float("inf")
            default = None
        if default is not None and not isinstance(value, (int, float) if type(default) in (int, float) else type(default)):
            raise ConfigError(
                f"{option} of {scheduler.class_name} is {type(default).__name__}, such as {default!r}, not {value!r}"
            )
        if option in SIGMAS.values() and chosen.get(option) and not value:
            raise ConfigError(f"the name asks for {option}, the options switch it off; choose one")


def _mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _check_traps(scheduler: Scheduler, chosen: dict[str, Option], given: dict[str, Option]) -> tuple[str, ...]:
    """Refuse what is known to paint wrong pictures with diffusers 0.42; mend what can be mended, with a word about it."""
    asked = chosen | given
    sigmas = [flag for flag in SIGMAS.values() if asked.get(flag)]
    if len(sigmas) > 1:
        raise ConfigError(f"only one kind of sigmas at a time: {' and '.join(sigmas)} are both on")
    if scheduler.name == "ddim" and asked.get("timestep_spacing") == "linspace":
        raise ConfigError("DDIM with timestep_spacing linspace takes wrong steps in diffusers 0.42 (issue 12633); "
                          "allowed: leading, trailing")  # fmt: skip
    if scheduler.name == "unipc" and asked.get("solver_type") == "bh1":
        if given.get("final_sigmas_type") == "zero":
            raise ConfigError("UniPC bh1 with final_sigmas_type zero ends in NaN; use sigma_min, or solver_type bh2")
        if "final_sigmas_type" not in given:
            chosen["final_sigmas_type"] = "sigma_min"
            return ("UniPC bh1 ends in NaN at a last sigma of zero: final_sigmas_type is sigma_min instead",)
    return ()


def check_run(resolved: Resolved, steps: int, eta: float | None) -> None:
    """Refuse step counts and eta that this scheduler cannot honour. Raises ConfigError."""
    if eta is not None and not resolved.scheduler.takes_eta:
        takers = ", ".join(row.name for row in TABLE if row.takes_eta)
        raise ConfigError(f"eta: {resolved.name} has no eta; the schedulers that have it: {takers}")
    if steps >= 999 and resolved.scheduler.class_name == _DPM and resolved.options.get("timestep_spacing") == "leading":
        raise ConfigError(f"steps: {resolved.name} with leading timesteps ends in NaN at {steps} steps; at most 998")


@cache
def constructor_options(class_name: str) -> dict[str, str]:
    """What the class takes and its defaults as source text, read from diffusers' source: importing it costs seconds."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError("diffusers is not installed; mend it with: pip install diffusers")
    for path in sorted((Path(spec.submodule_search_locations[0]) / "schedulers").glob("scheduling_*.py")):
        source = path.read_text(encoding="utf-8")
        if f"class {class_name}(" in source:
            return _init_arguments(ast.parse(source), class_name)
    raise UnavailableError(f"this diffusers has no {class_name}; mend it with: pip install --upgrade diffusers")


def _init_arguments(tree: ast.Module, class_name: str) -> dict[str, str]:
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    init = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    names = [argument.arg for argument in init.args.args[1:]]
    return dict(zip(names, map(ast.unparse, init.args.defaults), strict=True))


# What a scheduler takes over from the model; everything else is said explicitly.
MODEL_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def build(resolved: Resolved, model_config: Mapping[str, Any], seeds: Sequence[int]) -> Any:
    """A fresh diffusers scheduler for one call: the model's noise schedule and prediction type, and our options.

    `model_config` is the content of the model's scheduler_config.json. `seeds` has one seed an image; only DPM++ SDE
    needs them here. Built from the constructor, never by `from_config`, which carries options over and drops unknown ones.
    Raises ConfigError for a value that the class refuses, UnavailableError for a missing package.
    """
    import diffusers

    cls = getattr(diffusers, resolved.scheduler.class_name)
    known = inspect.signature(cls).parameters
    options = {key: model_config[key] for key in MODEL_KEYS if key in model_config and key in known} | dict(resolved.options)
    if "noise_sampler_seed" in known:
        options["noise_sampler_seed"] = list(seeds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deprecation of algorithm_type dpmsolver, which was asked for by name
            return cls(**options)
    except ImportError as exc:
        package = resolved.scheduler.needs or "scipy"
        raise UnavailableError(f"{resolved.name} needs {package}; mend it with: pip install {package}") from exc
    except (ValueError, NotImplementedError, TypeError) as exc:
        raise ConfigError(f"{resolved.name}: {exc}") from exc
