"""Contact sheets: all images of a comparison with labels, on as few PNG files as image viewers can open."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import count
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sdapp.comparisons.cells import Cell, Combination, Comparison, Reference, read_comparison
from sdapp.comparisons.folder import open_image
from sdapp.comparisons.report.format import UNITS, LogScale, budget, number, seconds, viridis
from sdapp.comparisons.statistics import rank, stochastic
from sdapp.errors import ConfigError, InputError
from sdapp.images import Size
from sdapp.outputs.files import overwrite

MAX_SIDE, MAX_PIXELS = 16_384, 80_000_000  # browsers and Pillow open these without a warning
READABLE = (
    128  # pixels; smaller images are enlarged by a whole factor, so that there is room for their labels
)
INK, SOFT, LINE, EMPTY, BAD, PAPER = "#1a1b1e", "#6a6d73", "#dededa", "#f1f1ed", "#a3371f", "#ffffff"
SMALL, TITLE, PROMPT = 0.85, 2.0, 1.1  # sizes of letters, relative to the normal one
NOT_PAINTED = "not painted yet"
Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class _Layout:
    """Positions in pixels. A block holds the images of one combination of prompt, seed and varied values."""

    image: Size
    schedulers: tuple[str, ...]
    columns: int
    blocks: int

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
        return self.cell[0] + self.text, self.cell[1] + round(2.6 * self.text)

    @cached_property
    def names(self) -> int:
        """The distance from the left edge of a block to the scheduler names, right of the reference."""
        return self.cell[0] + 2 * self.text

    @cached_property
    def first_cell(self) -> Size:
        """The distance from the corner of a block to the corner of its first cell."""
        widest = max(_font(self.text).getlength(name) for name in self.schedulers)
        return self.names + math.ceil(widest) + 2 * self.text, 5 * self.text

    @cached_property
    def block(self) -> Size:
        """The size of one block."""
        left, top = self.first_cell
        width = left + self.columns * self.step[0] - self.text
        return width, top + len(self.schedulers) * self.step[1]

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
            f"a contact sheet of {len(self.schedulers)} schedulers × {self.columns} columns would have "
            f"{width:,} × {height:,} pixels; the limit is {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all: "
            "choose a smaller --width and --height, fewer schedulers or fewer columns"
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


def plan_sheets(image: Size, schedulers: Sequence[str], columns: int, combinations: int) -> list[Size]:
    """The sizes of the sheets that a comparison will need, known before anything is painted.

    `image` is the (width, height) of one image in pixels, `combinations` the number of prompts × seeds ×
    varied values. Raises ConfigError if one combination does not fit on a sheet.
    """
    return _Layout(image, tuple(schedulers), columns, combinations).sheets()


def build_sheets(folder: Path) -> list[Path]:
    """Draw grid.png, grid-2.png … into the folder of a comparison and return their paths.

    The comparison may be unfinished: missing images are marked. Deletes sheets of an earlier, larger run.
    Raises MissingInputError and InputError if the results cannot be read, ConfigError like `plan_sheets`, and
    OutputError.
    """
    comparison = read_comparison(folder)
    files = [item.file for item in comparison.references] + [cell.file for cell in comparison.cells]
    size = next((image.size for file in files if file and (image := _open(folder, file))), (512, 512))
    combinations = list(comparison.combinations())
    layout = _Layout(size, comparison.schedulers, len(comparison.columns), len(combinations))
    paths: list[Path] = []
    for size in layout.sheets():
        sheet, done = _Sheet(comparison, folder, layout, size), len(paths) * layout.per_sheet
        for place, combination in enumerate(combinations[done : done + layout.per_sheet]):
            sheet.draw_block(place, combination)
        buffer = BytesIO()
        sheet.canvas.save(buffer, "PNG", compress_level=1)
        paths.append(folder / _name(len(paths) + 1))
        overwrite(paths[-1], [buffer.getvalue()])
    index = len(paths) + 1
    while (folder / _name(index)).exists():
        (folder / _name(index)).unlink()
        index += 1
    return paths


def _name(index: int) -> str:
    return f"grid{f'-{index}' if index > 1 else ''}.png"


def _open(folder: Path, file: str) -> Image.Image | None:
    """An image in RGB, or None if it cannot be read."""
    try:
        return open_image(folder, file).convert("RGB")
    except InputError:
        return None


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

    def __init__(self, comparison: Comparison, folder: Path, layout: _Layout, size: Size) -> None:
        """Start a sheet with its title and no block."""
        self.comparison, self.folder, self.layout = comparison, folder, layout
        middle = comparison.columns[len(comparison.columns) // 2]
        self.rows, self.random = rank(comparison, middle), stochastic(comparison)
        self.scale = LogScale.over(cell.solver_error for cell in comparison.cells)
        self.canvas = Image.new("RGB", size, PAPER)
        self.pen = ImageDraw.Draw(self.canvas)
        facts = f"by median solver error at {budget(middle, comparison.match)}"
        facts += f" · {comparison.model} · {comparison.hardware}, {comparison.dtype}"
        left, width = layout.margin, size[0] - 2 * layout.margin
        self._write((left, left), comparison.title, width, INK, TITLE)
        self._write((left, left + round(2.9 * layout.text)), facts, width)

    def draw_block(self, place: int, where: Combination) -> None:
        """Draw all images of one combination; `place` counts the blocks of this sheet from 0."""
        layout, text = self.layout, self.layout.text
        down, right = divmod(place, layout.across)
        left = layout.margin + right * (layout.block[0] + layout.margin)
        top = layout.top + down * (layout.block[1] + layout.margin)
        self._draw_heading((left, top), where)
        first, top = left + layout.first_cell[0], top + layout.first_cell[1]
        self._draw_reference((left, top), self.comparison.reference_of.get(where.key))
        for row, name in enumerate(self.rows):
            corner = (left + layout.names, top + row * layout.step[1])
            self._write(corner, name, layout.first_cell[0], INK)
            if name in self.random:
                below = (corner[0], corner[1] + round(1.4 * text))
                self._write(below, "stochastic", layout.first_cell[0], SOFT, SMALL)
            for index, column in enumerate(self.comparison.columns):
                corner = (first + index * layout.step[0], corner[1])
                self._draw_cell(corner, self.comparison.cell_at.get((where.key, name, column)))

    def _draw_heading(self, corner: Size, where: Combination) -> None:
        """The line above a block, its prompt, its seed and varied values, and the labels of its columns."""
        layout, text, (left, top) = self.layout, self.layout.text, corner
        self.pen.line((left, top, left + layout.block[0] - 1, top), LINE)
        varied = (f"{name.replace('_', ' ')} {value}" for name, value in where.varied.items())
        right = " · ".join((f"seed {where.seed}", *varied))
        taken = _font(text).getlength(right)
        self._write((left + layout.block[0] - round(taken), top + text), right, taken + 1)
        self._write((left, top + text), where.prompt, layout.block[0] - taken - 2 * text, INK, PROMPT)
        below = top + round(3.3 * text)
        self._write((left + layout.names, below), UNITS[self.comparison.match], layout.first_cell[0])
        for index, column in enumerate(self.comparison.columns):
            middle = left + layout.first_cell[0] + index * layout.step[0] + layout.cell[0] / 2
            label = f"{column:g}"
            self._write((round(middle - _font(text).getlength(label) / 2), below), label, 99 * text, INK)

    def _draw_reference(self, corner: Size, reference: Reference | None) -> None:
        if reference is None or not (reference.file and self._paste(corner, reference.file)):
            self._draw_frame(corner, NOT_PAINTED, SOFT)
        width, text = self.layout.cell[0], self.layout.text
        below = corner[1] + self.layout.cell[1] + text // 2
        self._write((corner[0], below), "reference", width, SOFT, SMALL)
        for line in (reference.label if reference else "").split(", "):  # the scheduler, its steps
            below += round(1.2 * text)
            self._write((corner[0], below), line, width, INK, SMALL)

    def _draw_cell(self, corner: Size, cell: Cell | None) -> None:
        """An image with its error, a bar for it and its time; or why there is no image."""
        if cell is None or cell.status == "missing":
            return self._draw_frame(corner, NOT_PAINTED, SOFT)
        if cell.status == "failed":
            return self._draw_frame(corner, f"failed: {cell.reason}", BAD)
        if not (cell.file and self._paste(corner, cell.file)):
            self._draw_frame(corner, "failed: its image cannot be read", BAD)
        text, width, left = self.layout.text, self.layout.cell[0], corner[0]
        top = corner[1] + self.layout.cell[1] + text // 4
        time = seconds(cell.seconds) if cell.seconds is not None else ""
        right = left + width - math.ceil(self._font(SMALL).getlength(time))
        self._write((right, top + text // 2), time, width, SOFT, SMALL)
        if cell.solver_error is not None:
            place, bottom = self.scale.at(cell.solver_error), top + max(2, text // 5) - 1
            filled = max(1, round(width * (0.04 + 0.96 * place)))
            self.pen.rectangle((left, top, left + width - 1, bottom), EMPTY)
            self.pen.rectangle((left, top, left + filled - 1, bottom), viridis(place))
            self._write((left, top + text // 2), number(cell.solver_error), right - left, INK, SMALL)
        return None

    def _paste(self, corner: Size, file: str) -> bool:
        """Put an image, fitted to a cell, onto the sheet; False if it cannot be read."""
        width, height = self.layout.cell
        if (image := _open(self.folder, file)) is None:
            return False
        how = Image.Resampling.NEAREST if width % image.width == 0 else Image.Resampling.LANCZOS
        fitted = ImageOps.contain(image, (width, height), how)  # images may differ in shape
        left, top = corner[0] + (width - fitted.width) // 2, corner[1] + (height - fitted.height) // 2
        self.canvas.paste(fitted, (left, top))
        return True

    def _draw_frame(self, corner: Size, message: str, colour: str) -> None:
        """A frame with a message, where there is no image."""
        (width, height), font = self.layout.cell, self._font(0.8)
        self.pen.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), None, LINE)
        letters = max(8, round(1.8 * (width - 12) / font.size))
        lines = textwrap.wrap(_fit_line(message, 6 * width, font), letters)
        shown = "\n".join(lines[: max(1, int(height / font.size / 1.4) - 1)])
        middle = (corner[0] + width / 2, corner[1] + height / 2)
        self.pen.multiline_text(middle, shown, colour, font, anchor="mm", align="center")

    def _font(self, scale: float) -> Font:
        return _font(max(11, round(scale * self.layout.text)))

    def _write(self, corner: Size, text: str, width: float, colour: str = SOFT, scale: float = 1.0) -> None:
        font = self._font(scale)
        self.pen.text(corner, _fit_line(text, width, font), colour, font)
