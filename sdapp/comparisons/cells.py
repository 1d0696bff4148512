"""A comparison on disk: its cells and references, how they are written and read, and what they amount to."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sdapp.errors import InputError, MissingInputError
from sdapp.outputs.files import overwrite
from sdapp.settings.grid import Match

COMPARISON, CELLS, REFERENCES, TABLE = "comparison.json", "results.jsonl", "references.jsonl", "results.csv"
Value = str | int | float | bool
STRICT = ConfigDict(
    extra="forbid", ser_json_inf_nan="strings"
)  # JSON has no NaN; "NaN" and "Infinity" are read back


@dataclass(frozen=True)
class Cell:
    """One image of the grid: a line of results.jsonl, a row of results.csv."""

    __pydantic_config__ = STRICT

    id: str  # of its job, 12 hex digits
    scheduler: str  # its canonical name
    column: float  # the budget that it belongs to: UNet calls, steps or seconds, by Comparison.match
    steps: int
    seed: int
    prompt: str
    varied: Mapping[str, Value]  # the other keys of the grid, such as {"guidance_scale": 5.0}
    status: Literal["done", "failed", "missing"]  # missing: not painted yet
    file: str | None  # the image, relative to the folder
    unet_calls: int | None  # counted
    seconds: float | None  # the median of `timings`
    timings: tuple[float, ...]  # without the warm-up
    peak_memory: int | None  # bytes
    stochastic: bool
    solver_error: (
        float | None
    )  # RMS in latent space to the reference; None for stochastic schedulers and failed cells
    psnr: float | None  # dB; a distance to the reference image, never a quality
    ssim: float | None
    reason: str | None  # why it failed


@dataclass(frozen=True)
class Reference:
    """The many-step solution of one prompt, seed and set of varied keys: a line of references.jsonl."""

    __pydantic_config__ = STRICT

    id: str  # of its job
    other_id: str  # of the job of another, independent solution
    seed: int
    prompt: str
    varied: Mapping[str, Value]
    label: str  # such as "DDIM, 999 steps"
    file: str | None
    unet_calls: int | None
    distance: (
        float | None
    )  # RMS in latent space to another, independent reference: below it nothing can be said
    other: str  # the label of that other one


@dataclass(frozen=True)
class Comparison:
    """A grid of schedulers × budgets × seeds × prompts × other keys; comparison.json holds all but the last two fields."""

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
    command: str
    created: str  # ISO 8601
    cells: tuple[Cell, ...] = ()
    references: tuple[Reference, ...] = ()


CODECS: Mapping[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Comparison, Cell, Reference)}


# --- writing ------------------------------------------------------------------------------------------------------


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write comparison.json, results.jsonl, references.jsonl and results.csv, each whole or not at all. Raises OutputError."""
    overwrite(folder / CELLS, _encode_lines(comparison.cells))
    overwrite(folder / REFERENCES, _encode_lines(comparison.references))
    overwrite(
        folder / TABLE, [_csv_table(comparison).encode("utf-8-sig")]
    )  # without the mark Excel takes UTF-8 for Latin-1
    top = CODECS[Comparison].dump_json(comparison, exclude={"cells", "references"}, indent=2)
    overwrite(folder / COMPARISON, [top + b"\n"])


def _encode_lines(items: Iterable[Cell | Reference]) -> Iterable[bytes]:
    return (f"{to_json(item)}\n".encode() for item in items)


def to_json(item: Cell | Reference) -> str:
    """A line of results.jsonl or references.jsonl; NaN and infinities are text in it."""
    line: bytes = CODECS[type(item)].dump_json(item)
    return line.decode()


def _csv_table(comparison: Comparison) -> str:
    """One column for each field and each varied key; lists are parted by spaces, nothing is an empty cell."""
    names = [field.name for field in fields(Cell) if field.name != "varied"]
    text = StringIO()
    rows = csv.writer(text)
    rows.writerow([_defused(name) for name in (*names, *comparison.varied)])
    for cell in comparison.cells:
        values = [getattr(cell, name) for name in names] + [cell.varied.get(key) for key in comparison.varied]
        rows.writerow(
            [_defused(" ".join(map(str, value)) if isinstance(value, tuple) else value) for value in values]
        )
    return text.getvalue()


def _defused(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a quote mark before it."""
    return (
        f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value
    )


# --- reading ------------------------------------------------------------------------------------------------------


def read_comparison(folder: Path) -> Comparison:
    """What `write_comparison` wrote. Raises MissingInputError, and InputError with file and line for what is broken."""
    path = folder / COMPARISON
    top: Comparison = _decode(Comparison, _bytes(path), str(path))
    cells = tuple(_read_lines(Cell, folder / CELLS))
    references = tuple(_read_lines(Reference, folder / REFERENCES))
    return replace(top, cells=cells, references=references)


def _read_lines(kind: type, path: Path) -> Iterable[Any]:
    for number, line in enumerate(_bytes(path).split(b"\n"), 1):
        if line.strip():
            item = _decode(kind, line, f"{path}:{number}")
            if item.file is not None and not _is_inside(item.file):
                raise InputError(f"{path}:{number}: file: {item.file!r} is not in this folder")
            yield item


def _is_inside(file: str) -> bool:
    """Whether a file is named from the folder downwards: a report must not carry off what lies elsewhere."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and not set(file) & set("\\:\0")


def _decode(kind: type, data: bytes, where: str) -> Any:
    try:
        return CODECS[kind].validate_json(data)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        place = ".".join(map(str, error["loc"]))
        raise InputError(
            f"{where}: {f'{place}: ' if place else ''}{error['msg']}; was the file edited?"
        ) from exc


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise MissingInputError(
            f"cannot read {path}: {exc.strerror}; is {path.parent} the folder of a comparison?"
        ) from exc


# --- what they amount to ------------------------------------------------------------------------------------------
