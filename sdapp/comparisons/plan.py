"""Plan a comparison: the jobs of its cells, with equal work in a column, and of its references."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path

from sdapp.batches.items import Item
from sdapp.comparisons.cells import Cell, Combination, Comparison, Reference, Value, read_comparison
from sdapp.comparisons.folder import PICTURES
from sdapp.comparisons.pace import FEW, MANY, read_paces
from sdapp.config import VARIABLE, RunConfig
from sdapp.errors import ConfigError, InputError, SdappError, did_you_mean, gathered
from sdapp.jobs import Job, LoadKey, steps_to_run
from sdapp.models.vae import locate_model
from sdapp.notes import note_on_last_page, notes_on_line, notes_on_place
from sdapp.planning import plan
from sdapp.profiles import ProfileName
from sdapp.schedulers import check_run, resolve
from sdapp.settings.grid import MOST_STEPS, Grid
from sdapp.settings.layers import Layer, merge, override
from sdapp.settings.messages import place_message
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.tasks import Task, Txt2Img
from sdapp.validation import validate

TXT2IMG = Txt2Img()
TITLE_NAMES = 4
COMPARE_DEFAULTS = {
    "output.dir": "comparison",
    "compile": "off",  # compiling would count as the time of some images
    "compare": {},  # its own defaults
}
# Settings that suit every task, for checks before those of each cell.
NEUTRAL = (override("scheduler", "euler", ""), override("steps", MOST_STEPS, ""), override("eta", None, ""))
# Settings that a comparison does not use, and what it uses instead.
UNUSED_SETTINGS = {
    "steps": "use compare.steps",
    "scheduler": "use compare.schedulers",
    "seed": "use compare.seeds",
    "count": "use compare.seeds",
    "prompt": "there are compare.prompts",
    "output.name": "its images are named by the ids of their jobs",
}
# Scheduler, budget (None for a reference), varied values.
ConfigKey = tuple[str, float | None, tuple[Value, ...]]


class ComparisonPlan:
    """A grid with its settings and its model. Writes nothing and imports no torch."""

    def __init__(self, layers: Sequence[Layer], command: str = "") -> None:
        """`command` is the command line, for the report.

        Raises ConfigError with everything that is refused.
        """
        self.layers, self.command = layers, command
        defaults = [override(key, value, "sdapp compare") for key, value in COMPARE_DEFAULTS.items()]
        self._base = merge([*defaults, *layers])
        asked = validate(merge([self._base, *NEUTRAL]))
        assert asked.compare is not None
        self.grid: Grid = asked.compare
        self._check(asked)
        self.folder = Path(asked.output.dir)
        self.model = locate_model(asked.model, asked.revision, asked.vae, asked.base)
        self.paces = read_paces(self.folder)
        self.prompts = self.grid.prompts or [str(asked.prompt)]
        self.references = {
            name: int(steps) for name, steps in (r.rsplit("@", 1) for r in self.grid.references)
        }
        output = asked.output.model_copy(update={"dir": str(self.folder / PICTURES), "name": "{id}"})
        self.config: RunConfig = asked.model_copy(update={"output": output, "compare": None})
        self._jobs: dict[str, Job] = {}  # by id, those of `comparison`

    def _check(self, asked: RunConfig) -> None:
        """Refuse settings that a comparison cannot honour. Raises ConfigError."""
        if asked.output.format != "png":
            message = f"output.format: images are compared without loss, as png, not {asked.output.format}"
            raise ConfigError(message)
        if self.grid.timings > 1 and asked.batch_size != 1:
            message = "an image can be timed several times only alone; leave batch_size at 1"
            raise ConfigError(f"compare.timings: {message}")
        if not self.grid.prompts and asked.prompt is None:
            message = "there is none; give one on the command line, or as `compare.prompts:` in the config"
            raise ConfigError(f"prompt: {message}")
        for key in self.grid.vary:
            if (first := key.split(".")[0]) not in VARIABLE:
                hint = did_you_mean(first, VARIABLE, f"; allowed here: {', '.join(VARIABLE)}")
                message = f"cannot vary{hint}"
                raise ConfigError(place_message(f"compare.vary.{key}", message, self._base))

    @property
    def load(self) -> LoadKey:
        return LoadKey.of(self.config, self.model)

    @property
    def notes(self) -> Iterator[str]:
        """What the user should know before painting; first what has no effect in a comparison."""
        given = self._base.values | {"output.name": self._base.values["output"].get("name")}
        if not self.grid.prompts or self._base.origins.get("compare.prompts") == "PROMPT":
            given.pop("prompt", None)  # it is used, or a prompt on the command line replaces it
        for key, decides in UNUSED_SETTINGS.items():
            if given.get(key) is not None:
                yield place_message(key, f"has no effect in a comparison; {decides}", self._base)
        yield from notes_on_place(self.config, may_use_cluster=True)
        for reference in self.comparison.references:
            yield from notes_on_line(self.config, self.model, self._jobs[reference.id])
        with suppress(InputError):  # nothing was compared there before
            shown = (cell.id for cell in read_comparison(self.folder).cells if cell.file)
            yield from note_on_last_page(self.folder, shown, self._jobs)

    # --- the settings of a cell -----------------------------------------------------------------------------

    @cached_property
    def _configs(self) -> dict[ConfigKey, RunConfig]:
        """The settings of every cell and reference. Raises ConfigError with every error."""
        configs: dict[ConfigKey, RunConfig] = {}
        errors: list[SdappError] = []
        runs = [*product(self.grid.schedulers, self.grid.steps), *((name, None) for name in self.references)]
        for values, (name, budget) in product(product(*self.grid.vary.values()), runs):
            try:
                varied = dict(zip(self.grid.vary, values, strict=True))
                configs[name, budget, values] = self._config(name, budget, varied)
            except SdappError as exc:
                errors.append(exc)
        if errors:
            raise gathered(errors)
        return configs

    def _config(self, name: str, budget: float | None, varied: Mapping[str, Value]) -> RunConfig:
        steps = self.references[name] if budget is None else self._steps(name, budget, varied)
        no_eta = [override("eta", None, "reference")] if budget is None else []
        return self._with(varied, override("scheduler", name, name), override("steps", steps, name), *no_eta)

    def _with(self, varied: Mapping[str, Value], *layers: Layer) -> RunConfig:
        over = [override(key, value, f"vary {key}") for key, value in varied.items()]
        config = validate(merge([self._base, *over, *layers]))
        return config.model_copy(update={"compare": None, "output": self.config.output})

    def _steps(self, name: str, budget: float, varied: Mapping[str, Value]) -> int:
        """How many steps a scheduler gets in a column.

        Raises ConfigError if the budget is not enough for one.
        """
        limit = int(budget)
        if self.grid.match == "seconds":
            limit = self.paces[name].steps(budget) if name in self.paces else 1  # until it is measured
        config = self._with(varied, *NEUTRAL)
        steps = most_steps(self.grid, name, limit, config.task, config.profile)
        if not steps:
            unit = "s" if self.grid.match == "seconds" else "UNet calls"
            raise ConfigError(f"compare.steps: {budget:g} {unit} are too few for a single step of {name}")
        return steps

    # --- the jobs -------------------------------------------------------------------------------------------

    @property
    def unpaced(self) -> list[str]:
        """The schedulers whose pace must be measured before there is a plan: columns are seconds."""
        by_seconds = self.grid.match == "seconds"
        return [name for name in self.grid.schedulers if by_seconds and name not in self.paces]

    def pace_jobs(self, name: str) -> list[Job]:
        """The jobs that a scheduler's pace is measured by: one to warm up, one of FEW steps, one of MANY."""
        where = next(self._grid_alone.combinations())
        config = self._with(where.varied, *NEUTRAL)
        change = {
            "scheduler": SchedulerChoice(name=name),
            "prompt": where.prompt,
            "task": all_steps(config.task),
        }
        configs = [config.model_copy(update=change | {"steps": steps}) for steps in (FEW, FEW, MANY)]
        return [plan(each, self.model, [where.seed])[0] for each in configs]

    def items(self) -> list[Item]:
        """Every image once: the cells, then the references."""
        assert self.comparison
        return [Item(job, 0, index, {}) for index, job in enumerate(self._jobs.values())]

    @cached_property
    def comparison(self) -> Comparison:
        """The comparison before anything is painted."""
        grid = self._grid_alone
        places = product(grid.combinations(), grid.schedulers, grid.columns)
        cells = tuple(self._cell(*place) for place in places)
        return replace(grid, cells=cells, references=tuple(map(self._reference, grid.combinations())))

    @cached_property
    def _grid_alone(self) -> Comparison:
        """The comparison without cells and references."""
        return Comparison(
            title=_title(self.grid.schedulers, self.model.name),
            match=self.grid.match,
            schedulers=tuple(self.grid.schedulers),
            columns=tuple(self.grid.steps),
            seeds=tuple(self.grid.seeds),
            prompts=tuple(self.prompts),
            varied={key: tuple(values) for key, values in self.grid.vary.items()},
            model=self.model.name,
            hardware="",
            dtype=self.config.dtype,
            versions={},
            command=self.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _cell(self, where: Combination, name: str, budget: float) -> Cell:
        job = self._job(where, name, budget)
        random = resolve(name).stochastic or bool(job.eta)
        return Cell(
            job.id, name, budget, job.steps, where.seed, where.prompt, where.varied, stochastic=random
        )

    def _reference(self, where: Combination) -> Reference:
        first, other = (self._job(where, name) for name in self.references)
        label, other_label = (f"{job.scheduler.name}, {job.steps} steps" for job in (first, other))
        return Reference(first.id, other.id, where.seed, where.prompt, where.varied, label, other=other_label)

    def _job(self, where: Combination, name: str, budget: float | None = None) -> Job:
        config = self._configs[name, budget, tuple(where.varied.values())]
        [job] = plan(config.model_copy(update={"prompt": where.prompt}), self.model, [where.seed])
        return self._jobs.setdefault(job.id, job)


def _title(names: Sequence[str], model: str) -> str:
    shown = [*names[:TITLE_NAMES], f"{len(names) - TITLE_NAMES} more schedulers"]
    shown = [*names] if len(names) <= TITLE_NAMES + 1 else shown
    return f"{' and '.join(filter(None, (', '.join(shown[:-1]), shown[-1])))} with {Path(model).name}"


def most_steps(
    grid: Grid, name: str, limit: int, task: Task = TXT2IMG, profile: ProfileName = "diffusers"
) -> int:
    """The most steps of a scheduler within so many UNet calls (or steps that run, by `grid.match`); 0 if none
    fit.
    """
    return limit if grid.match == "steps" else _most_steps(name, limit, grid.match, task, profile)


@lru_cache(maxsize=4096)
def _most_steps(name: str, limit: int, match: str, task: Task, profile: ProfileName) -> int:
    resolved = resolve(name)
    runs = {n: run for n in range(1, MOST_STEPS + 1) if (run := steps_to_run(task, n, profile))}
    work = {n: resolved.unet_calls(run) if match == "unet-calls" else run for n, run in runs.items()}
    fitting = {n: done for n, done in work.items() if done <= limit}
    if match == "seconds":  # the user has not asked for this number, so it may not be refused
        fitting = {n: done for n, done in fitting.items() if _can_run(name, n)}
    return max(fitting, key=lambda n: (fitting[n], -n), default=0)


def all_steps(task: Task) -> Task:
    """The task with a strength at which all of its steps run."""
    return task if isinstance(task, Txt2Img) else task.model_copy(update={"strength": 1.0})


def _can_run(name: str, steps: int) -> bool:
    try:
        check_run(resolve(name), steps, eta=None)
    except ConfigError:
        return False
    return True
