"""Measure the error of each deterministic scheduler on data whose exact result is known, without a model.

The data are Gaussian in each of D dimensions. For them, the noise that a perfect model predicts has a closed
form, and so has the end of the probability-flow ODE (Song et al. 2021, equation 13; Karras et al. 2022,
appendix B). The difference is the error of the scheduler: its solver, its timesteps, its first and last noise
level, and how sdapp builds it. docs/compare.md has the table and says what it proves.

Schedulers are linear in the noise and in the means. So two runs give the exact root of the mean square over
all noises and means, without random numbers: noise 1 with means 0, and noise 0 with the standard deviation
as means.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from sdapp import schedulers
from sdapp.diffusion import solvers
from sdapp.errors import ConfigError
from sdapp.scheduler_table import TABLE, TIMESTEPS, Option

STEPS = (5, 10, 20, 50)
BETA_START, BETA_END = 0.00085, 0.012  # of Stable Diffusion 1.x and 2.x
MODEL = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "prediction_type": "epsilon",
}
_ALPHA_BAR = torch.cumprod(
    1 - torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2, 0
)
_LOG_RATIO = ((1 - _ALPHA_BAR) / _ALPHA_BAR).log() / 2  # log(σ/α) of each timestep


@dataclass(frozen=True)
class Row:
    """One run: its UNet calls, counted, and the RMS distance of its result from the exact one."""

    scheduler: str
    steps: int
    unet_calls: int
    error: float


@dataclass(frozen=True)
class Data:
    """A Gaussian in each of D dimensions: means and standard deviations (`spread`), [..., D] in float64."""

    mean: torch.Tensor
    spread: torch.Tensor

    def predict_noise(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        """What a perfect model predicts for x = α·x0 + σ·ε: the mean of ε. Timesteps may be fractional."""
        alpha, sigma = noise_level(timestep)
        return sigma * (x - alpha * self.mean) / (alpha**2 * self.spread**2 + sigma**2)

    def exact(self, noise: torch.Tensor) -> torch.Tensor:
        """The end of the probability-flow ODE at noise 0, from `noise` at the last training timestep."""
        alpha, sigma = noise_level(TIMESTEPS - 1)
        deviation = (alpha**2 * self.spread**2 + sigma**2).sqrt()
        return self.mean + (noise - alpha * self.mean) * self.spread / deviation


@cache
def noise_level(timestep: float) -> tuple[float, float]:
    """α and σ at a timestep in [0, 999], with α² + σ² = 1.

    Between whole timesteps log(σ/α) is interpolated linearly, as diffusers does to find a timestep for a σ/α.
    """
    below = min(int(timestep), TIMESTEPS - 2)
    log_ratio = torch.lerp(_LOG_RATIO[below], _LOG_RATIO[below + 1], timestep - below)
    return float(torch.sigmoid(-2 * log_ratio).sqrt()), float(torch.sigmoid(2 * log_ratio).sqrt())


# Fitted once: all 40 values of an independent measurement are reproduced to 5 %. The smallest spread is below
# the last noise level of the schedules (0.029), like some details of an image.
SPREADS, MEANS, DIMENSIONS = (0.02, 0.83), 0.6, 1024
_DATA = Data(
    torch.tensor([[0.0], [MEANS]], dtype=torch.float64),
    torch.linspace(*SPREADS, DIMENSIONS, dtype=torch.float64),
)
_NOISE = torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand(2, DIMENSIONS)


def deterministic() -> tuple[str, ...]:
    """The names of all deterministic schedulers, one for each kind of sigmas that they support."""
    rows = [row for row in TABLE if not row.stochastic]
    return tuple("-".join(filter(None, (row.name, sigmas))) for row in rows for sigmas in ("", *row.sigmas))


def solve(
    name: str, steps: int, data: Data, noise: torch.Tensor, options: Mapping[str, Option] | None = None
) -> tuple[torch.Tensor, int]:
    """Run a scheduler from `noise` [..., D] with the perfect model of `data`; return its result and calls.

    Computes in float64, except for the float32 tables, and sometimes steps, of the scheduler. Raises
    ConfigError for a scheduler that adds noise, and for a name, options or steps that are not valid.
    """
    resolved = schedulers.resolve(name, options)
    if resolved.stochastic:
        text = "adds new noise in its steps, so it has no exact result"
        raise ConfigError(f"scheduler: {resolved.name} {text}")
    schedulers.check_run(resolved, steps, eta=None)
    scheduler = solvers.build_scheduler(resolved, MODEL, seeds=())
    scheduler.set_timesteps(steps)
    x, calls = noise * scheduler.init_noise_sigma, 0
    for timestep in scheduler.timesteps:
        predicted = data.predict_noise(scheduler.scale_model_input(x, timestep), float(timestep))
        calls += 1
        x = scheduler.step(predicted, timestep, x, return_dict=False)[0]
    return x, calls


def measure_scheduler(name: str, steps: int, options: Mapping[str, Option] | None = None) -> Row:
    """Measure the error of one scheduler. Raises ConfigError like `solve`."""
    end, calls = solve(name, steps, _DATA, _NOISE, options)
    error = (end - _DATA.exact(_NOISE)).square().sum(0).mean().sqrt()
    return Row(schedulers.resolve(name, options).name, steps, calls, float(error))


def measure_all(runs: Iterable[tuple[str, int]]) -> list[Row]:
    """Measure schedulers by name and steps, in the order given."""
    return [measure_scheduler(name, steps) for name, steps in runs]


def render_table(columns: Mapping[int, Sequence[Row]]) -> str:
    """A table in plain text, a column for each budget; the smallest error in the last column comes first.

    A run whose UNet calls differ from the budget of its column has them in brackets.
    """
    cells = {(row.scheduler, budget): row for budget, rows in columns.items() for row in rows}
    names = dict.fromkeys(name for name, _ in cells)
    *_, last = columns
    errors = {name: cells[name, last].error for name in names if (name, last) in cells}
    nearest = sorted(names, key=lambda name: errors.get(name, float("inf")))
    lines = [["scheduler", *map(str, columns)]]
    lines += [[name, *(_cell(cells.get((name, budget)), budget) for budget in columns)] for name in nearest]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(row: Row | None, budget: int) -> str:
    if row is None:
        return "-"
    return f"{row.error:.4f}" + (f" ({row.unet_calls})" if row.unet_calls != budget else "")
