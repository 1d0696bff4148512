"""The folder of a grid: grid.json, which says what the grid is, and the images in it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sdapp.batches.finished import Finished
from sdapp.batches.ledger import read_ledger
from sdapp.errors import InputError, MissingInputError
from sdapp.grids.axes import Axis
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.files import overwrite
from sdapp.settings.messages import edited_file

GRID_FILE, IMAGES = "grid.json", "images"
CHECKED = ConfigDict(extra="forbid")
Place = tuple[int, ...]  # the index of a value on each axis: x, y, z


@dataclass(frozen=True)
class AxisFacts:
    """An axis as it is shown."""

    __pydantic_config__ = CHECKED

    name: str
    labels: tuple[str, ...]
    a1111_type: str
    a1111_values: str

    @classmethod
    def of(cls, axis: Axis) -> Self:
        return cls(axis.name, axis.labels, axis.a1111_type, axis.a1111_values)


@dataclass(frozen=True)
class GridCell:
    """One image of a grid; several cells may show the same one."""

    __pydantic_config__ = CHECKED

    id: str  # of its job, 12 hex digits
    place: Place
    status: Literal["done", "failed", "missing"] = "missing"  # missing: not painted yet
    file: str | None = None  # relative to the folder of the grid
    reason: str | None = None  # why it failed


@dataclass(frozen=True)
class ImageGrid:
    """A grid: one, two or three axes, and a cell for each combination of their values."""

    __pydantic_config__ = CHECKED

    axes: tuple[AxisFacts, ...]
    cells: tuple[GridCell, ...]
    prompt: str
    seed: int
    model: str
    command: str  # empty if it was started from Python
    created: str  # ISO 8601

    @cached_property
    def title(self) -> str:
        """`guidance_scale, scheduler`."""
        return ", ".join(axis.name for axis in self.axes)

    @cached_property
    def at(self) -> dict[Place, GridCell]:
        """The cells by their place."""
        return {cell.place: cell for cell in self.cells}

    def labels(self, number: int) -> tuple[str, ...]:
        """The labels of the axis x (0), y (1) or z (2); one empty label for an axis that is not there."""
        return self.axes[number].labels if number < len(self.axes) else ("",)

    def labels_at(self, cell: GridCell) -> list[str]:
        """The values of a cell, one for each axis."""
        return [axis.labels[index] for axis, index in zip(self.axes, cell.place, strict=True)]

    def cell(self, x: int, y: int, z: int) -> GridCell:
        return self.at[(x, y, z)[: len(self.axes)]]


CODEC: TypeAdapter[Any] = TypeAdapter(ImageGrid)


def write_grid(grid: ImageGrid, folder: Path) -> None:
    """Write grid.json, whole or not at all. Raises OutputError."""
    overwrite(folder / GRID_FILE, [CODEC.dump_json(grid, indent=2) + b"\n"])


def read_grid(folder: Path) -> ImageGrid:
    """Read grid.json and look which images are there. Raises MissingInputError, InputError."""
    path = folder / GRID_FILE
    try:
        grid: ImageGrid = CODEC.validate_json(path.read_bytes())
    except OSError as exc:
        raise MissingInputError(
            f"cannot read {path}: {exc.strerror}; is {folder} the folder of a grid?"
        ) from exc
    except ValidationError as exc:
        raise edited_file(str(path), exc) from exc
    return replace(grid, cells=tuple(_look(grid, folder)))


def _look(grid: ImageGrid, folder: Path) -> Iterator[GridCell]:
    images = folder / IMAGES
    done = {job: name for suffix in SUFFIXES.values() for job, name in Finished(images, suffix).done.items()}
    reasons = {line.id: line.error for line in read_ledger(images) if line.status != "done"}
    for cell in grid.cells:
        if name := done.get(cell.id):
            yield replace(cell, status="done", file=f"{IMAGES}/{name}", reason=None)
        elif cell.id in reasons:
            yield replace(cell, status="failed", file=None, reason=reasons[cell.id])
        else:
            yield replace(cell, status="missing", file=None, reason=None)


def last_grid(folder: Path) -> ImageGrid | None:
    """The grid that was painted into a folder before, finished or not; None if there is none."""
    with suppress(InputError):
        return read_grid(folder)
    return None
