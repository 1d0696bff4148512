"""Contact sheets: the whole comparison as labelled images, on as few sheets as viewers can open."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import count, product
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sdapp import images
from sdapp.comparisons import cells as results
from sdapp.comparisons import statistics
from sdapp.comparisons.cells import Cell, Comparison, Reference
from sdapp.comparisons.report import format
from sdapp.errors import ConfigError, InputError
from sdapp.images import Size
from sdapp.outputs.files import overwrite

MAX_SIDE, MAX_PIXELS = 16_384, 80_000_000  # what browsers and Pillow open without being asked to
READABLE = 128  # pixels: smaller images are enlarged by a whole factor, so that their labels fit below
INK, SOFT, LINE, EMPTY, BAD, PAPER = "#1a1b1e", "#6a6d73", "#dededa", "#f1f1ed", "#a3371f", "#ffffff"
Font = ImageFont.FreeTypeFont
Chosen = tuple[str, int, tuple[results.Value, ...]]  # prompt, seed, values of the other keys


@dataclass(frozen=True)
class _Layout:
    """Where things are, in pixels: a block holds the images of one prompt, seed and set of varied keys."""

    picture: Size
    schedulers: tuple[str, ...]
    columns: int
    blocks: int

    @cached_property
    def cell(self) -> Size:
        zoom = math.ceil(READABLE / max(self.picture))
        return self.picture[0] * zoom, self.picture[1] * zoom

    @cached_property
    def text(self) -> int:
        """The size of the letters, from which every distance is taken."""
        return min(max(self.cell[0] // 10, 13), 26)

    @cached_property
    def step(self) -> Size:
        """From one cell to the next."""
        return self.cell[0] + self.text, self.cell[1] + round(2.6 * self.text)

    @cached_property
    def names(self) -> int:
        """From the left edge of a block to its scheduler names, right of the reference."""
        return self.cell[0] + 2 * self.text

    @cached_property
    def cells(self) -> Size:
        """From the corner of a block to its first cell."""
        widest = max(_font(self.text).getlength(name) for name in self.schedulers)
        return self.names + math.ceil(widest) + 2 * self.text, 5 * self.text

    @cached_property
    def block(self) -> Size:
        return (
            self.cells[0] + self.columns * self.step[0] - self.text,
            self.cells[1] + len(self.schedulers) * self.step[1],
        )

    @property
    def margin(self) -> int:
        return 3 * self.text

    @property
    def top(self) -> int:
        """Of the first block: below the title of the sheet."""
        return self.margin + round(5.5 * self.text)

    def size(self, across: int, down: int) -> Size:
        """Of a sheet with so many blocks."""
        return (
            2 * self.margin + across * self.block[0] + (across - 1) * self.margin,
            self.top + down * (self.block[1] + self.margin),
        )

    @cached_property
    def across(self) -> int:
        """Blocks side by side: as many as make sheets about as wide as high, or fit."""
        even = max(1, round(math.sqrt(self.blocks * self.block[1] / self.block[0])))
        return next(
            (number for number in range(min(even, self.blocks), 0, -1) if _fits(self.size(number, 1))), 0
        )

    @cached_property
    def down(self) -> int:
        """Blocks below each other on a full sheet. Raises ConfigError if not even one block fits."""
        if not self.across:
            width, height = self.size(1, 1)
            raise ConfigError(
                f"a contact sheet of {len(self.schedulers)} schedulers × {self.columns} columns needs {width:,} × {height:,} "
                f"pixels; {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all can be opened everywhere: "
                "choose a smaller --width and --height, fewer schedulers or fewer columns"
            )
        return next(number for number in count(1) if not _fits(self.size(self.across, number + 1)))

    def sheets(self) -> list[Size]:
        """The sizes of all sheets, each no larger than its blocks need."""
        full, rest = divmod(self.blocks, self.across * self.down if self.down else 1)
        last = [self.size(min(rest, self.across), math.ceil(rest / self.across))] if rest else []
        return [self.size(self.across, self.down)] * full + last


def _fits(size: Size) -> bool:
    return max(size) <= MAX_SIDE and size[0] * size[1] <= MAX_PIXELS


def plan_sheets(picture: Size, schedulers: Sequence[str], columns: int, combinations: int) -> list[Size]:
    """The sizes of the sheets that a comparison will need, known before anything is painted.

    `combinations` is the number of prompts × seeds × values of other keys. Raises ConfigError if one does not fit a sheet.
    """
    return _Layout(picture, tuple(schedulers), columns, combinations).sheets()


def build_sheets(folder: Path) -> list[Path]:
    """Draw grid.png, grid-2.png … into the folder of a comparison, finished or not; what is not painted yet says so.

    Raises MissingInputError and InputError for result files that cannot be read, ConfigError as `plan_sheets`, OutputError.
    """
    comparison = results.read_comparison(folder)
    files = [reference.file for reference in comparison.references] + [cell.file for cell in comparison.cells]
    size = next((picture.size for file in files if file and (picture := _open(folder, file))), (512, 512))
    chosen = list(product(comparison.prompts, comparison.seeds, product(*comparison.varied.values())))
    layout = _Layout(size, comparison.schedulers, len(comparison.columns), len(chosen))
    artist = _Artist(comparison, folder, layout)
    made: list[Path] = []
    for size in layout.sheets():
        done = len(made) * layout.across * layout.down
        buffer = BytesIO()
        artist.sheet(size, chosen[done : done + layout.across * layout.down]).save(
            buffer, "PNG", compress_level=1
        )
        made.append(folder / _name(len(made) + 1))
        overwrite(made[-1], [buffer.getvalue()])
    for number in count(len(made) + 1):  # sheets of an earlier, larger run
        if not (folder / _name(number)).exists():
            break
        (folder / _name(number)).unlink()
    return made


def _name(number: int) -> str:
    return f"grid{f'-{number}' if number > 1 else ''}.png"


def _open(folder: Path, file: str) -> Image.Image | None:
    try:
        path = str(folder / file)
        return images.decode_image(images.read_bytes(path, "image")[0], path, "image").convert("RGB")
    except InputError:
        return None


@lru_cache
def _font(size: int) -> Font:
    """The one font that Pillow carries; what it has no shape for becomes a box."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # given a size, and every wheel of Pillow has FreeType
    return font


def _fit_line(text: str, width: float, font: Font) -> str:
    """The text on one line, shortened to a width."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:1000]).split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


class _Artist:
    """Draws the blocks of a comparison."""

    def __init__(self, comparison: Comparison, folder: Path, layout: _Layout) -> None:
        self.comparison, self.folder, self.layout = comparison, folder, layout
        self.cells = {(*_key(cell), cell.scheduler, cell.column): cell for cell in comparison.cells}
        self.references = {_key(reference): reference for reference in comparison.references}
        self.rows = statistics.rank(comparison, comparison.columns[len(comparison.columns) // 2])
        self.scale = format.LogScale.over(cell.solver_error for cell in comparison.cells)
        self.random = statistics.stochastic(comparison)

    def sheet(self, size: Size, chosen: Sequence[Chosen]) -> Image.Image:
        """A sheet with its title and its blocks."""
        layout, same = self.layout, self.comparison
        image = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(image)
        middle = format.budget(same.columns[len(same.columns) // 2], same.match)
        facts = f"by median solver error at {middle} · {same.model} · {same.hardware}, {same.dtype}"
        width = size[0] - 2 * layout.margin
        self._write(pen, (layout.margin, layout.margin), same.title, width, INK, 2.0)
        self._write(pen, (layout.margin, layout.margin + round(2.9 * layout.text)), facts, width)
        for place, one in enumerate(chosen):
            down, right = divmod(place, layout.across)
            corner = (
                layout.margin + right * (layout.block[0] + layout.margin),
                layout.top + down * (layout.block[1] + layout.margin),
            )
            self._block(image, corner, *one)
        return image

    def _block(
        self, image: Image.Image, corner: Size, prompt: str, seed: int, values: tuple[results.Value, ...]
    ) -> None:
        layout, same = self.layout, self.comparison
        pen, text, (left, top) = ImageDraw.Draw(image), layout.text, corner
        varied = dict(zip(same.varied, values, strict=True))
        key = (prompt, seed, tuple(sorted(varied.items())))
        pen.line((left, top, left + layout.block[0] - 1, top), LINE)
        where = " · ".join(
            [f"seed {seed}", *(f"{name.replace('_', ' ')} {value}" for name, value in varied.items())]
        )
        taken = _font(text).getlength(where)
        self._write(pen, (left + layout.block[0] - round(taken), top + text), where, taken + 1)
        self._write(pen, (left, top + text), prompt, layout.block[0] - taken - 2 * text, INK, 1.1)
        first = left + layout.cells[0]
        self._write(
            pen, (left + layout.names, top + round(3.3 * text)), format.UNITS[same.match], layout.cells[0]
        )
        for number, column in enumerate(same.columns):
            middle = first + number * layout.step[0] + layout.cell[0] / 2
            label = f"{column:g}"
            self._write(
                pen,
                (round(middle - _font(text).getlength(label) / 2), top + round(3.3 * text)),
                label,
                99 * text,
                INK,
            )
        self._reference(image, (left, top + layout.cells[1]), self.references.get(key))
        for row, name in enumerate(self.rows):
            at = top + layout.cells[1] + row * layout.step[1]
            self._write(pen, (left + layout.names, at), name, layout.cells[0], INK)
            if name in self.random:
                self._write(
                    pen,
                    (left + layout.names, at + round(1.4 * text)),
                    "stochastic",
                    layout.cells[0],
                    SOFT,
                    0.85,
                )
            for number, column in enumerate(same.columns):
                self._cell(image, (first + number * layout.step[0], at), self.cells.get((*key, name, column)))

    def _reference(self, image: Image.Image, corner: Size, reference: Reference | None) -> None:
        self._picture(image, corner, reference.file if reference else None, "not painted yet", SOFT)
        below = corner[1] + self.layout.cell[1] + self.layout.text // 2
        pen = ImageDraw.Draw(image)
        self._write(pen, (corner[0], below), "reference", self.layout.cell[0], SOFT, 0.85)
        for line in (reference.label if reference else "").split(", "):  # the scheduler, its steps
            below += round(1.2 * self.layout.text)
            self._write(pen, (corner[0], below), line, self.layout.cell[0], INK, 0.85)

    def _cell(self, image: Image.Image, corner: Size, cell: Cell | None) -> None:
        if cell is None or cell.status != "done":
            failed = cell is not None and cell.status == "failed"
            self._picture(
                image,
                corner,
                None,
                f"failed: {cell.reason}" if cell and failed else "not painted yet",
                BAD if failed else SOFT,
            )
            return
        self._picture(image, corner, cell.file, "failed: its image cannot be read", BAD)
        pen, text, (left, top) = ImageDraw.Draw(image), self.layout.text, corner
        top += self.layout.cell[1] + text // 4
        time = format.seconds(cell.seconds) if cell.seconds is not None else ""
        right = left + self.layout.cell[0] - math.ceil(_font(max(11, round(0.85 * text))).getlength(time))
        self._write(pen, (right, top + text // 2), time, self.layout.cell[0], SOFT, 0.85)
        if cell.solver_error is not None:
            place = self.scale.at(cell.solver_error)
            width, height = self.layout.cell[0], max(2, text // 5)
            pen.rectangle((left, top, left + width - 1, top + height - 1), EMPTY)
            pen.rectangle(
                (left, top, left + max(1, round(width * (0.04 + 0.96 * place))) - 1, top + height - 1),
                format.viridis(place),
            )
            self._write(
                pen, (left, top + text // 2), format.number(cell.solver_error), right - left, INK, 0.85
            )

    def _picture(
        self, image: Image.Image, corner: Size, file: str | None, otherwise: str, colour: str
    ) -> None:
        """The image at the size of a cell, or a frame with words in it."""
        width, height = self.layout.cell
        picture = _open(self.folder, file) if file else None
        if picture:
            how = Image.Resampling.NEAREST if width % picture.width == 0 else Image.Resampling.LANCZOS
            shown = ImageOps.contain(
                picture, (width, height), how
            )  # a grid may have images of several shapes
            image.paste(
                shown, (corner[0] + (width - shown.width) // 2, corner[1] + (height - shown.height) // 2)
            )
            return
        pen, font = ImageDraw.Draw(image), _font(max(11, round(0.8 * self.layout.text)))
        pen.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), None, LINE)
        letters = max(8, round(1.8 * (width - 12) / font.size))
        lines = textwrap.wrap(_fit_line(otherwise, 6 * width, font), letters)[
            : max(1, int(height / font.size / 1.4) - 1)
        ]
        middle = (corner[0] + width / 2, corner[1] + height / 2)
        pen.multiline_text(middle, "\n".join(lines), colour, font, anchor="mm", align="center")

    def _write(
        self,
        pen: ImageDraw.ImageDraw,
        corner: Size,
        text: str,
        width: float,
        colour: str = SOFT,
        scale: float = 1.0,
    ) -> None:
        font = _font(max(11, round(scale * self.layout.text)))
        pen.text(corner, _fit_line(text, width, font), colour, font)


def _key(item: Cell | Reference) -> tuple[object, ...]:
    return item.prompt, item.seed, tuple(sorted(item.varied.items()))
