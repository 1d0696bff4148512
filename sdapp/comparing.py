"""The grid of a comparison as jobs: schedulers at equal budgets, from the same noise, with references to hold them against."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path

from sdapp.batch import Batch, Paints
from sdapp.config import RunConfig, SchedulerChoice, Task, Txt2Img, validate
from sdapp.errors import ConfigError, SdappError, gathered
from sdapp.grid import Grid
from sdapp.jobs import Job, plan, steps_to_run
from sdapp.latents import PICTURES, keep_latents
from sdapp.layers import Layer, merge, override, parse_override
from sdapp.models import locate
from sdapp.orders import Order
from sdapp.outputs import Result, overwrite
from sdapp.results import Cell, Comparison, Reference, Value
from sdapp.schedulers import resolve

PACES = "paces.json"
TXT2IMG = Txt2Img()
DEFAULTS = {"output.dir": "comparison"}
MOST_STEPS = 1000
FEW, MANY = 4, 12  # steps by which a scheduler's pace is measured
FIXED = (
    "prompt", "seed", "count", "steps", "scheduler", "compare", "output", "batch_size",
    "model", "revision", "device", "dtype", "memory",
)  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """How long a scheduler takes for a picture: a share of its own, and so much for each step."""

    fixed: float
    step: float

    def steps(self, seconds: float) -> int:
        """How many steps fit; at least one."""
        return max(1, int((seconds - self.fixed) / self.step))


@dataclass(frozen=True)
class Combination:
    """One prompt, seed and set of varied keys: within it, only scheduler and steps differ."""

    prompt: str
    seed: int
    varied: Mapping[str, Value]


class Contest:
    """A grid with its settings and its model. Nothing is written, and torch is not imported."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Raises ConfigError with all that cannot be honoured."""
        self._base = merge([*(override(key, value, "sdapp compare") for key, value in DEFAULTS.items()), *layers])
        asked = validate(self._base)
        if asked.compare is None:
            raise ConfigError("compare: there is nothing to compare; give --schedulers, or a config with `compare:`")
        if asked.output.format != "png":
            raise ConfigError(f"output.format: pictures are compared without loss, as png, not {asked.output.format}")
        if asked.compare.timings > 1 and asked.batch_size != 1:
            raise ConfigError("compare.timings: a picture can be timed several times only alone; leave batch_size at 1")
        self.grid: Grid = asked.compare
        self.folder, self.model = Path(asked.output.dir), locate(asked.model, asked.revision)
        self.paces = _read_paces(self.folder)
        output = asked.output.model_copy(update={"dir": str(self.folder / PICTURES), "name": "{id}"})
        self.config: RunConfig = asked.model_copy(update={"output": output, "compare": None})
        if not (prompts := self.grid.prompts or ([asked.prompt] if asked.prompt is not None else [])):
            raise ConfigError("prompt: there is none; give one on the command line, or as `compare.prompts:` in the config")
        self.prompts = tuple(prompts)
        self._jobs: dict[str, Job] = {}

    @property
    def combinations(self) -> Iterator[Combination]:
        for prompt, seed in product(self.prompts, self.grid.seeds):
            for values in product(*self.grid.vary.values()):
                yield Combination(prompt, seed, dict(zip(self.grid.vary, values, strict=True)))

    # --- the settings of a cell -----------------------------------------------------------------------------------

    @cached_property
    def _configs(self) -> dict[tuple[str, int, tuple[Value, ...]], RunConfig]:
        """The settings of each scheduler, number of steps and set of varied keys. Raises ConfigError with every error."""
        found, errors = {}, list[SdappError]()
        for values in product(*self.grid.vary.values()):
            varied = dict(zip(self.grid.vary, values, strict=True))
            runs = [(name, self.steps(name, budget, varied)) for name in self.grid.schedulers for budget in self.grid.steps]
            for name, steps in [*runs, *map(_parse_reference, self.grid.references)]:
                try:
                    found[name, steps, values] = self._config(name, steps, varied)
                except SdappError as exc:
                    errors.append(exc)
        if errors:
            raise gathered(errors)
        return found

    def _config(self, name: str, steps: int, varied: Mapping[str, Value]) -> RunConfig:
        layers = [self._base, *self._varied(varied), override("scheduler", name, name), override("steps", steps, name)]
        return validate(merge(layers)).model_copy(update={"compare": None, "output": self.config.output})

    def _varied(self, varied: Mapping[str, Value]) -> list[Layer]:
        found = []
        for key, value in varied.items():
            if key.split(".")[0] in FIXED:
                raise ConfigError(f"compare.vary: {key} cannot vary; what can are keys such as guidance_scale")
            found.append(parse_override(f"{key}={value}") if isinstance(value, str) else override(key, value, f"vary {key}"))
        return found

    def steps(self, name: str, budget: float, varied: Mapping[str, Value]) -> int:
        """How many steps a scheduler gets in a column. Raises ConfigError where its budget is not enough for one."""
        if self.grid.match == "seconds":
            return self.paces[name].steps(budget) if self.paces else 1
        task = validate(merge([self._base, *self._varied(varied)])).task
        steps = self.steps_of(self.grid, name, int(budget), task)
        if not steps:
            raise ConfigError(f"compare.steps: {name} calls the UNet more than {budget:g} times for a single step")
        return steps

    @staticmethod
    def steps_of(grid: Grid, name: str, budget: int, task: Task = TXT2IMG) -> int:
        """The number of steps, or the one whose UNet calls come nearest to the budget from below; 0 if there is none."""
        if grid.match == "steps":
            return budget
        resolved = resolve(name)
        calls = {n: resolved.unet_calls(run) for n in range(1, MOST_STEPS + 1) if (run := steps_to_run(task, n))}
        most = max((count for count in calls.values() if count <= budget), default=0)
        return next((steps for steps, count in calls.items() if count == most), 0)

    def measure_paces(self, painter: Paints) -> None:
        """How long each scheduler takes for a step and for the rest, kept in the folder: columns of seconds must not change."""
        where = next(self.combinations)
        plain = self._config(self.grid.schedulers[0], FEW, where.varied)
        paces = {}
        for name in self.grid.schedulers:
            seconds = {}
            for steps in (FEW, FEW, MANY):  # the first is the warm-up
                change = {"scheduler": SchedulerChoice(name=name), "steps": steps, "prompt": where.prompt}
                [job] = plan(plain.model_copy(update=change), self.model, [where.seed])
                [result] = painter.paint([job], 1, None, keep_going=False)
                seconds[steps] = result.record.seconds if result.record else 0.0
            step = max(1e-6, (seconds[MANY] - seconds[FEW]) / (MANY - FEW))
            paces[name] = asdict(Pace(max(0.0, seconds[FEW] - FEW * step), step))
        overwrite(self.folder / PACES, [json.dumps(paces).encode()])

    def job(self, name: str, steps: int, where: Combination) -> Job:
        """The job of one picture of the grid."""
        config = self._configs[name, steps, tuple(where.varied.values())]
        [job] = plan(config.model_copy(update={"prompt": where.prompt}), self.model, [where.seed])
        return job

    # --- painting -------------------------------------------------------------------------------------------------

    def batch(self, painter: Callable[[], Paints]) -> Batch:
        """The pictures as a batch, which keeps the latents of each, and times it as often as asked for."""
        orders = list(self.orders())

        def keep(result: Result) -> None:
            again = [next(painter().paint([result.job], 1, None, False)).record for _ in range(self.grid.timings - 1)]
            keep_latents(self.folder, result, [record.seconds for record in again if record])

        return Batch(lambda: orders, self.config, retry_failed=True, keep=keep)

    def warm_up(self, painter: Paints) -> None:
        """Do what is done once, such as encoding the prompts, so that it is in no picture's time."""
        for job in {order.job.prompt: order.job for order in self.orders()}.values():
            task = job.task if isinstance(job.task, Txt2Img) else job.task.model_copy(update={"strength": 1.0})
            change = {"scheduler": SchedulerChoice(name="euler"), "steps": 1, "eta": None, "task": task}
            list(painter.paint([job.model_copy(update=change)], 1, None, keep_going=True))

    # --- the whole ------------------------------------------------------------------------------------------------

    def orders(self) -> Iterator[Order]:
        """Every picture: the cells, then the references."""
        comparison = self.comparison
        jobs = {cell.id: None for cell in comparison.cells} | {reference.id: None for reference in comparison.references}
        jobs |= {reference.other_id: None for reference in comparison.references}
        return (Order(self._jobs[job], 0, index, {}) for index, job in enumerate(jobs))

    def _planned(self, name: str, steps: int, where: Combination) -> Job:
        job = self.job(name, steps, where)
        self._jobs[job.id] = job
        return job

    @cached_property
    def comparison(self) -> Comparison:
        """The comparison before anything is painted."""
        return Comparison(
            title=f"{len(self.grid.schedulers)} schedulers compared",
            match=self.grid.match,
            schedulers=tuple(self.grid.schedulers),
            columns=tuple(self.grid.steps),
            seeds=tuple(self.grid.seeds),
            prompts=self.prompts,
            varied={key: tuple(values) for key, values in self.grid.vary.items()},
            model=self.model.name,
            hardware="",
            dtype=self.config.dtype,
            versions={},
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cells=tuple(self._cells()),
            references=tuple(map(self._reference, self.combinations)),
        )

    def _cells(self) -> Iterator[Cell]:
        for where, name, budget in product(self.combinations, self.grid.schedulers, self.grid.steps):
            steps = self.steps(name, budget, where.varied)
            job = self._planned(name, steps, where)
            yield Cell(
                id=job.id, scheduler=name, column=budget, steps=steps, seed=where.seed, prompt=where.prompt,
                varied=where.varied, status="missing", file=None, unet_calls=None, seconds=None, timings=(), peak_memory=None,
                stochastic=resolve(name).stochastic or bool(job.eta), solver_error=None, psnr=None, ssim=None, reason=None,
            )  # fmt: skip

    def _reference(self, where: Combination) -> Reference:
        first, other = (_parse_reference(text) for text in self.grid.references)
        ids = [self._planned(*reference, where).id for reference in (first, other)]
        labels = [f"{name}, {steps} steps" for name, steps in (first, other)]
        return Reference(
            id=ids[0], other_id=ids[1], seed=where.seed, prompt=where.prompt, varied=where.varied,
            label=labels[0], other=labels[1], file=None, unet_calls=None, distance=None,
        )  # fmt: skip


def _read_paces(folder: Path) -> dict[str, Pace]:
    """Those that were measured when the folder was begun, if they were."""
    try:
        return {name: Pace(**pace) for name, pace in json.loads((folder / PACES).read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _parse_reference(text: str) -> tuple[str, int]:
    name, _, steps = text.rpartition("@")
    return name, int(steps)
