"""The grid of a comparison as jobs: schedulers at equal budgets, from the same noise, with references to hold them against."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from itertools import cycle, product
from pathlib import Path

from sdapp.batches.items import Item
from sdapp.batches.run import Batch, Paints
from sdapp.comparisons.cells import Cell, Comparison, Reference, Value
from sdapp.comparisons.folder import PICTURES, keep_latents
from sdapp.comparisons.pace import PACES, Pace, read_paces
from sdapp.config import VARIABLE, RunConfig, SchedulerChoice, Task, Txt2Img, validate
from sdapp.errors import ConfigError, SdappError, UnavailableError, gathered
from sdapp.jobs import Job, plan, steps_to_run
from sdapp.models.vae import locate_model
from sdapp.outputs.files import overwrite
from sdapp.records import Result
from sdapp.schedulers import check_run, resolve
from sdapp.settings.grid import MOST_STEPS, Grid
from sdapp.settings.layers import Layer, merge, override

TXT2IMG = Txt2Img()
COMPARE_DEFAULTS = {
    "output.dir": "comparison",
    "compile": "off",
}  # compiling would count as the time of some images
# What suits every task, for checks that come before those of each cell.
NEUTRAL = (override("scheduler", "euler", ""), override("steps", MOST_STEPS, ""), override("eta", None, ""))
FEW, MANY = 4, 12  # steps by which a scheduler's pace is measured


@dataclass(frozen=True)
class Combination:
    """One prompt, seed and set of varied keys: within it, only scheduler and steps differ."""

    prompt: str
    seed: int
    varied: Mapping[str, Value]


class ComparisonPlan:
    """A grid with its settings and its model. Nothing is written, and torch is not imported."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Raises ConfigError with all that cannot be honoured."""
        self._base = merge(
            [*(override(key, value, "sdapp compare") for key, value in COMPARE_DEFAULTS.items()), *layers]
        )
        if "schedulers" not in (self._base.values.get("compare") or {}):
            raise ConfigError(
                "compare.schedulers: there is nothing to compare; give --schedulers, or a config with `compare:`"
            )
        asked = validate(merge([self._base, *NEUTRAL]))
        assert asked.compare is not None
        if asked.output.format != "png":
            raise ConfigError(
                f"output.format: images are compared without loss, as png, not {asked.output.format}"
            )
        if asked.compare.timings > 1 and asked.batch_size != 1:
            raise ConfigError(
                "compare.timings: an image can be timed several times only alone; leave batch_size at 1"
            )
        self.grid: Grid = asked.compare
        self.folder, self.model = Path(asked.output.dir), locate_model(asked.model, asked.revision, asked.vae)
        self.paces = read_paces(self.folder)
        output = asked.output.model_copy(update={"dir": str(self.folder / PICTURES), "name": "{id}"})
        self.config: RunConfig = asked.model_copy(update={"output": output, "compare": None})
        if not (prompts := self.grid.prompts or ([asked.prompt] if asked.prompt is not None else [])):
            raise ConfigError(
                "prompt: there is none; give one on the command line, or as `compare.prompts:` in the config"
            )
        self.prompts = tuple(prompts)
        self._jobs: dict[str, Job] = {}
        for key in self.grid.vary:
            self._check_key(key)

    def _check_key(self, key: str) -> None:
        if (first := key.split(".")[0]) not in VARIABLE:
            origins = self._base.origins
            place = origins.get(f"compare.vary.{key}", origins.get("compare.vary", "settings"))
            near = get_close_matches(first, VARIABLE, n=1)
            mean = f", did you mean {near[0]!r}?" if near else ";"
            raise ConfigError(
                f"{place}: compare.vary: {key} cannot vary{mean} what can: {', '.join(VARIABLE)}"
            )

    @property
    def combinations(self) -> Iterator[Combination]:
        for prompt, seed in product(self.prompts, self.grid.seeds):
            for values in product(*self.grid.vary.values()):
                yield Combination(prompt, seed, dict(zip(self.grid.vary, values, strict=True)))

    # --- the settings of a cell -----------------------------------------------------------------------------------

    @cached_property
    def _configs(self) -> dict[tuple[str, float | None, tuple[Value, ...]], RunConfig]:
        """The settings by scheduler, budget (None for a reference) and varied values. Raises ConfigError with every error."""
        found: dict[tuple[str, float | None, tuple[Value, ...]], RunConfig] = {}
        errors: list[SdappError] = []
        for values in product(*self.grid.vary.values()):
            varied = dict(zip(self.grid.vary, values, strict=True))
            for name, budget in product(self.grid.schedulers, self.grid.steps):
                with _kept(errors):
                    found[name, budget, values] = self._config(name, self.steps(name, budget, varied), varied)
            for name, steps in map(_parse_reference, self.grid.references):
                with _kept(errors):
                    found[name, None, values] = self._config(
                        name, steps, varied, override("eta", None, "reference")
                    )
        if errors:
            raise gathered(errors)
        return found

    def _config(self, name: str, steps: int, varied: Mapping[str, Value], *more: Layer) -> RunConfig:
        return self._asked(varied, override("scheduler", name, name), override("steps", steps, name), *more)

    def _asked(self, varied: Mapping[str, Value], *layers: Layer) -> RunConfig:
        over = [override(key, value, f"vary {key}") for key, value in varied.items()]
        return validate(merge([self._base, *over, *layers])).model_copy(
            update={"compare": None, "output": self.config.output}
        )

    def steps(self, name: str, budget: float, varied: Mapping[str, Value]) -> int:
        """How many steps a scheduler gets in a column. Raises ConfigError where its budget is not enough for one."""
        limit = int(budget)
        if self.grid.match == "seconds":
            limit = self.paces[name].steps(budget) if name in self.paces else 1  # until it is measured
        steps = self.steps_of(self.grid, name, limit, self._asked(varied, *NEUTRAL).task)
        if not steps:
            unit = "s" if self.grid.match == "seconds" else "UNet calls"
            raise ConfigError(f"compare.steps: {budget:g} {unit} are too few for a single step of {name}")
        return steps

    @staticmethod
    def steps_of(grid: Grid, name: str, limit: int, task: Task = TXT2IMG) -> int:
        """The most that a scheduler can do within so many UNet calls, or steps that run; 0 if it can do nothing."""
        if grid.match == "steps":
            return limit
        resolved = resolve(name)
        runs = {n: run for n in range(1, MOST_STEPS + 1) if (run := steps_to_run(task, n))}
        work = {n: resolved.unet_calls(run) if grid.match == "unet-calls" else run for n, run in runs.items()}
        fitting = {n: done for n, done in work.items() if done <= limit}
        if grid.match == "seconds":  # nobody asked for just this number
            fitting = {n: done for n, done in fitting.items() if _can_run(name, n)}
        return max(fitting, key=lambda n: (fitting[n], -n), default=0)

    @property
    def unpaced(self) -> tuple[str, ...]:
        """The schedulers of which must be measured how many steps they do in a second."""
        return tuple(
            name for name in self.grid.schedulers if self.grid.match == "seconds" and name not in self.paces
        )

    def measure_paces(self, painter: Paints) -> None:
        """How long each scheduler takes for a step and for the rest, kept in the folder: columns of seconds must not change."""
        where = next(self.combinations)
        plain = self._asked(where.varied, *NEUTRAL)
        for name in self.unpaced:
            seconds = {}
            for steps in (FEW, FEW, MANY):  # the first is the warm-up
                change = {"scheduler": SchedulerChoice(name=name), "steps": steps, "prompt": where.prompt}
                [job] = plan(
                    plain.model_copy(update=change | {"task": _whole(plain.task)}), self.model, [where.seed]
                )
                [result] = painter.paint([job], 1, None, keep_going=False)
                if result.record is None:
                    raise UnavailableError(f"{name} cannot be timed: {result.error}")
                seconds[steps] = result.record.seconds
            steady = seconds[MANY] / MANY / 4  # a hiccup of the machine must not make steps free
            step = max(1e-6, steady, (seconds[MANY] - seconds[FEW]) / (MANY - FEW))
            self.paces[name] = Pace(max(0.0, seconds[FEW] - FEW * step), step)
        overwrite(
            self.folder / PACES,
            [json.dumps({name: asdict(pace) for name, pace in self.paces.items()}).encode()],
        )

    # --- painting -------------------------------------------------------------------------------------------------

    def batch(self, painter: Callable[[], Paints]) -> Batch:
        """The images as a batch, which keeps the latents of each, and times it as often as asked for."""
        orders = list(self.orders())

        def keep(result: Result) -> None:
            times = self.grid.timings - 1 if result.image else 0
            again = [next(painter().paint([result.job], 1, None, False)).record for _ in range(times)]
            keep_latents(self.folder, result, [record.seconds for record in again if record])

        return Batch(lambda: orders, self.config, retry_failed=True, keep=keep)

    def warm_up(self, painter: Paints) -> None:
        """Do what is done once, such as encoding a prompt or importing a scheduler, so that it is in no image's time."""
        jobs = [order.job for order in self.orders()]
        once = {(job.prompt, job.negative_prompt, job.clip_skip, job.width, job.height): job for job in jobs}
        names = list(dict.fromkeys(job.scheduler.name for job in jobs))
        for _, job, name in zip(
            range(max(len(once), len(names))), cycle(once.values()), cycle(names), strict=False
        ):
            change = {
                "scheduler": SchedulerChoice(name=name),
                "steps": 2,
                "eta": None,
                "task": _whole(job.task),
            }
            list(painter.paint([job.model_copy(update=change)], 1, None, keep_going=True))

    # --- the whole ------------------------------------------------------------------------------------------------

    def orders(self) -> Iterator[Item]:
        """Every image: the cells, then the references."""
        comparison = self.comparison
        jobs = {cell.id: None for cell in comparison.cells} | {
            reference.id: None for reference in comparison.references
        }
        jobs |= {reference.other_id: None for reference in comparison.references}
        return (Item(self._jobs[job], 0, index, {}) for index, job in enumerate(jobs))

    def _planned(self, name: str, budget: float | None, where: Combination) -> Job:
        config = self._configs[name, budget, tuple(where.varied.values())]
        [job] = plan(config.model_copy(update={"prompt": where.prompt}), self.model, [where.seed])
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
            job = self._planned(name, budget, where)
            yield Cell(
                id=job.id, scheduler=name, column=budget, steps=job.steps, seed=where.seed, prompt=where.prompt,
                varied=where.varied, status="missing", file=None, unet_calls=None, seconds=None, timings=(), peak_memory=None,
                stochastic=resolve(name).stochastic or bool(job.eta), solver_error=None, psnr=None, ssim=None, reason=None,
            )  # fmt: skip

    def _reference(self, where: Combination) -> Reference:
        jobs = [self._planned(_parse_reference(text)[0], None, where) for text in self.grid.references]
        (first, other), labels = jobs, [f"{job.scheduler.name}, {job.steps} steps" for job in jobs]
        return Reference(
            id=first.id, other_id=other.id, seed=where.seed, prompt=where.prompt, varied=where.varied,
            label=labels[0], other=labels[1], file=None, unet_calls=None, distance=None,
        )  # fmt: skip


@contextmanager
def _kept(errors: list[SdappError]) -> Iterator[None]:
    """An error for later, when all are known."""
    try:
        yield
    except SdappError as exc:
        errors.append(exc)


def _can_run(name: str, steps: int) -> bool:
    try:
        check_run(resolve(name), steps, eta=None)
    except ConfigError:
        return False
    return True


def _whole(task: Task) -> Task:
    """The task with all of its steps."""
    return task if isinstance(task, Txt2Img) else task.model_copy(update={"strength": 1.0})


def _parse_reference(text: str) -> tuple[str, int]:
    name, _, steps = text.rpartition("@")
    return name, int(steps)
