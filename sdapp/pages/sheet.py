"""Contact sheets: tables of images with labels, on as few PNG files as image viewers can open."""

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import count
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from sdapp.errors import ConfigError
from sdapp.images import Size
from sdapp.outputs.files import overwrite

MAX_SIDE, MAX_PIXELS = 16_384, 80_000_000  # browsers and Pillow open these without a warning
READABLE = 128  # pixels; smaller images are enlarged by a whole factor, to have room for their labels
INK, SOFT, LINE, EMPTY, BAD, PAPER = "#1a1b1e", "#6a6d73", "#dededa", "#f1f1ed", "#a3371f", "#ffffff"
SMALL, TITLE, PROMPT = 0.85, 2.0, 1.1  # sizes of letters, relative to the normal one
NOT_PAINTED = "not painted yet"
WIDEST_NAMES = 2  # of rows, in images
Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Tile:
    """An image, or a message where there is none, and what stands below it."""

    image: Image.Image | None = None
    message: str = ""
    is_bad: bool = False
    left: str = ""
    right: str = ""
    bar: tuple[float, str] | None = None  # its length, 0 to 1, and its colour


@dataclass(frozen=True)
class Block:
    """One table of a sheet: the line above it, and the tiles by row and column."""

    left: str
    right: str
    tile: Callable[[int, int], Tile | None]
    reference: Tile | None = None  # beside the table, with its label in `left`
    columns: tuple[str, ...] | None = None  # if they are not those of the table


@dataclass(frozen=True)
class Table:
    """What all blocks of a sheet have: the size of an image, and the names of rows and columns."""

    image: Size
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: int
    corner: str = ""  # above the names of the rows
    notes: tuple[str, ...] = ()  # below the names of the rows
    has_reference: bool = False
    has_captions: bool = True  # below the images

    @cached_property
    def cell(self) -> Size:
        """The size of one image on the sheet."""
        zoom = math.ceil(READABLE / max(self.image))
        return self.image[0] * zoom, self.image[1] * zoom

    @cached_property
    def text(self) -> int:
        """The font size; all distances are multiples of it."""
        return min(max(self.cell[0] // 10, 13), 26)

    @cached_property
    def step(self) -> Size:
        """The distance from one cell to the next."""
        return self.cell[0] + self.text, self.cell[1] + round((2.6 if self.has_captions else 0.6) * self.text)

    @cached_property
    def names(self) -> int:
        """The distance from the left edge of a block to the names of the rows, right of the reference."""
        return self.cell[0] + 2 * self.text if self.has_reference else 0

    @cached_property
    def widest_name(self) -> int:
        """The width of the names of rows; longer ones are broken into lines."""
        names = self.rows if self.has_reference else (*self.rows, self.corner)  # beside one there is room
        widest = max(_font(self.text).getlength(name) for name in names)
        return min(math.ceil(widest), max(WIDEST_NAMES * self.cell[0], 12 * self.text))

    @cached_property
    def first_cell(self) -> Size:
        """The distance from the corner of a block to the corner of its first cell."""
        gap = 2 * self.text if self.widest_name else 0
        return self.names + self.widest_name + gap, 5 * self.text

    @cached_property
    def block(self) -> Size:
        """The size of one block."""
        left, top = self.first_cell
        return left + len(self.columns) * self.step[0] - self.text, top + len(self.rows) * self.step[1]

    @property
    def margin(self) -> int:
        return 3 * self.text

    @property
    def top(self) -> int:
        """The top of the first block, below the title of the sheet."""
        return self.margin + round(5.5 * self.text)

    def size(self, across: int, down: int) -> Size:
        """The size of a sheet with `across` × `down` blocks."""
        width = 2 * self.margin + across * self.block[0] + (across - 1) * self.margin
        return width, self.top + down * (self.block[1] + self.margin)

    def fits(self) -> bool:
        """Whether one block is no larger than a sheet may be."""
        return _fits(self.size(1, 1))

    @cached_property
    def across(self) -> int:
        """How many blocks are side by side, so that the sheet is about square.

        Raises ConfigError if a block is larger than a sheet.
        """
        square = max(1, round(math.sqrt(self.blocks * self.block[1] / self.block[0])))
        for blocks in range(min(square, self.blocks), 0, -1):
            if _fits(self.size(blocks, 1)):
                return blocks
        width, height = self.size(1, 1)
        raise ConfigError(
            f"a contact sheet of {len(self.rows)} rows × {len(self.columns)} columns would have "
            f"{width:,} × {height:,} pixels; the limit is {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all: "
            "choose a smaller --size, fewer rows or fewer columns"
        )

    @cached_property
    def per_sheet(self) -> int:
        """Blocks on a full sheet."""
        down = next(rows for rows in count(1) if not _fits(self.size(self.across, rows + 1)))
        return self.across * down

    def sheets(self) -> list[Size]:
        """The sizes of all sheets; the last one is no larger than its blocks need."""
        full, rest = divmod(self.blocks, self.per_sheet)
        last = [self.size(min(rest, self.across), math.ceil(rest / self.across))] if rest else []
        return [self.size(self.across, self.per_sheet // self.across)] * full + last


def _fits(size: Size) -> bool:
    return max(size) <= MAX_SIDE and size[0] * size[1] <= MAX_PIXELS


def draw_sheets(table: Table, title: str, facts: str, blocks: Sequence[Block]) -> Iterator[Image.Image]:
    """Draw each sheet with its blocks. Raises ConfigError if a block is larger than a sheet."""
    for number, size in enumerate(table.sheets()):
        sheet, done = _Sheet(table, title, facts, size), number * table.per_sheet
        for place, block in enumerate(blocks[done : done + table.per_sheet]):
            sheet.draw_block(place, block)
        yield sheet.canvas


def write_sheets(folder: Path, sheets: Iterable[Image.Image], info: PngInfo | None = None) -> list[Path]:
    """Write grid.png, grid-2.png … into a folder, and delete those of an earlier, larger run.

    The first one gets the texts of `info`. Returns the paths. Raises OutputError.
    """
    paths: list[Path] = []
    for sheet in sheets:
        buffer = BytesIO()
        sheet.save(buffer, "PNG", compress_level=1, pnginfo=info if not paths else None)
        paths.append(folder / _name(len(paths) + 1))
        overwrite(paths[-1], [buffer.getvalue()])
    index = len(paths) + 1
    while (folder / _name(index)).exists():
        (folder / _name(index)).unlink()
        index += 1
    return paths


def _name(index: int) -> str:
    return f"grid{f'-{index}' if index > 1 else ''}.png"


@lru_cache
def _font(size: int) -> Font:
    """Pillow's built-in font; characters that it does not have become a box."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size, and all wheels of Pillow have FreeType
    return font


def _fit_line(text: str, width: float, font: Font) -> str:
    """The text on one line, cut to a width in pixels."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:1000]).split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


class _Sheet:
    """One contact sheet, drawn on `canvas`."""

    def __init__(self, table: Table, title: str, facts: str, size: Size) -> None:
        """Start a sheet with its title and no block."""
        self.table = table
        self.canvas = Image.new("RGB", size, PAPER)
        self.pen = ImageDraw.Draw(self.canvas)
        left, width = table.margin, size[0] - 2 * table.margin
        self._write((left, left), title, width, INK, TITLE)
        self._write((left, left + round(2.9 * table.text)), facts, width)

    def draw_block(self, place: int, block: Block) -> None:
        """Draw all images of one block; `place` counts the blocks of this sheet from 0."""
        table = self.table
        down, right = divmod(place, table.across)
        left = table.margin + right * (table.block[0] + table.margin)
        top = table.top + down * (table.block[1] + table.margin)
        self._draw_heading((left, top), block)
        first, top = left + table.first_cell[0], top + table.first_cell[1]
        if block.reference:
            self._draw_reference((left, top), block.reference)
        for row, name in enumerate(table.rows):
            corner = (left + table.names, top + row * table.step[1])
            below = self._write_name(corner, name)
            note = table.notes[row] if table.notes else ""
            self._write((corner[0], below), note, table.first_cell[0], SOFT, SMALL)
            for column in range(len(table.columns)):
                if tile := block.tile(row, column):
                    self._draw_tile((first + column * table.step[0], corner[1]), tile)

    def _write_name(self, corner: Size, name: str) -> int:
        """Write the name of a row, over several lines if it is long; return where it ends."""
        table, height = self.table, round(1.4 * self.table.text)
        letters = max(8, int(1.9 * table.widest_name / table.text))
        is_long = _font(table.text).getlength(name) > table.widest_name
        lines = textwrap.wrap(name, letters) if is_long else [name]
        shown = lines[: max(1, table.cell[1] // height)]
        for number, line in enumerate(shown):
            cut = "…" if number == len(shown) - 1 < len(lines) - 1 else ""
            self._write(
                (corner[0], corner[1] + number * height), line + cut, table.widest_name + table.text, INK
            )
        return corner[1] + len(shown) * height

    def _draw_heading(self, corner: Size, block: Block) -> None:
        """The line above a block, its two texts, and the labels of its columns."""
        table, text, (left, top) = self.table, self.table.text, corner
        self.pen.line((left, top, left + table.block[0] - 1, top), LINE)
        taken = _font(text).getlength(block.right)
        self._write((left + table.block[0] - round(taken), top + text), block.right, taken + 1)
        self._write((left, top + text), block.left, table.block[0] - taken - 2 * text, INK, PROMPT)
        below = top + round(3.3 * text)
        self._write((left + table.names, below), table.corner, table.first_cell[0])
        for index, label in enumerate(table.columns if block.columns is None else block.columns):
            line = _fit_line(label, table.cell[0], _font(text))
            middle = left + table.first_cell[0] + index * table.step[0] + table.cell[0] / 2
            self._write((round(middle - _font(text).getlength(line) / 2), below), line, 99 * text, INK)

    def _draw_reference(self, corner: Size, tile: Tile) -> None:
        self._draw_image(corner, tile)
        width, text = self.table.cell[0], self.table.text
        below = corner[1] + self.table.cell[1] + text // 2
        self._write((corner[0], below), "reference", width, SOFT, SMALL)
        for line in tile.left.split(", "):  # the scheduler, its steps
            below += round(1.2 * text)
            self._write((corner[0], below), line, width, INK, SMALL)

    def _draw_tile(self, corner: Size, tile: Tile) -> None:
        """An image with what stands below it, or why there is no image."""
        self._draw_image(corner, tile)
        text, width, left = self.table.text, self.table.cell[0], corner[0]
        top = corner[1] + self.table.cell[1] + text // 4
        right = left + width - math.ceil(self._font(SMALL).getlength(tile.right))
        self._write((right, top + text // 2), tile.right, width, SOFT, SMALL)
        if tile.bar:
            length, colour = tile.bar
            bottom = top + max(2, text // 5) - 1
            self.pen.rectangle((left, top, left + width - 1, bottom), EMPTY)
            self.pen.rectangle((left, top, left + max(1, round(width * length)) - 1, bottom), colour)
        self._write((left, top + text // 2), tile.left, right - left, INK, SMALL)

    def _draw_image(self, corner: Size, tile: Tile) -> None:
        if tile.image is None:
            return self._draw_frame(corner, tile.message, BAD if tile.is_bad else SOFT)
        width, height = self.table.cell
        how = Image.Resampling.NEAREST if width % tile.image.width == 0 else Image.Resampling.LANCZOS
        fitted = ImageOps.contain(tile.image, (width, height), how)  # images may differ in shape
        left, top = corner[0] + (width - fitted.width) // 2, corner[1] + (height - fitted.height) // 2
        self.canvas.paste(fitted, (left, top))
        return None

    def _draw_frame(self, corner: Size, message: str, colour: str) -> None:
        """A frame with a message, where there is no image."""
        (width, height), font = self.table.cell, self._font(0.8)
        self.pen.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), None, LINE)
        letters = max(8, round(1.8 * (width - 12) / font.size))
        lines = textwrap.wrap(_fit_line(message, 6 * width, font), letters)
        shown = "\n".join(lines[: max(1, int(height / font.size / 1.4) - 1)])
        middle = (corner[0] + width / 2, corner[1] + height / 2)
        self.pen.multiline_text(middle, shown, colour, font, anchor="mm", align="center")

    def _font(self, scale: float) -> Font:
        return _font(max(11, round(scale * self.table.text)))

    def _write(self, corner: Size, text: str, width: float, colour: str = SOFT, scale: float = 1.0) -> None:
        font = self._font(scale)
        self.pen.text(corner, _fit_line(text, width, font), colour, font)
