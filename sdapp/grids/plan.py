"""Plan a grid: the settings and the job of each of its cells, and the loads of models that they need."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path
from secrets import randbelow

from sdapp.batches.items import Item
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, SdappError, gathered
from sdapp.grids.axes import Axis
from sdapp.grids.folder import IMAGES, AxisFacts, GridCell, ImageGrid, last_grid
from sdapp.jobs import Job, LoadKey
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.notes import note_on_last_page, notes_on_line, notes_on_place
from sdapp.planning import plan
from sdapp.settings.layers import Layer, merge, override
from sdapp.settings.output import PLACEHOLDERS
from sdapp.validation import validate

MAX_CELLS = 10_000
GRID_DEFAULTS = {"output.dir": "grid", "batch_size": "auto"}


class GridPlan:
    """The cells of a grid and the jobs that paint them. Writes nothing and imports no torch."""

    def __init__(self, layers: Sequence[Layer], axes: Sequence[Axis], command: str = "") -> None:
        """`command` is the command line, for the page. Raises ConfigError with everything that is refused."""
        self.axes, self.command = axes, command
        defaults = [override(key, value, "sdapp grid") for key, value in GRID_DEFAULTS.items()]
        self._base = merge([*defaults, *layers])
        if (size := self.size) > MAX_CELLS:
            way = "choose fewer values, or use a prompt file with sdapp batch"
            raise ConfigError(
                f"a grid of {size:,} images is too large to look at; at most {MAX_CELLS:,}: {way}"
            )
        self._models: dict[tuple[str | None, ...], Model] = {}
        self.cells = tuple(self._cells())
        first = self.cells[0].config
        self.folder = Path(first.output.dir)
        given = "name" in (self._base.values.get("output") or {})
        name = first.output.name if given else "-".join(f"{{{key}}}" for key in self._name_parts())
        output = first.output.model_copy(update={"dir": str(self.folder / IMAGES), "name": name})
        self.config: RunConfig = first.model_copy(update={"output": output})

    @property
    def size(self) -> int:
        """The number of cells."""
        total = 1
        for axis in self.axes:
            total *= len(axis.values)
        return total

    @property
    def load(self) -> LoadKey:
        """The load of the first cell."""
        return self.cells[0].load

    @property
    def models(self) -> Mapping[LoadKey, Model]:
        """The models that must be loaded, in the order in which they are."""
        return {cell.load: cell.model for cell in self._in_order}

    @property
    def notes(self) -> Iterator[str]:
        yield from notes_on_place(self.config)
        if last := last_grid(self.folder):
            shown = (cell.id for cell in last.cells if cell.file)
            yield from note_on_last_page(self.folder, shown, (cell.job.id for cell in self.cells))
        for cell in self.cells:
            yield from notes_on_line(cell.config, cell.model, cell.job)

    def items(self) -> list[Item]:
        """Every image once; those that share a load of a model follow each other."""
        jobs = {cell.job.id: cell for cell in self._in_order}
        return [Item(cell.job, 0, index, {}, cell.load) for index, cell in enumerate(jobs.values())]

    @cached_property
    def grid(self) -> ImageGrid:
        """The grid before anything is painted."""
        first = self.cells[0]
        return ImageGrid(
            axes=tuple(AxisFacts.of(axis) for axis in self.axes),
            cells=tuple(GridCell(cell.job.id, cell.place) for cell in self.cells),
            prompt=str(first.config.prompt),
            seed=first.job.seed,
            model=" and ".join(dict.fromkeys(model.name for model in self.models.values())),
            command=self.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @cached_property
    def _in_order(self) -> list["PlannedCell"]:
        """The cells, grouped by load."""
        loads = dict.fromkeys(cell.load for cell in self.cells)
        order = {load: number for number, load in enumerate(loads)}
        return sorted(self.cells, key=lambda cell: order[cell.load])

    def _name_parts(self) -> list[str]:
        keys = [axis.key for axis in self.axes if axis.key in PLACEHOLDERS]
        return [*dict.fromkeys(("prompt", *keys, "seed", "id"))]

    def _cells(self) -> Iterator["PlannedCell"]:
        """Check the settings of every cell. Raises one error with everything that is refused."""
        errors: list[SdappError] = []
        seed: int | None = None
        for place in product(*(range(len(axis.values)) for axis in reversed(self.axes))):
            try:
                config = self._config(place[::-1])
                if config.seed is None:
                    seed = self._own_seed(config) if seed is None else seed
                    config = config.model_copy(update={"seed": seed})
                model = self._model(config)
                [job] = plan(config, model)
                cell = PlannedCell(place[::-1], config, model, job)
            except SdappError as exc:
                errors.append(exc)
            else:
                if not errors:
                    yield cell
        if errors:
            raise gathered(errors)

    def _config(self, place: Sequence[int]) -> RunConfig:
        settings = self._base
        pairs = sorted(zip(self.axes, place, strict=True), key=lambda pair: bool(pair[0].word))
        for axis, index in pairs:  # words are replaced in the prompts that other axes give
            settings = axis.apply(settings, index)
        config = validate(settings)
        if config.count != 1:
            raise ConfigError("count: a grid has one image in each cell; for more seeds: --z seed=1-3")
        return config

    def _own_seed(self, config: RunConfig) -> int:
        """The seed of a grid without one: that of the last one in its folder, else a random one."""
        last = last_grid(Path(config.output.dir))
        return last.seed if last else randbelow(2**32)

    def _model(self, config: RunConfig) -> Model:
        key = config.model, config.revision, config.vae, config.base
        if key not in self._models:
            self._models[key] = locate_model(*key)
        return self._models[key]


@dataclass(frozen=True)
class PlannedCell:
    """One cell: the index of its value on each axis, and what paints it."""

    place: tuple[int, ...]
    config: RunConfig
    model: Model
    job: Job

    @cached_property
    def load(self) -> LoadKey:
        return LoadKey.of(self.config, self.model)
