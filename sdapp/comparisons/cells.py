"""The results of a comparison: its cells and references, and how they are written to disk and read back."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from io import StringIO
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sdapp.errors import InputError, MissingInputError
from sdapp.outputs.files import overwrite
from sdapp.settings.grid import Match
from sdapp.settings.messages import edited_file

COMPARISON, CELLS, REFERENCES, TABLE = "comparison.json", "results.jsonl", "references.jsonl", "results.csv"
UNITS: Mapping[Match, str] = {"unet-calls": "UNet calls", "steps": "steps", "seconds": "seconds"}
Value = str | int | float | bool
Key = tuple[str, int, frozenset[tuple[str, Value]]]
STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")  # JSON has no NaN and no infinity


class _WithKey:
    prompt: str
    seed: int
    varied: Mapping[str, Value]

    @property
    def key(self) -> Key:
        """Equal for cells and references of the same prompt, seed and varied values."""
        return self.prompt, self.seed, frozenset(self.varied.items())


@dataclass(frozen=True)
class Combination(_WithKey):
    """A prompt, a seed and varied values: its cells differ only in scheduler and steps."""

    prompt: str
    seed: int
    varied: Mapping[str, Value]  # values of other settings, such as {"guidance_scale": 5.0}


@dataclass(frozen=True)
class Cell(_WithKey):
    """One image of the grid: a line of results.jsonl and a row of results.csv."""

    __pydantic_config__ = STRICT

    id: str  # of its job, 12 hex digits
    scheduler: str  # its canonical name
    column: float  # its budget: UNet calls, steps or seconds, as Comparison.match says
    steps: int
    seed: int
    prompt: str
    varied: Mapping[str, Value]  # as in Combination
    status: Literal["done", "failed", "missing"] = "missing"  # missing: not painted yet
    file: str | None = None  # the image, relative to the folder
    unet_calls: int | None = None  # counted
    seconds: float | None = None  # the median of `timings`
    timings: tuple[float, ...] = ()  # in seconds, without the warm-up
    peak_memory: int | None = None  # bytes
    stochastic: bool = False
    solver_error: float | None = None  # RMS of latents to the reference; None if stochastic or failed
    psnr: float | None = None  # dB; a distance to the reference image, not a quality
    ssim: float | None = None
    reason: str | None = None  # why it failed


@dataclass(frozen=True)
class Reference(_WithKey):
    """Two results of very many steps for one combination: a line of references.jsonl. Errors are distances to
    the first.
    """

    __pydantic_config__ = STRICT

    id: str  # of the job of the first
    other_id: str  # of the job of the second
    seed: int
    prompt: str
    varied: Mapping[str, Value]
    label: str  # of the first, such as "ddim, 999 steps"
    file: str | None = None  # of the first
    unet_calls: int | None = None
    distance: float | None = None  # RMS distance between the latents of both: smaller errors mean nothing
    other: str = ""  # the label of the second


@dataclass(frozen=True)
class Comparison:
    """A grid of schedulers, columns, seeds, prompts and varied values, with its results.

    comparison.json has all fields except the last two.
    """

    __pydantic_config__ = STRICT

    title: str
    match: Match
    schedulers: tuple[str, ...]
    columns: tuple[float, ...]
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    varied: Mapping[str, tuple[Value, ...]]
    model: str
    hardware: str
    dtype: str
    versions: Mapping[str, str]
    command: str  # empty if it was started from Python
    created: str  # ISO 8601
    cells: tuple[Cell, ...] = ()
    references: tuple[Reference, ...] = ()

    @cached_property
    def cell_at(self) -> Mapping[tuple[Key, str, float], Cell]:
        """The cells by the key of their combination, their scheduler and their column."""
        return {(cell.key, cell.scheduler, cell.column): cell for cell in self.cells}

    @cached_property
    def reference_of(self) -> Mapping[Key, Reference]:
        """The references by the key of their combination."""
        return {reference.key: reference for reference in self.references}

    def combinations(self) -> Iterator[Combination]:
        """Yield each combination of prompt, seed and varied values."""
        for prompt, seed, values in product(self.prompts, self.seeds, product(*self.varied.values())):
            yield Combination(prompt, seed, dict(zip(self.varied, values, strict=True)))


def budget(column: float, match: Match) -> str:
    """A column with its unit, such as `20 UNet calls`."""
    return f"{column:g} {UNITS[match]}"


CODECS: Mapping[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Comparison, Cell, Reference)}


# --- writing ----------------------------------------------------------------------------------------


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write comparison.json, results.jsonl, references.jsonl and results.csv.

    Each file is written completely or not at all. Raises OutputError.
    """
    overwrite(folder / CELLS, (f"{to_json(cell)}\n".encode() for cell in comparison.cells))
    overwrite(folder / REFERENCES, (f"{to_json(item)}\n".encode() for item in comparison.references))
    # Without the byte order mark of utf-8-sig, Excel reads UTF-8 as Latin-1.
    overwrite(folder / TABLE, [_csv_table(comparison).encode("utf-8-sig")])
    top = CODECS[Comparison].dump_json(comparison, exclude={"cells", "references"}, indent=2)
    overwrite(folder / COMPARISON, [top + b"\n"])


def to_json(item: Cell | Reference) -> str:
    """A line of results.jsonl or references.jsonl; NaN and infinities are written as text."""
    line: bytes = CODECS[type(item)].dump_json(item)
    return line.decode()


def _csv_table(comparison: Comparison) -> str:
    """A column for each field and each varied key; lists are separated by spaces, None is an empty field."""
    names = [field.name for field in fields(Cell) if field.name != "varied"]
    text = StringIO()
    rows = csv.writer(text)
    rows.writerow(map(_escape_formula, (*names, *comparison.varied)))
    for cell in comparison.cells:
        values = [getattr(cell, name) for name in names] + [cell.varied.get(key) for key in comparison.varied]
        values = [" ".join(map(str, value)) if isinstance(value, tuple) else value for value in values]
        rows.writerow(map(_escape_formula, values))
    return text.getvalue()


def _escape_formula(value: Any) -> Any:
    """Put a quote mark before text that a spreadsheet would run as a formula."""
    is_formula = isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@"))
    return f"'{value}" if is_formula else value


# --- reading ----------------------------------------------------------------------------------------


def read_comparison(folder: Path) -> Comparison:
    """Read what `write_comparison` wrote.

    Raises MissingInputError if a file is not there, and InputError with file and line if one is broken.
    """
    path = folder / COMPARISON
    top: Comparison = _validate_line(Comparison, _read(path), str(path))
    cells = tuple(_read_lines(Cell, folder / CELLS))
    return replace(top, cells=cells, references=tuple(_read_lines(Reference, folder / REFERENCES)))


def _read_lines(kind: type, path: Path) -> Iterable[Any]:
    for number, line in enumerate(_read(path).split(b"\n"), 1):
        if line.strip():
            item = _validate_line(kind, line, f"{path}:{number}")
            if item.file is not None and not _is_inside(item.file):
                raise InputError(f"{path}:{number}: file: {item.file!r} is not in this folder")
            yield item


def _is_inside(file: str) -> bool:
    """Whether a path stays inside the folder: a report must not include files from elsewhere."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and not set(file) & set("\\:\0")


def _validate_line(kind: type, data: bytes, where: str) -> Any:
    try:
        return CODECS[kind].validate_json(data)
    except ValidationError as exc:
        raise edited_file(where, exc) from exc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        question = f"is {path.parent} the folder of a comparison or a grid?"
        raise MissingInputError(f"cannot read {path}: {exc.strerror}; {question}") from exc
