"""Find a scheduler by any of its names, check its options, and build it for a model."""

import ast
import importlib.util
import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any

from sdapp import scheduler_table as table
from sdapp.errors import ConfigError, UnavailableError, nearest
from sdapp.scheduler_table import SIGMAS, TABLE, TIMESTEPS, Option, Scheduler

# Constructor arguments that the model decides; sdapp sets all others itself.
FROM_MODEL = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
)  # fmt: skip


@dataclass(frozen=True)
class Resolved:
    """A scheduler with its sdapp name, such as `dpm++2m-karras`, and all options that it will be built with.

    `notes` says which options had to be changed.
    """

    scheduler: Scheduler
    name: str
    options: Mapping[str, Option]
    notes: tuple[str, ...] = ()

    def unet_calls(self, steps: int) -> int:
        """Return how often one image calls the UNet."""
        calls = {"N": steps, "N+1": steps + 1 if steps > 1 else steps, "2N-1": 2 * steps - 1}
        return calls[self.scheduler.calls]

    @property
    def stochastic(self) -> bool:
        """Whether it adds new noise in its steps."""
        return self.scheduler.stochastic


def resolve(name: str, options: Mapping[str, Option] | None = None) -> Resolved:
    """Find a scheduler by any of its names and check its options.

    Names are those of diffusers, A1111, ComfyUI and InvokeAI: "DPM++ 2M Karras", `dpmpp_2m_k`, `k_lms`.
    Raises ConfigError for an unknown name, for sigmas or options that the class does not support, and for
    combinations that are known to end in wrong images.
    """
    return _resolve(name, tuple((option, type(value), value) for option, value in (options or {}).items()))


@lru_cache(maxsize=256)  # each line of a prompt file asks again; the types tell True from 1
def _resolve(name: str, options: tuple[tuple[str, type, Option], ...]) -> Resolved:
    scheduler, suffix = _find_row(name)
    given = {option: value for option, _, value in options}
    sigmas, spacing = table.SIGMA_SUFFIXES.get(suffix), table.SPACING_SUFFIXES.get(suffix)
    if sigmas and sigmas not in scheduler.sigmas:
        supported = ", ".join(scheduler.sigmas) or "none"
        raise ConfigError(f"{scheduler.class_name} has no {sigmas} sigmas; supported: {supported}")
    chosen = dict(scheduler.options) | ({SIGMAS[sigmas]: True} if sigmas else {})
    chosen |= {"timestep_spacing": spacing} if spacing else {}
    canonical = "-".join(filter(None, (scheduler.name, sigmas, spacing)))
    for option, value in (chosen | given).items():
        _check_option(scheduler.class_name, option, value)
        if option in SIGMAS.values() and chosen.get(option) and not value:
            raise ConfigError(f"the name asks for {option}, but the options turn it off; choose one")
    _check_combination(scheduler.name, chosen | given)
    notes = []
    if scheduler.name == "unipc" and given.get("solver_type") == "bh1" and "final_sigmas_type" not in given:
        chosen["final_sigmas_type"] = "sigma_min"
        notes = ["UniPC bh1 ends in NaN if the last sigma is zero, so final_sigmas_type is set to sigma_min"]
    return Resolved(scheduler, canonical, chosen | given, tuple(notes))


def _find_row(name: str) -> tuple[Scheduler, str]:
    """Return the row of a name and its suffix for sigmas or spacing, "" for none. Raises ConfigError."""
    key, rows = _spelling_key(name), _rows_by_key()
    for suffix in ("", *sorted(table.SIGMA_SUFFIXES | table.SPACING_SUFFIXES, key=len, reverse=True)):
        if not key.endswith(suffix):
            continue
        base = key.removesuffix(suffix)
        for candidate in (base, base.removeprefix("k")):
            if candidate in table.REFUSED_NAMES:
                raise ConfigError(f"no scheduler {name!r}: {table.REFUSED_NAMES[candidate]}")
            if candidate in rows:
                return rows[candidate], suffix
    names = [row.name for row in TABLE] + [f"{row.name}-{sigmas}" for row in TABLE for sigmas in row.sigmas]
    hint = _did_you_mean(name.lower(), names)
    raise ConfigError(f"no scheduler {name!r}{hint}; `sdapp schedulers` lists them")


def _spelling_key(name: str) -> str:
    """Return a name in lower case without spaces, signs and the ending `Scheduler`; `++` becomes `pp`."""
    key = "".join(letter for letter in name.lower().replace("++", "pp") if letter not in " -_.()")
    return key.removesuffix("scheduler").removesuffix("discrete") or key


@cache
def _rows_by_key() -> dict[str, Scheduler]:
    """Return the rows by spelling key. A class name that several rows share means its default algorithm."""
    names = {name: row for row in TABLE for name in (row.class_name, row.name, *row.aliases)}
    names["DPMSolverMultistepScheduler"] = names["dpm++2m"]
    return {_spelling_key(name): row for name, row in names.items()}


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f", did you mean {near[0]!r}?" if near else ""


def _check_option(class_name: str, option: str, value: Option) -> None:
    known = constructor_options(class_name)
    if option not in known:
        hint = f"{_did_you_mean(option, known)}; it takes: {', '.join(known)}"
        raise ConfigError(f"{class_name} takes no option {option!r}{hint}")
    if option in table.REFUSED_OPTIONS:
        raise ConfigError(f"{option} of {class_name} cannot be set: {table.REFUSED_OPTIONS[option]}")
    allowed = table.ALLOWED_VALUES.get(option)
    if allowed and value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ConfigError(f"{option} of {class_name} is one of {choices}, not {value!r}")
    try:
        default = ast.literal_eval(known[option])
    except ValueError:  # an expression, such as -float("inf")
        return
    kinds = (int, float) if type(default) is float else (type(default),)
    if default is not None and type(value) not in kinds:
        kind = kinds[-1].__name__
        raise ConfigError(f"{option} of {class_name} is {kind}, such as {default!r}, not {value!r}")


def _check_combination(name: str, options: Mapping[str, Option]) -> None:
    """Raise ConfigError for options that together paint wrong images with diffusers 0.42."""
    sigmas = [option for option in SIGMAS.values() if options.get(option)]
    if len(sigmas) > 1:
        raise ConfigError(f"only one kind of sigmas at a time; {' and '.join(sigmas)} are both on")
    if name == "ddim" and options.get("timestep_spacing") == "linspace":
        problem = "DDIM with timestep_spacing linspace takes wrong steps in diffusers 0.42 (its issue 12633)"
        raise ConfigError(f"{problem}; allowed: leading, trailing")
    if name == "unipc" and options.get("solver_type") == "bh1" and options.get("final_sigmas_type") == "zero":
        raise ConfigError(
            "UniPC bh1 with final_sigmas_type zero ends in NaN; use sigma_min or solver_type bh2"
        )


def check_run(resolved: Resolved, steps: int, eta: float | None) -> None:
    """Refuse numbers of steps and values of eta that this scheduler does not support. Raises ConfigError."""
    name, needs = resolved.name, resolved.scheduler.needs
    if needs and importlib.util.find_spec(needs) is None:
        raise ConfigError(f"scheduler: {name} needs {needs}; fix: pip install {needs}")
    if eta is not None and resolved.scheduler.default_eta is None:
        others = ", ".join(row.name for row in TABLE if row.default_eta is not None)
        raise ConfigError(f"eta: {name} has no eta; the schedulers that have it: {others}")
    most = int(str(resolved.options.get("original_inference_steps", 50)))
    if resolved.scheduler.name in ("lcm", "tcd") and steps > most:
        limit = f"at most {most} (its option original_inference_steps)"
        raise ConfigError(f"steps: {name} has {limit}, not {steps}")
    if resolved.options.get("timestep_spacing") == "leading":
        _check_leading(resolved, steps)


def _check_leading(resolved: Resolved, steps: int) -> None:
    """Refuse numbers of steps with which leading timesteps end in NaN or do not begin at pure noise."""
    name = resolved.name
    if steps >= 999 and resolved.scheduler.class_name == "DPMSolverMultistepScheduler":
        raise ConfigError(f"steps: {name} with leading timesteps ends in NaN at {steps} steps; at most 998")
    offset = int(str(resolved.options.get("steps_offset", 0)))

    def first_timestep(count: int) -> int:
        return (count - 1) * (TIMESTEPS // count) + offset

    def is_good(count: int) -> bool:
        return count <= 10 or 0.88 * TIMESTEPS <= first_timestep(count) < TIMESTEPS

    if not is_good(steps):
        problem = f"{name} would take pure noise for a half-finished image"
        begin = f"it begins at timestep {first_timestep(steps)} of {TIMESTEPS}"
        fewer = next(filter(is_good, range(steps, 0, -1)))
        more = next(filter(is_good, range(steps, TIMESTEPS)), None)
        advice = f"use {fewer} or {more}" if more else f"use {fewer}"
        raise ConfigError(f"steps: with {steps} steps {problem}: {begin}; {advice}")


@cache
def constructor_options(class_name: str) -> dict[str, str]:
    """Return the constructor arguments of a diffusers class, with their defaults as source text.

    Read from the source of diffusers, because importing it takes seconds. Raises UnavailableError.
    """
    spec = importlib.util.find_spec("diffusers")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError("diffusers is not installed; fix: pip install diffusers")
    for path in sorted((Path(spec.submodule_search_locations[0]) / "schedulers").glob("scheduling_*.py")):
        source = path.read_text(encoding="utf-8")
        if f"class {class_name}(" in source:
            classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
            body = next(node.body for node in classes if node.name == class_name)
            functions = (node for node in body if isinstance(node, ast.FunctionDef))
            init = next(node.args for node in functions if node.name == "__init__")
            names = [argument.arg for argument in init.args[1:]]
            return dict(zip(names, map(ast.unparse, init.defaults), strict=True))
    raise UnavailableError(f"diffusers has no {class_name} here; fix: pip install --upgrade diffusers")


def build_scheduler(resolved: Resolved, model_config: Mapping[str, Any], seeds: Sequence[int]) -> Any:
    """Build a fresh diffusers scheduler for one call, from the model's noise schedule and our options.

    `model_config` is the content of the model's scheduler_config.json; `seeds`, one for each image, are for
    DPM++ SDE. Not with `from_config`, which keeps other options of the model. Raises ConfigError for a value
    that the class refuses, UnavailableError for a missing package.
    """
    import diffusers

    cls = getattr(diffusers, resolved.scheduler.class_name)
    known = inspect.signature(cls).parameters
    options = {key: model_config[key] for key in FROM_MODEL if key in model_config and key in known}
    options |= resolved.options
    if model_config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        problem = f"this model has zero terminal SNR, which {resolved.name} does not support"
        fix = "use ddim, euler or dpm++2m with timestep_spacing trailing"
        raise ConfigError(f"scheduler: {problem}; {fix}")
    if "noise_sampler_seed" in known:
        options["noise_sampler_seed"] = list(seeds)
    try:
        with warnings.catch_warnings():
            # algorithm_type dpmsolver is deprecated, but the user asked for it by name.
            warnings.simplefilter("ignore")
            return _set_our_way(cls(**options))
    except ImportError as exc:
        package = resolved.scheduler.needs or "scipy"
        raise UnavailableError(f"{resolved.name} needs {package}; fix: pip install {package}") from exc
    except (ValueError, NotImplementedError, TypeError) as exc:
        raise ConfigError(f"{resolved.name}: {exc}") from exc


def _set_our_way(scheduler: Any) -> Any:
    """Make every run begin at its first sigma, and keep the timesteps on the CPU, where reading them is fast.

    diffusers finds the first sigma by the first timestep. With beta sigmas and about 30 steps or more, the
    first two timesteps are rounded to the same number, so it starts at the second and runs past the last.
    """
    original = scheduler.set_timesteps

    @wraps(original)  # the pipelines look at its signature
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        kwargs.pop("device", None)
        original(*args, **kwargs)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # img2img and inpaint set theirs afterwards

    scheduler.set_timesteps = set_timesteps
    if hasattr(scheduler, "noise_sampler"):
        _draw_on_cpu(scheduler)
    return scheduler


def _draw_on_cpu(scheduler: Any) -> None:
    """Make DPM++ SDE draw its noise in float32 on the CPU: the same noise for every device and dtype."""
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
    from torch import empty

    original = scheduler.step

    @wraps(original)
    def step(model_output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
        if scheduler.noise_sampler is None:
            least, most = scheduler.sigmas[scheduler.sigmas > 0].min().item(), scheduler.sigmas.max().item()
            tree = BrownianTreeNoiseSampler(empty(sample.shape), least, most, scheduler.noise_sampler_seed)
            place = {"device": sample.device, "dtype": sample.dtype}
            scheduler.noise_sampler = lambda *sigmas: tree(*sigmas).to(**place)
        return original(model_output, timestep, sample, **kwargs)

    scheduler.step = step
