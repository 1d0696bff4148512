"""Find a scheduler by any of its names, check its options, and build it for a model."""

import ast
import importlib.util
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError, UnavailableError
from sdapp.scheduler_table import (
    NOT_HERE,
    REFUSED,
    SIGMA_SUFFIXES,
    SIGMAS,
    SPACING_SUFFIXES,
    TABLE,
    TIMESTEPS,
    VALUES,
    Option,
    Scheduler,
)


@dataclass(frozen=True)
class Resolved:
    """A scheduler and every option that it will be built with; `name` is its canonical spelling."""

    scheduler: Scheduler
    name: str
    options: Mapping[str, Option]
    told: tuple[str, ...] = ()

    def unet_calls(self, steps: int) -> int:
        return {"N": steps, "N+1": steps + 1 if steps > 1 else steps, "2N-1": 2 * steps - 1}[
            self.scheduler.calls
        ]

    @property
    def stochastic(self) -> bool:
        return self.scheduler.stochastic


def _spelling_key(name: str) -> str:
    """The spelling that is compared: no case, space, dot, `-`, `_`, `k_` in front or `Scheduler` behind; `++` is `pp`."""
    key = "".join(letter for letter in name.lower().replace("++", "pp") if letter not in " -_.()")
    return key.removesuffix("scheduler").removesuffix("discrete") or key


@cache
def _by_key() -> dict[str, Scheduler]:
    found: dict[str, Scheduler] = {}
    for scheduler in TABLE:
        for spelling in (scheduler.name, *scheduler.aliases, scheduler.class_name):
            found.setdefault(_spelling_key(spelling), scheduler)
    found[_spelling_key("DPMSolverMultistepScheduler")] = found[
        _spelling_key("dpm++2m")
    ]  # three rows have this class
    return found


def resolve(name: str, options: Mapping[str, Option] | None = None) -> Resolved:
    """Find a scheduler by any of its names, such as "DPM++ 2M Karras", `dpmpp_2m_k` or `k_lms`, and check its options.

    Raises ConfigError for a name that no dialect knows, a variant that the class has not, an option that it does not
    take, and the combinations that are known to end in wrong images.
    """
    return _resolve(name, tuple((option, type(value), value) for option, value in (options or {}).items()))


@lru_cache(maxsize=256)  # a prompt file asks again for each of its lines
def _resolve(name: str, options: tuple[tuple[str, type, Option], ...]) -> Resolved:
    scheduler, suffix = _match(name)
    given = {option: value for option, _, value in options}
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
    key, table = _spelling_key(name), _by_key()
    for suffix in ("", *sorted(SIGMA_SUFFIXES | SPACING_SUFFIXES, key=len, reverse=True)):
        base = key.removesuffix(suffix) if suffix and key.endswith(suffix) else key
        if suffix and base == key:
            continue
        for candidate in (base, base.removeprefix("k")):
            if candidate in REFUSED:
                raise ConfigError(f"no scheduler {name!r}: {REFUSED[candidate]}")
            if candidate in table:
                return table[candidate], suffix
    spellings = [
        spelling
        for row in TABLE
        for spelling in (row.name, *(f"{row.name}-{sigmas}" for sigmas in row.sigmas))
    ]
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
        if option in NOT_HERE:
            raise ConfigError(f"{option} of {scheduler.class_name} is not for you to set: {NOT_HERE[option]}")
        allowed = VALUES.get(option)
        if allowed and value not in allowed:
            raise ConfigError(
                f"{option} of {scheduler.class_name} is one of {', '.join(map(repr, allowed))}, not {value!r}"
            )
        if default is not None and type(value) not in (
            (int, float) if type(default) is float else (type(default),)
        ):
            raise ConfigError(
                f"{option} of {scheduler.class_name} is {type(default).__name__}, such as {default!r}, not {value!r}"
            )
        if option in SIGMAS.values() and chosen.get(option) and not value:
            raise ConfigError(f"the name asks for {option}, the options switch it off; choose one")


def _mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _check_traps(
    scheduler: Scheduler, chosen: dict[str, Option], given: dict[str, Option]
) -> tuple[str, ...]:
    """Refuse what is known to paint wrong images with diffusers 0.42; mend what can be mended, with a word about it."""
    asked = chosen | given
    sigmas = [flag for flag in SIGMAS.values() if asked.get(flag)]
    if len(sigmas) > 1:
        raise ConfigError(f"only one kind of sigmas at a time: {' and '.join(sigmas)} are both on")
    if scheduler.name == "ddim" and asked.get("timestep_spacing") == "linspace":
        raise ConfigError("DDIM with timestep_spacing linspace takes wrong steps in diffusers 0.42 (issue 12633); "
                          "allowed: leading, trailing")  # fmt: skip
    if scheduler.name == "unipc" and asked.get("solver_type") == "bh1":
        if given.get("final_sigmas_type") == "zero":
            raise ConfigError(
                "UniPC bh1 with final_sigmas_type zero ends in NaN; use sigma_min, or solver_type bh2"
            )
        if "final_sigmas_type" not in given:
            chosen["final_sigmas_type"] = "sigma_min"
            return ("UniPC bh1 ends in NaN at a last sigma of zero: final_sigmas_type is sigma_min instead",)
    return ()


def check_run(resolved: Resolved, steps: int, eta: float | None) -> None:
    """Refuse step counts and eta that this scheduler cannot honour. Raises ConfigError."""
    needs = resolved.scheduler.needs
    if needs and importlib.util.find_spec(needs) is None:
        raise ConfigError(f"scheduler: {resolved.name} needs {needs}; mend it with: pip install {needs}")
    if eta is not None and not resolved.scheduler.takes_eta:
        takers = ", ".join(row.name for row in TABLE if row.takes_eta)
        raise ConfigError(f"eta: {resolved.name} has no eta; the schedulers that have it: {takers}")
    if resolved.scheduler.name in ("lcm", "tcd"):
        most = int(str(resolved.options.get("original_inference_steps", 50)))
        if steps > most:
            raise ConfigError(
                f"steps: {resolved.name} has at most {most} (its option original_inference_steps), not {steps}"
            )
    leading = resolved.options.get("timestep_spacing") == "leading"
    if leading and steps >= 999 and resolved.scheduler.class_name == "DPMSolverMultistepScheduler":
        raise ConfigError(
            f"steps: {resolved.name} with leading timesteps ends in NaN at {steps} steps; at most 998"
        )
    if leading and steps > 10 and not _starts_in_noise(resolved, steps):
        near = [n for n in (*range(steps, 10, -1), *range(steps, 1000)) if _starts_in_noise(resolved, n)]
        good = sorted({next((n for n in near if n < steps), 10), next((n for n in near if n > steps), 10)})
        raise ConfigError(
            f"steps: with {steps} steps {resolved.name} would take pure noise for a half-finished image: it begins at "
            f"timestep {_first_timestep(resolved, steps)} of {TIMESTEPS}; the nearest good ones are {good[0]} and {good[-1]}"
        )


def _first_timestep(resolved: Resolved, steps: int) -> int:
    """Where leading timesteps begin: (N - 1) · ⌊1000 / N⌋ + steps_offset."""
    return (steps - 1) * (TIMESTEPS // steps) + int(str(resolved.options.get("steps_offset", 0)))


def _starts_in_noise(resolved: Resolved, steps: int) -> bool:
    return 0.88 * TIMESTEPS <= _first_timestep(resolved, steps) < TIMESTEPS


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
    raise UnavailableError(
        f"this diffusers has no {class_name}; mend it with: pip install --upgrade diffusers"
    )


def _init_arguments(tree: ast.Module, class_name: str) -> dict[str, str]:
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    init = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    names = [argument.arg for argument in init.args.args[1:]]
    return dict(zip(names, map(ast.unparse, init.args.defaults), strict=True))


# What a scheduler takes over from the model; everything else is said explicitly.
FROM_MODEL = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def build_scheduler(resolved: Resolved, model_config: Mapping[str, Any], seeds: Sequence[int]) -> Any:
    """A fresh diffusers scheduler for one call: the model's noise schedule and prediction type, and our options.

    `model_config` is the content of the model's scheduler_config.json. `seeds` has one seed an image; only DPM++ SDE
    needs them here. Built from the constructor, never by `from_config`, which carries options over and drops unknown ones.
    Raises ConfigError for a value that the class refuses, UnavailableError for a missing package.
    """
    import diffusers

    cls = getattr(diffusers, resolved.scheduler.class_name)
    known = inspect.signature(cls).parameters
    options = {key: model_config[key] for key in FROM_MODEL if key in model_config and key in known} | dict(
        resolved.options
    )
    if model_config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        raise ConfigError(f"scheduler: this model has zero terminal SNR, which {resolved.name} cannot follow; use "
                          "ddim, euler or dpm++2m with timestep_spacing trailing")  # fmt: skip
    if "noise_sampler_seed" in known:
        options["noise_sampler_seed"] = list(seeds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the deprecation of algorithm_type dpmsolver, which was asked for by name
            return _set_our_way(cls(**options))
    except ImportError as exc:
        package = resolved.scheduler.needs or "scipy"
        raise UnavailableError(
            f"{resolved.name} needs {package}; mend it with: pip install {package}"
        ) from exc
    except (ValueError, NotImplementedError, TypeError) as exc:
        raise ConfigError(f"{resolved.name}: {exc}") from exc


def _set_our_way(scheduler: Any) -> Any:
    """Let every run begin at its first sigma, and keep the timesteps on the CPU.

    diffusers looks up where a run begins by its first timestep. Whole timesteps of beta sigmas begin with the same one twice
    from about 30 steps on; it then takes the second, skips a sigma, and runs off the end of the list at the last step.
    And it reads the timestep several times a step, each of which would have a GPU waited for.
    """
    set_plainly = scheduler.set_timesteps

    @wraps(set_plainly)  # the pipelines look at its signature
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        kwargs.pop("device", None)
        set_plainly(*args, **kwargs)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # img2img and inpaint set theirs afterwards

    scheduler.set_timesteps = set_timesteps
    if hasattr(scheduler, "noise_sampler"):
        _draw_on_the_cpu(scheduler)
    return scheduler


def _draw_on_the_cpu(scheduler: Any) -> None:
    """Let DPM++ SDE draw its noise in float32 on the CPU, so that it is the same for every device and dtype."""
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
    from torch import empty

    step_plainly = scheduler.step

    @wraps(step_plainly)
    def step(model_output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
        if scheduler.noise_sampler is None:
            least, most = scheduler.sigmas[scheduler.sigmas > 0].min().item(), scheduler.sigmas.max().item()
            tree = BrownianTreeNoiseSampler(empty(sample.shape), least, most, scheduler.noise_sampler_seed)
            place = {"device": sample.device, "dtype": sample.dtype}
            scheduler.noise_sampler = lambda *sigmas: tree(*sigmas).to(**place)
        return step_plainly(model_output, timestep, sample, **kwargs)

    scheduler.step = step
