"""The sheets of a grid: grid.png, with labelled axes, split when it would be too large to open."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdapp.errors import InputError
from sdapp.grids.folder import GridCell, ImageGrid
from sdapp.images import Size, decode_file
from sdapp.metadata import containers
from sdapp.metadata.infotext import with_fields
from sdapp.metadata.record import parse_content
from sdapp.pages.sheet import NOT_PAINTED, Block, Table, Tile, draw_sheets, write_sheets

KEPT = 32  # decoded images in memory
LONG = 6  # values of a single axis from which on it is wrapped into several lines


def plan_grid_sheets(grid: ImageGrid, size: Size) -> list[Size]:
    """The sizes of the sheets of a grid whose largest image has this (width, height) in pixels."""
    return [sheet for table, _ in _tables(grid, size, _GridTiles(grid, Path())) for sheet in table.sheets()]


def draw_grid(grid: ImageGrid, folder: Path) -> list[Path]:
    """Draw grid.png, grid-2.png … into the folder of a grid and return their paths.

    Missing images are marked. Deletes sheets of an earlier, larger grid. Raises OutputError.
    """
    sizes = [size for cell in grid.cells if cell.file and (size := _size(folder / cell.file))]
    size = (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else (512, 512)
    facts = f"{grid.model} · seed {grid.seed}"
    drawn = (
        draw_sheets(table, grid.title, facts, blocks)
        for table, blocks in _tables(grid, size, _GridTiles(grid, folder))
    )
    return write_sheets(folder, chain.from_iterable(drawn), _a1111_text(grid, folder))


def _tables(grid: ImageGrid, size: Size, tiles: "_GridTiles") -> Iterator[tuple[Table, list[Block]]]:
    """The tables of the sheets with their blocks: one table, or several if it would be too large."""
    x, y, z = map(grid.labels, range(3))
    corner = " / ".join(reversed([axis.name for axis in grid.axes[:2]]))
    if len(grid.axes) == 1 and len(x) > LONG:
        width = min(range(math.isqrt(len(x) - 1) + 1, len(x)), key=lambda width: (-len(x) % width, width))
        lines = [range(begin, min(begin + width, len(x))) for begin in range(0, len(x), width)]
        table = Table(size, ("",), ("",) * width, len(lines), has_captions=False)
        yield table, [tiles.block(line, range(1), 0, is_first=not line.start) for line in lines]
        return
    columns, rows = len(x), len(y)
    while not (table := Table(size, y[:rows], x[:columns], len(z), corner, has_captions=False)).fits():
        if columns > 1 and (rows == 1 or table.block[0] >= table.block[1]):
            columns = math.ceil(columns / 2)
        else:
            rows = math.ceil(rows / 2)
    for down in _chunks(len(y), rows):
        for across in _chunks(len(x), columns):
            names = tuple(y[row] for row in down)
            labels = tuple(x[column] for column in across)
            table = Table(size, names, labels, len(z), corner, has_captions=False)
            yield table, [tiles.block(across, down, layer) for layer in range(len(z))]


def _chunks(total: int, most: int) -> list[range]:
    return [range(begin, min(begin + most, total)) for begin in range(0, total, most)]


class _GridTiles:
    """Turns cells into tiles."""

    def __init__(self, grid: ImageGrid, folder: Path) -> None:
        self.grid, self.folder = grid, folder
        self._open = lru_cache(KEPT)(_read_image)

    def block(self, across: Sequence[int], down: Sequence[int], layer: int, is_first: bool = True) -> Block:
        """The block with these columns and rows of one value of z."""

        def tile(row: int, column: int) -> Tile | None:
            if column >= len(across):  # the last line of a wrapped axis
                return None
            return self._tile(self.grid.cell(across[column], down[row], layer))

        right = f"{self.grid.axes[2].name}: {self.grid.labels(2)[layer]}" if len(self.grid.axes) > 2 else ""
        labels = tuple(self.grid.labels(0)[column] for column in across)
        return Block(self.grid.prompt if is_first else "", right, tile, columns=labels)

    def _tile(self, cell: GridCell) -> Tile:
        if cell.status == "failed":
            return Tile(message=f"failed: {cell.reason}", is_bad=True)
        if cell.file is None:
            return Tile(message=NOT_PAINTED)
        return Tile(self._open(self.folder / cell.file), "failed: its image cannot be read", is_bad=True)


def _read_image(path: Path) -> Image.Image | None:
    try:
        return decode_file(str(path)).convert("RGB")
    except InputError:
        return None


def _size(path: Path) -> Size | None:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError:
        return None


def _a1111_text(grid: ImageGrid, folder: Path) -> PngInfo | None:
    """The infotext of the first image, with the axes as A1111's script X/Y/Z plot writes them."""
    first = next((cell.file for cell in grid.cells if cell.file), None)
    if first is None:
        return None
    try:
        with Image.open(folder / first) as image:
            found = containers.texts(image.info)
            kind = parse_content(image, folder / first)["job"]["task"]["kind"]
    except (OSError, InputError, LookupError):
        return None
    fields = {"Script": "X/Y/Z plot"}
    for letter, axis in zip("XYZ", grid.axes, strict=False):
        fields |= {f"{letter} Type": axis.a1111_type, f"{letter} Values": axis.a1111_values}
    text = found.get("parameters") or found.get("EXIF UserComment", "")
    info = PngInfo()
    info.add_itxt("parameters", with_fields(text, fields))
    info.add_itxt("XML:com.adobe.xmp", containers.xmp(kind))
    return info
