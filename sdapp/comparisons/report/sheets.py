"""Contact sheets of a comparison: all images with their errors and times, on as few PNG files as possible."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sdapp.comparisons.cells import UNITS, Cell, Combination, Comparison, Reference, budget, read_comparison
from sdapp.comparisons.folder import open_image
from sdapp.comparisons.statistics import middle, rank, stochastic
from sdapp.errors import InputError
from sdapp.images import Size
from sdapp.pages.format import LogScale, number, seconds, viridis
from sdapp.pages.sheet import NOT_PAINTED, Block, Table, Tile, draw_sheets, write_sheets


def plan_sheets(image: Size, schedulers: Sequence[str], columns: int, combinations: int) -> list[Size]:
    """The sizes of the sheets that a comparison will need, known before anything is painted.

    `image` is the (width, height) of one image in pixels, `combinations` the number of prompts × seeds ×
    varied values. Raises ConfigError if one combination does not fit on a sheet.
    """
    return Table(image, tuple(schedulers), ("",) * columns, combinations, has_reference=True).sheets()


def build_sheets(folder: Path) -> list[Path]:
    """Draw grid.png, grid-2.png … into the folder of a comparison and return their paths.

    The comparison may be unfinished: missing images are marked. Deletes sheets of an earlier, larger run.
    Raises MissingInputError and InputError if the results cannot be read, ConfigError like `plan_sheets`, and
    OutputError.
    """
    comparison = read_comparison(folder)
    files = [item.file for item in comparison.references] + [cell.file for cell in comparison.cells]
    size = next((image.size for file in files if file and (image := _open(folder, file))), (512, 512))
    column, random = middle(comparison), stochastic(comparison)
    rows = rank(comparison, column)
    combinations = list(comparison.combinations())
    table = Table(
        size,
        rows,
        tuple(f"{each:g}" for each in comparison.columns),
        len(combinations),
        UNITS[comparison.match],
        tuple("stochastic" if name in random else "" for name in rows),
        has_reference=True,
    )
    facts = f"by median solver error at {budget(column, comparison.match)}"
    facts += f" · {comparison.model} · {comparison.hardware}, {comparison.dtype}"
    tiles = _Tiles(comparison, folder, rows)
    blocks = [tiles.block(where) for where in combinations]
    return write_sheets(folder, draw_sheets(table, comparison.title, facts, blocks))


def _open(folder: Path, file: str) -> Image.Image | None:
    """An image in RGB, or None if it cannot be read."""
    try:
        return open_image(folder, file).convert("RGB")
    except InputError:
        return None


class _Tiles:
    """Turns cells and references into tiles."""

    def __init__(self, comparison: Comparison, folder: Path, rows: Sequence[str]) -> None:
        self.comparison, self.folder, self.rows = comparison, folder, rows
        self.scale = LogScale.over(cell.solver_error for cell in comparison.cells)

    def block(self, where: Combination) -> Block:
        """The block of a combination of prompt, seed and varied values."""

        def tile(row: int, column: int) -> Tile:
            key = where.key, self.rows[row], self.comparison.columns[column]
            return self._cell(self.comparison.cell_at.get(key))

        varied = (f"{name.replace('_', ' ')} {value}" for name, value in where.varied.items())
        reference = self._reference(self.comparison.reference_of.get(where.key))
        return Block(where.prompt, " · ".join((f"seed {where.seed}", *varied)), tile, reference)

    def _reference(self, reference: Reference | None) -> Tile:
        image = _open(self.folder, reference.file) if reference and reference.file else None
        return Tile(image, NOT_PAINTED, left=reference.label if reference else "")

    def _cell(self, cell: Cell | None) -> Tile:
        """An image with its error, a bar for it and its time; or why there is no image."""
        if cell is None or cell.status == "missing":
            return Tile(message=NOT_PAINTED)
        if cell.status == "failed":
            return Tile(message=f"failed: {cell.reason}", is_bad=True)
        image = _open(self.folder, cell.file) if cell.file else None
        time = seconds(cell.seconds) if cell.seconds is not None else ""
        error, bar = "", None
        if cell.solver_error is not None:
            place = self.scale.at(cell.solver_error)
            error, bar = number(cell.solver_error), (0.04 + 0.96 * place, viridis(place))
        return Tile(image, "failed: its image cannot be read", True, error, time, bar)
