"""Find a scheduler by any of its names, and check its options, without importing diffusers."""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sdapp import scheduler_table as table
from sdapp.errors import ConfigError, UnavailableError, did_you_mean
from sdapp.scheduler_table import SIGMAS, TABLE, TIMESTEPS, Option, Scheduler

# Constructor arguments that the model decides; sdapp sets all others itself.
FROM_MODEL = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
)  # fmt: skip
AT_NOISE = 0.88 * TIMESTEPS  # a run that begins at this timestep or later may begin with pure noise


@dataclass(frozen=True)
class Resolved:
    """A scheduler with its sdapp name, such as `dpm++2m-karras`, and all options that it will be built with.

    `notes` says which options had to be changed.
    """

    scheduler: Scheduler
    name: str
    options: Mapping[str, Option]
    notes: tuple[str, ...] = ()

    def counted_calls(self, steps: int) -> int:
        """Return how many calls A1111 counts, whose shares say when a prompt changes: two for each step of
        second order, though the last one has a single call; one for each other step.
        """
        return 2 * steps if self.scheduler.calls == "2N-1" else steps

    def unet_calls(self, steps: int) -> int:
        """Return how often one image calls the UNet."""
        calls = {"N": steps, "N+1": steps + 1 if steps > 1 else steps, "2N-1": 2 * steps - 1}
        return calls[self.scheduler.calls]

    @property
    def stochastic(self) -> bool:
        """Whether it adds new noise in its steps."""
        return self.scheduler.stochastic or str(self.options.get("algorithm_type")).startswith("sde")


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
    notes = []
    if scheduler.name == "unipc" and given.get("solver_type") == "bh1" and "final_sigmas_type" not in given:
        chosen["final_sigmas_type"] = "sigma_min"
        notes = ["UniPC bh1 ends in NaN if the last sigma is zero, so final_sigmas_type is set to sigma_min"]
    _check_combination(scheduler.class_name, chosen | given)
    return Resolved(scheduler, canonical, chosen | given, tuple(notes))


@lru_cache(maxsize=256)
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
    hint = did_you_mean(name.lower(), names, ";")
    raise ConfigError(f"no scheduler {name!r}{hint} `sdapp schedulers` lists all")


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


def _check_option(class_name: str, option: str, value: Option) -> None:
    known = constructor_options(class_name)
    if option not in known:
        hint = did_you_mean(option, known, f"; it takes: {', '.join(known)}")
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


def _check_combination(class_name: str, options: Mapping[str, Option]) -> None:
    """Raise ConfigError for options that together end in NaN with diffusers 0.42."""
    sigmas = _sigma_options(options)
    is_dpm = class_name.startswith("DPMSolver") and class_name != "DPMSolverSDEScheduler"
    ends = options.get("final_sigmas_type", "zero")
    needs_fall = options.get("solver_order") == 3 or options.get("solver_type") == "heun"
    problems = {
        f"only one kind of sigmas at a time; {' and '.join(sigmas)} are both on": len(sigmas) > 1,
        "UniPC bh1 with final_sigmas_type zero ends in NaN; use sigma_min or solver_type bh2": (
            class_name.startswith("UniPC") and options.get("solver_type") == "bh1" and ends == "zero"
        ),
        "UniPC with final_sigmas_type zero ends in NaN without lower_order_final; use sigma_min": (
            class_name.startswith("UniPC") and options.get("lower_order_final") is False and ends == "zero"
        ),
        "UniPC with final_sigmas_type zero ends in NaN without predict_x0; use sigma_min": (
            class_name.startswith("UniPC") and options.get("predict_x0") is False and ends == "zero"
        ),
        "solver_order 3 or solver_type heun with final_sigmas_type sigma_min ends in NaN if the sigmas are "
        f"set by {' '.join(sigmas)}; leave out one of them": (
            is_dpm and needs_fall and ends == "sigma_min" and bool(sigmas)
        ),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ConfigError(problem)


def check_run(resolved: Resolved, steps: int, eta: float | None) -> None:
    """Refuse numbers of steps and values of eta that this scheduler does not support. Raises ConfigError."""
    name, needs = resolved.name, resolved.scheduler.needs
    if needs and importlib.util.find_spec(needs) is None:
        raise ConfigError(f"scheduler: {name} needs {needs}; fix: pip install {needs}")
    options = resolved.options
    if options.get("algorithm_type") == "dpmsolver" and options.get("final_sigmas_type", "zero") == "zero":
        problem = "algorithm_type dpmsolver with final_sigmas_type zero ends in NaN"
        raise ConfigError(f"scheduler: {problem}; use sigma_min, or algorithm_type dpmsolver++")
    if eta is not None and resolved.scheduler.default_eta is None:
        others = ", ".join(row.name for row in TABLE if row.default_eta is not None)
        raise ConfigError(f"eta: {name} has no eta; the schedulers that have it: {others}")
    most = int(str(options.get("original_inference_steps", 50)))
    if resolved.scheduler.name in ("lcm", "tcd") and steps > most:
        limit = f"at most {most} (its option original_inference_steps)"
        raise ConfigError(f"steps: {name} has {limit}, not {steps}")
    _check_timesteps(resolved, steps)


def check_noise_schedule(resolved: Resolved, own: Mapping[str, Any]) -> None:
    """Refuse a scheduler that cannot run with zero terminal SNR. Raises ConfigError.

    `own` is the model's scheduler_config.json.
    """
    schedule = {**own, **resolved.options}
    if not schedule.get("rescale_betas_zero_snr"):
        return
    if "rescale_betas_zero_snr" not in constructor_options(resolved.scheduler.class_name):
        problem = f"this model has zero terminal SNR, which {resolved.name} does not support"
        raise ConfigError(f"scheduler: {problem}; use ddim, euler, euler-a, dpm++2m or unipc")
    is_last = resolved.options.get("timestep_spacing", "leading") != "leading"
    is_noise = schedule.get("prediction_type", "epsilon") == "epsilon"
    if is_noise and is_last and resolved.scheduler.class_name in table.DIVIDE_BY_SIGNAL:
        problem = f"{resolved.name} ends in NaN with zero terminal SNR if the model predicts noise"
        raise ConfigError(f"scheduler: {problem}; it needs prediction_type: v_prediction, or zero_snr: off")


def _check_timesteps(resolved: Resolved, steps: int) -> None:
    """Refuse steps that end in NaN, because timesteps repeat, or do not begin at pure noise."""

    def is_good(count: int) -> bool:
        first = _first_timestep(resolved, count)
        return first < TIMESTEPS and (count <= 10 or first >= AT_NOISE)

    name, first = resolved.name, _first_timestep(resolved, steps)
    if is_good(steps):
        return
    fewer = next(filter(is_good, range(steps, 0, -1)), None)
    if first >= TIMESTEPS:
        most = f"; at most {fewer}" if fewer else "; its steps_offset is too large"
        raise ConfigError(f"steps: {name} ends in NaN at {steps} steps, for want of timesteps{most}")
    more = next(filter(is_good, range(steps, TIMESTEPS)), None)
    advice = " or ".join(str(count) for count in (fewer, more) if count)
    raise ConfigError(
        f"steps: with {steps} steps {name} would take pure noise for a half-finished image: "
        f"it begins at timestep {first} of {TIMESTEPS}; use {advice}"
    )


def _first_timestep(resolved: Resolved, steps: int) -> int:
    """The timestep at which a run begins; TIMESTEPS or more if there are not enough."""
    options = resolved.options
    is_multistep = resolved.scheduler.class_name in table.ONE_MORE
    spacing = options.get("timestep_spacing")
    if steps == 1 or spacing in (None, "trailing") or (is_multistep and _sigma_options(options)):
        return TIMESTEPS - 1
    count = steps + is_multistep
    if spacing == "linspace":
        return max(TIMESTEPS, count) - 1
    apart = TIMESTEPS // count
    return (count - 1) * apart + int(str(options.get("steps_offset", 0))) if apart else TIMESTEPS


def few_steps(resolved: Resolved, steps: int) -> str:
    """A note on so few steps that noise is left or that a run begins far from pure noise, "" for others."""
    first = _first_timestep(resolved, steps)
    if first < AT_NOISE:
        return (
            f"with {steps} steps {resolved.name} begins at timestep {first} of {TIMESTEPS}, but what it "
            f"begins with is pure noise, as at the last timestep; "
            f"{resolved.scheduler.name}-trailing begins there"
        )
    sigmas = [name for name, option in SIGMAS.items() if resolved.options.get(option)]
    least = table.LEAST_STEPS.get("-".join((resolved.scheduler.name, *sigmas)), 0)
    if 1 < steps < least:
        return f"with {steps} steps {resolved.name} leaves noise in the image; use at least {least}"
    return ""


def fit_to_model(
    name: str, options: Mapping[str, Option], own: Mapping[str, Any], is_given: bool
) -> tuple[str, Mapping[str, Option], str]:
    """Choose the scheduler that a model runs with.

    `name` and `options` are those of the settings; `is_given` says whether a user chose them, or they are
    the default. `own` is the model's scheduler_config.json. Returns the canonical name and the options to
    run with, and a note for the user ("" for none). Raises ConfigError for an unknown name or wrong options.

    Trailing timesteps and the classes LCM and TCD are nobody's default, so a model that brings them was
    distilled for them: if no scheduler is given, its own is used; one that is given gets trailing timesteps,
    unless its name or options choose others. `leading` and `linspace` mean nothing, because diffusers writes
    such defaults into every config. A model with zero terminal SNR must begin at the last timestep: it gets
    trailing instead of leading.
    """
    resolved, brought = resolve(name, options), _brought(own)
    is_trailing = own.get("timestep_spacing") == "trailing"
    is_distilled = brought is not None and brought.name in table.DISTILLED
    if brought and not is_given and (is_distilled or is_trailing):
        usual = brought.name if is_distilled else f"{brought.name}-trailing"
        return usual, {}, f"no scheduler is given, so the model's own is used: {usual}"
    if brought and is_distilled:
        note = f"this model is made for {brought.name}, and {resolved.name} does not suit it"
        return resolved.name, options, "" if resolved.scheduler.name in table.DISTILLED else note
    spacing = resolved.options.get("timestep_spacing")
    is_zero_snr = own.get("rescale_betas_zero_snr") and own.get("prediction_type", "epsilon") != "epsilon"
    needs_last = bool(is_zero_snr) and spacing == "leading"
    if not (is_trailing or needs_last) or spacing in (None, "trailing"):
        return resolved.name, options, ""
    suffix = _find_row(name)[1]
    if suffix or "timestep_spacing" in options or _sigma_options(resolved.options):
        kept = {"timestep_spacing": spacing} if suffix in table.SPACING_SUFFIXES else {}
        note = f"this model is made for trailing timesteps, and {resolved.name} runs with others"
        return resolved.name, {**kept, **options}, note
    trailing = f"{resolved.name}-trailing"
    return trailing, options, f"this model is made for trailing timesteps, so {trailing} is used"


def is_for_few_steps(own: Mapping[str, Any]) -> bool:
    """Return whether a model with this scheduler_config.json was distilled for few steps."""
    return own.get("timestep_spacing") == "trailing" or (
        (brought := _brought(own)) is not None and brought.name in table.DISTILLED
    )


def _brought(own: Mapping[str, Any]) -> Scheduler | None:
    """The row of the scheduler that a scheduler_config.json names."""
    return _rows_by_key().get(_spelling_key(str(own.get("_class_name"))))


def _sigma_options(options: Mapping[str, Option]) -> list[str]:
    return [option for option in SIGMAS.values() if options.get(option)]


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
