"""The report of a comparison: one HTML file that works offline."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sdapp.comparisons.cells import Cell, Combination, Comparison, Reference, read_comparison
from sdapp.comparisons.folder import open_image
from sdapp.comparisons.report import format, plots
from sdapp.comparisons.statistics import band, rank, stochastic, summarise
from sdapp.errors import InputError
from sdapp.outputs.files import overwrite
from sdapp.pages.page import SYMBOLS, render_page

NAME = "report.html"
MAX_INLINE = 20_000_000  # bytes of images inside the file; all others are links
SMALL = 128  # pixels; images up to this side are kept lossless, because they are looked at enlarged
HERE = Path(__file__).parent
MISSING = {"status": "missing", "message": "not painted yet"}
PageEntry = dict[str, Any]  # what the page shows of one cell or reference, as text


def build_report(folder: Path, max_inline: int = MAX_INLINE) -> Path:
    """Write report.html into the folder of a comparison, finished or not, and return its path.

    Images are inside the file up to about `max_inline` bytes; all others are links to the files next to it.
    Raises MissingInputError and InputError if the results cannot be read, OutputError.
    """
    comparison = read_comparison(folder)
    overwrite(
        folder / NAME, _render(comparison, _PageData(comparison, _ImageSources(folder, max_inline)).collect())
    )
    return folder / NAME


def _render(comparison: Comparison, data: PageEntry) -> Iterator[bytes]:
    return render_page(
        HERE,
        "report",
        comparison=comparison,
        data=data,
        script_data=data | {"views": [_without_images(data["views"][0]), *data["views"][1:]]},
        plots=[plots.convergence(comparison, axis) for axis in ("unet_calls", "seconds")],
        frame=plots,
        styles=plots.styles(comparison.schedulers),
        stochastic=stochastic(comparison),
        unit=format.UNITS[comparison.match],
        band=band(comparison),
        number=format.number,
        sample=_describe_sample(comparison),
    )


def _without_images(view: PageEntry) -> PageEntry:
    """A combination without the sources of its images, which the page already has."""

    def without(entry: PageEntry) -> PageEntry:
        return {key: value for key, value in entry.items() if key != "src"}

    return {"reference": without(view["reference"]), "cells": [[*map(without, row)] for row in view["cells"]]}


def _describe_sample(comparison: Comparison) -> str:
    """What the medians are taken over, such as `3 prompts × 4 seeds`."""
    axes = {"prompt": len(comparison.prompts), "seed": len(comparison.seeds)}
    varied = {key: len(values) for key, values in comparison.varied.items() if len(values) > 1}
    axes |= {f"{key} value".replace("_", " "): size for key, size in varied.items()}
    return " × ".join(format.counted(size, name) for name, size in axes.items())


def _join(*parts: str, separator: str = " · ") -> str:
    """Join the parts that are not empty."""
    return separator.join(filter(None, parts))


@dataclass
class _ImageSources:
    """Sources of the images of a folder: WebP inside the page while there is room, then links."""

    folder: Path
    room: int  # bytes
    known: dict[str, str] = field(default_factory=dict)

    def source(self, file: str) -> str:
        """A data URI or a relative link. Raises InputError if the image is missing or cannot be read."""
        if file not in self.known:
            if self.room <= 0 and not (self.folder / file).is_file():
                raise InputError(f"its image {file} does not exist any more")
            self.known[file] = self._inline(file) if self.room > 0 else quote(file)
        return self.known[file]

    def _inline(self, file: str) -> str:
        image = open_image(self.folder, file).convert("RGB")
        buffer = BytesIO()
        image.save(buffer, "WEBP", quality=90, method=3, lossless=max(image.size) <= SMALL)
        text = "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()
        self.room -= len(text)
        return text


class _PageData:
    """Turns the numbers of a comparison into the texts of the page."""

    def __init__(self, comparison: Comparison, sources: _ImageSources) -> None:
        self.comparison, self.sources = comparison, sources
        self.band = band(comparison) or 0.0
        self.scale = format.LogScale.over(cell.solver_error for cell in comparison.cells)

    def collect(self) -> PageEntry:
        """What report.js works on: each combination of prompt, seed and varied values, as text."""
        comparison = self.comparison
        schedulers, columns = comparison.schedulers, comparison.columns
        return {
            "schedulers": schedulers,
            "columns": [f"{column:g}" for column in columns],
            "column": len(columns) // 2,
            "order": [[schedulers.index(name) for name in rank(comparison, column)] for column in columns],
            "medians": self._medians(),
            "prompts": [prompt.translate(SYMBOLS) for prompt in comparison.prompts],
            "axes": [len(comparison.prompts), len(comparison.seeds), *map(len, comparison.varied.values())],
            "views": [*map(self._view, comparison.combinations())],
        }

    def _medians(self) -> list[list[str]]:
        """The median errors as text: a row for each scheduler, a column for each budget."""
        errors = {(item.scheduler, item.column): item.solver_error for item in summarise(self.comparison)}
        texts = {place: format.number(error.median) if error else "" for place, error in errors.items()}
        columns = self.comparison.columns
        return [[texts[name, column] for column in columns] for name in self.comparison.schedulers]

    def _view(self, where: Combination) -> PageEntry:
        def entry(name: str, column: float) -> PageEntry:
            return self._cell(
                self.comparison.cell_at.get((where.key, name, column)), name, column, where.seed
            )

        columns = self.comparison.columns
        cells = [[entry(name, column) for column in columns] for name in self.comparison.schedulers]
        return {
            "reference": self._reference(self.comparison.reference_of.get(where.key), where.seed),
            "cells": cells,
        }

    def _reference(self, reference: Reference | None, seed: int) -> PageEntry:
        if reference is None:
            return MISSING | {"label": "Reference", "note": "", "alt": ""}
        calls = distance = ""
        if reference.unet_calls is not None:
            calls = format.counted(reference.unet_calls, "UNet call")
        if reference.distance is not None:
            distance = f"{format.number(reference.distance)} from {reference.other}"
        texts = {"label": reference.label, "note": _join(calls, distance)}
        return texts | {"alt": f"The reference: {reference.label}, seed {seed}"} | self._image(reference.file)

    def _cell(self, cell: Cell | None, scheduler: str, column: float, seed: int) -> PageEntry:
        name = f"{scheduler}, {format.budget(column, self.comparison.match)}"
        if cell is None or cell.status == "missing":
            return MISSING | {"name": name, "alt": f"{name}: {MISSING['message']}"}
        entry = self._measurements(cell) | {"name": name}
        reason = (cell.reason or "the reason is unknown").translate(SYMBOLS)
        failure = {"status": "failed", "message": reason}
        entry |= failure if cell.status == "failed" else self._image(cell.file)
        return entry | {"alt": f"{name}, seed {seed}: {_summary(entry, cell)}"}

    def _measurements(self, cell: Cell) -> PageEntry:
        """The numbers of a cell: its error, the line below it, and all `facts` for the viewer."""
        entry: PageEntry = {"id": cell.id, "error": ""}
        if cell.solver_error is not None:
            place = self.scale.at(cell.solver_error)
            entry |= {"error": format.number(cell.solver_error), "bar": round(0.04 + 0.96 * place, 3)}
            entry |= {"colour": format.viridis(place), "below": cell.solver_error < self.band}
        is_counted = cell.unet_calls is not None
        calls = format.counted(cell.unet_calls or 0, "call") if is_counted else ""
        time = format.seconds(cell.seconds) if cell.seconds is not None else ""
        psnr = f"PSNR {format.decibels(cell.psnr)}" if cell.psnr is not None else ""
        ssim = f"SSIM {cell.ssim:.3f}" if cell.ssim is not None else ""
        distances = _join(psnr, ssim, separator=", ")
        facts = (
            f"solver error {entry['error']}" if entry["error"] else "",
            format.counted(cell.steps, "step"),
            format.counted(cell.unet_calls or 0, "UNet call") if is_counted else "",
            time,
            f"distance to the reference: {distances}" if distances else "",
            f"{cell.peak_memory / 2**30:.2f} GiB at peak" if cell.peak_memory else "",
        )
        return entry | {"note": _join(calls, time), "facts": [*filter(None, facts)]}

    def _image(self, file: str | None) -> PageEntry:
        if file is None:
            return dict(MISSING)
        try:
            return {"status": "done", "src": self.sources.source(file), "file": quote(file)}
        except InputError as exc:
            return {"status": "failed", "message": str(exc).translate(SYMBOLS)}


def _summary(entry: PageEntry, cell: Cell) -> str:
    """The most important fact about a cell, for a reader who cannot see its image."""
    if entry["status"] != "done":
        return str(entry["message"])
    if entry["error"]:
        accuracy = ", below the accuracy of the reference" if entry["below"] else ""
        return f"solver error {entry['error']}{accuracy}"
    return "stochastic" if cell.stochastic else "not compared with a reference"
