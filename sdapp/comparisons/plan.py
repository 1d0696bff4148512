"""The grid of a comparison as jobs: schedulers with equal budgets, from the same noise, and references to
compare with.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path

from sdapp.batches.items import Item
from sdapp.comparisons.cells import Cell, Comparison, Reference, Value
from sdapp.comparisons.folder import PICTURES
from sdapp.comparisons.pace import FEW, MANY, read_paces
from sdapp.config import VARIABLE, RunConfig, SchedulerChoice, Task, Txt2Img, validate
from sdapp.errors import ConfigError, SdappError, gathered, nearest
from sdapp.jobs import Job, LoadKey, plan, steps_to_run
from sdapp.models.vae import locate_model
from sdapp.schedulers import check_run, resolve
from sdapp.settings.grid import MOST_STEPS, Grid
from sdapp.settings.layers import Layer, merge, override

TXT2IMG = Txt2Img()
COMPARE_DEFAULTS = {
    "output.dir": "comparison",
    "compile": "off",  # compiling would count as the time of some images
}
# Settings that suit every task, for checks before those of each cell.
NEUTRAL = (override("scheduler", "euler", ""), override("steps", MOST_STEPS, ""), override("eta", None, ""))
ConfigKey = tuple[
    str, float | None, tuple[Value, ...]
]  # scheduler; budget, None for a reference; varied values


@dataclass(frozen=True)
class Combination:
    """One prompt, seed and set of varied keys: within it, only scheduler and steps differ."""

    prompt: str
    seed: int
    varied: Mapping[str, Value]


class ComparisonPlan:
    """A grid with its settings and its model. Writes nothing and imports no torch."""

    def __init__(self, layers: Sequence[Layer], command: str = "") -> None:
        """`command` is the command line, for the report.

        Raises ConfigError with everything that is refused.
        """
        self.layers, self.command = layers, command
        defaults = [override(key, value, "sdapp compare") for key, value in COMPARE_DEFAULTS.items()]
        self._base = merge([*defaults, *layers])
        self.notes = self._base.notes
        if "schedulers" not in (self._base.values.get("compare") or {}):
            raise ConfigError(
                "compare.schedulers: there is nothing to compare; "
                "give --schedulers, or a config with `compare:`"
            )
        asked = validate(merge([self._base, *NEUTRAL]))
        assert asked.compare is not None
        self.grid: Grid = asked.compare
        _check_settings(asked, self.grid)
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
            place = place if place == "--vary" else f"{place}: compare.vary"
            near = nearest(first, VARIABLE)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise ConfigError(f"{place}: {key} cannot vary{hint} what can: {', '.join(VARIABLE)}")

    @property
    def load(self) -> LoadKey:
        return LoadKey.of(self.config, self.model)

    @property
    def combinations(self) -> Iterator[Combination]:
        for prompt, seed in product(self.prompts, self.grid.seeds):
            for varied in self._varied():
                yield Combination(prompt, seed, varied)

    def _varied(self) -> Iterator[dict[str, Value]]:
        for values in product(*self.grid.vary.values()):
            yield dict(zip(self.grid.vary, values, strict=True))

    # --- the settings of a cell -----------------------------------------------------------------------------

    @cached_property
    def _configs(self) -> dict[ConfigKey, RunConfig]:
        """The settings of every cell and reference. Raises ConfigError with every error."""
        configs: dict[ConfigKey, RunConfig] = {}
        errors: list[SdappError] = []
        for varied in self._varied():
            values = tuple(varied.values())
            for name, budget in product(self.grid.schedulers, self.grid.steps):
                with _collected(errors):
                    configs[name, budget, values] = self._config(
                        name, self.steps(name, budget, varied), varied
                    )
            for name, steps in map(_parse_reference, self.grid.references):
                with _collected(errors):
                    no_eta = override("eta", None, "reference")
                    configs[name, None, values] = self._config(name, steps, varied, no_eta)
        if errors:
            raise gathered(errors)
        return configs

    def _config(self, name: str, steps: int, varied: Mapping[str, Value], *more: Layer) -> RunConfig:
        return self._with(varied, override("scheduler", name, name), override("steps", steps, name), *more)

    def _with(self, varied: Mapping[str, Value], *layers: Layer) -> RunConfig:
        over = [override(key, value, f"vary {key}") for key, value in varied.items()]
        config = validate(merge([self._base, *over, *layers]))
        return config.model_copy(update={"compare": None, "output": self.config.output})

    def steps(self, name: str, budget: float, varied: Mapping[str, Value]) -> int:
        """How many steps a scheduler gets in a column.

        Raises ConfigError if the budget is not enough for one.
        """
        limit = int(budget)
        if self.grid.match == "seconds":
            limit = self.paces[name].steps(budget) if name in self.paces else 1  # until it is measured
        steps = most_steps(self.grid, name, limit, self._with(varied, *NEUTRAL).task)
        if not steps:
            unit = "s" if self.grid.match == "seconds" else "UNet calls"
            raise ConfigError(f"compare.steps: {budget:g} {unit} are too few for a single step of {name}")
        return steps

    # --- the jobs -------------------------------------------------------------------------------------------

    @property
    def unpaced(self) -> list[str]:
        """The schedulers whose steps in a second must be measured before there is a plan."""
        by_seconds = self.grid.match == "seconds"
        return [name for name in self.grid.schedulers if by_seconds and name not in self.paces]

    def pace_jobs(self, name: str) -> list[Job]:
        """The jobs that a scheduler's pace is measured by: one to warm up, one of FEW steps, one of MANY."""
        where = next(self.combinations)
        config = self._with(where.varied, *NEUTRAL)
        change = {
            "scheduler": SchedulerChoice(name=name),
            "prompt": where.prompt,
            "task": all_steps(config.task),
        }
        configs = [config.model_copy(update=change | {"steps": steps}) for steps in (FEW, FEW, MANY)]
        return [plan(each, self.model, [where.seed])[0] for each in configs]

    def items(self) -> list[Item]:
        """Every image: the cells, then the references."""
        cells, references = self.comparison.cells, self.comparison.references
        ids = [
            *(cell.id for cell in cells),
            *(item.id for item in references),
            *(item.other_id for item in references),
        ]
        return [Item(self._jobs[job_id], 0, index, {}) for index, job_id in enumerate(dict.fromkeys(ids))]

    def _job(self, name: str, budget: float | None, where: Combination) -> Job:
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
            command=self.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cells=tuple(self._cells()),
            references=tuple(map(self._reference, self.combinations)),
        )

    def _cells(self) -> Iterator[Cell]:
        for where, name, budget in product(self.combinations, self.grid.schedulers, self.grid.steps):
            job = self._job(name, budget, where)
            yield Cell(
                id=job.id,
                scheduler=name,
                column=budget,
                steps=job.steps,
                seed=where.seed,
                prompt=where.prompt,
                varied=where.varied,
                status="missing",
                file=None,
                unet_calls=None,
                seconds=None,
                timings=(),
                peak_memory=None,
                stochastic=resolve(name).stochastic or bool(job.eta),
                solver_error=None,
                psnr=None,
                ssim=None,
                reason=None,
            )

    def _reference(self, where: Combination) -> Reference:
        first, other = (self._job(_parse_reference(text)[0], None, where) for text in self.grid.references)
        label, other_label = (f"{job.scheduler.name}, {job.steps} steps" for job in (first, other))
        return Reference(
            id=first.id,
            other_id=other.id,
            seed=where.seed,
            prompt=where.prompt,
            varied=where.varied,
            label=label,
            other=other_label,
            file=None,
            unet_calls=None,
            distance=None,
        )


def most_steps(grid: Grid, name: str, limit: int, task: Task = TXT2IMG) -> int:
    """The most steps of a scheduler within so many UNet calls (or steps that run, by `grid.match`); 0 if none
    fit.
    """
    if grid.match == "steps":
        return limit
    resolved = resolve(name)
    runs = {n: run for n in range(1, MOST_STEPS + 1) if (run := steps_to_run(task, n))}
    work = {n: resolved.unet_calls(run) if grid.match == "unet-calls" else run for n, run in runs.items()}
    fitting = {n: done for n, done in work.items() if done <= limit}
    if grid.match == "seconds":  # the user has not asked for this number, so it may not be refused
        fitting = {n: done for n, done in fitting.items() if _can_run(name, n)}
    return max(fitting, key=lambda n: (fitting[n], -n), default=0)


def all_steps(task: Task) -> Task:
    """The task with a strength at which all of its steps run."""
    return task if isinstance(task, Txt2Img) else task.model_copy(update={"strength": 1.0})


def _check_settings(asked: RunConfig, grid: Grid) -> None:
    if asked.output.format != "png":
        raise ConfigError(
            f"output.format: images are compared without loss, as png, not {asked.output.format}"
        )
    if grid.timings > 1 and asked.batch_size != 1:
        raise ConfigError(
            "compare.timings: an image can be timed several times only alone; leave batch_size at 1"
        )


@contextmanager
def _collected(errors: list[SdappError]) -> Iterator[None]:
    """Keep an error until all are known."""
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


def _parse_reference(text: str) -> tuple[str, int]:
    name, _, steps = text.rpartition("@")
    return name, int(steps)
