"""The report of a comparison: one HTML file that works offline."""

from collections.abc import Iterator
from pathlib import Path

from sdapp.comparisons.cells import UNITS, Cell, Combination, Comparison, Reference, budget, read_comparison
from sdapp.comparisons.report import plots
from sdapp.comparisons.statistics import Summary, band, bands, middle, rank, stochastic, summarise
from sdapp.comparisons.verdict import TEST, verdict
from sdapp.outputs.files import overwrite
from sdapp.pages import format
from sdapp.pages.page import SYMBOLS, render_page
from sdapp.pages.sources import MAX_INLINE, MISSING, ImageSources, PageEntry, without_images

NAME = "report.html"
HERE = Path(__file__).parent


def build_report(folder: Path, max_inline: int = MAX_INLINE) -> Path:
    """Write report.html into the folder of a comparison, finished or not, and return its path.

    Images are inside the file up to about `max_inline` bytes; all others are links to the files next to it.
    Raises MissingInputError and InputError if the results cannot be read, OutputError.
    """
    comparison = read_comparison(folder)
    overwrite(
        folder / NAME, _render(comparison, _PageData(comparison, ImageSources(folder, max_inline)).collect())
    )
    return folder / NAME


def _render(comparison: Comparison, data: PageEntry) -> Iterator[bytes]:
    return render_page(
        HERE,
        "report",
        ("page", "table"),
        verdict=verdict(comparison),
        test=TEST,
        partial=any(item.is_partial and not item.place for item in summarise(comparison)),
        comparison=comparison,
        data=data,
        script_data=data | {"views": [without_images(data["views"][0]), *data["views"][1:]]},
        plots=[plots.convergence(comparison, axis) for axis in ("unet_calls", "seconds")],
        frame=plots,
        styles=plots.styles(plots.steady_schedulers(comparison)),
        stochastic=stochastic(comparison),
        unit=UNITS[comparison.match],
        band=band(comparison),
        number=format.number,
        sample=_describe_sample(comparison),
    )


def _describe_sample(comparison: Comparison) -> str:
    """What the medians are taken over, such as `3 prompts × 4 seeds`."""
    axes = {"prompt": len(comparison.prompts), "seed": len(comparison.seeds)}
    varied = {key: len(values) for key, values in comparison.varied.items() if len(values) > 1}
    axes |= {f"{key} value".replace("_", " "): size for key, size in varied.items()}
    return " × ".join(format.counted(size, name) for name, size in axes.items())


def _join(*parts: str, separator: str = " · ") -> str:
    """Join the parts that are not empty."""
    return separator.join(filter(None, parts))


class _PageData:
    """Turns the numbers of a comparison into the texts of the page."""

    def __init__(self, comparison: Comparison, sources: ImageSources) -> None:
        self.comparison, self.sources = comparison, sources
        self.bands = bands(comparison)
        self.scale = format.LogScale.over(cell.solver_error for cell in comparison.cells)

    def collect(self) -> PageEntry:
        """What the scripts work on: each combination of prompt, seed and varied values, as text."""
        comparison = self.comparison
        schedulers, columns = comparison.schedulers, comparison.columns
        return {
            "rows": schedulers,
            "columns": [f"{column:g}" for column in columns],
            "column": columns.index(middle(comparison)),
            "order": [[schedulers.index(name) for name in rank(comparison, column)] for column in columns],
            "medians": self._medians(),
            "prompts": [prompt.translate(SYMBOLS) for prompt in comparison.prompts],
            "axes": [len(comparison.prompts), len(comparison.seeds), *map(len, comparison.varied.values())],
            "brackets": 0,
            "digits": 1,
            "views": [*map(self._view, comparison.combinations())],
        }

    def _medians(self) -> list[list[str]]:
        """Place and median error as text: a row for each scheduler, a column for each budget."""
        found = {(item.scheduler, item.column): item for item in summarise(self.comparison)}
        places = [(item.column, item.place) for item in found.values()]
        columns = self.comparison.columns

        def text(item: Summary) -> str:
            if item.solver_error is None:
                return ""
            tied = "tied " if places.count((item.column, item.place)) > 1 else ""
            place = f"{tied}{item.place} · " if item.place else ""
            partly = f" · {item.measured} of {item.of}" if item.is_partial else ""
            return f"{place}median {format.number(item.solver_error.median)}{partly}"

        return [[text(found[name, column]) for column in columns] for name in self.comparison.schedulers]

    def _view(self, where: Combination) -> PageEntry:
        cells = [self._row(name, where) for name in self.comparison.schedulers]
        reference = self._reference(self.comparison.reference_of.get(where.key), where.seed)
        return {"reference": reference, "cells": cells, "where": where.prompt.translate(SYMBOLS)}

    def _row(self, name: str, where: Combination) -> list[PageEntry]:
        entries: list[PageEntry] = []
        first_column: dict[str, float] = {}  # of each image
        for column in self.comparison.columns:
            cell = self.comparison.cell_at.get((where.key, name, column))
            earlier = first_column.setdefault(cell.id, column) if cell else column
            entries.append(self._cell(cell, name, column, where.seed, None if earlier == column else earlier))
        return entries

    def _reference(self, reference: Reference | None, seed: int) -> PageEntry:
        if reference is None:
            return MISSING | {
                "name": "Reference",
                "title": "Reference",
                "facts": [],
                "alt": "",
                "label": "Reference",
            }
        facts = []
        if reference.unet_calls is not None:
            facts.append(format.counted(reference.unet_calls, "UNet call"))
        if reference.distance is not None:
            facts.append(f"{format.number(reference.distance)} from {reference.other}")
        alt = f"The reference: {reference.label}, seed {seed}"
        texts = {
            "name": f"Reference: {reference.label}",
            "title": reference.label,
            "facts": facts,
            "alt": alt,
        }
        return texts | {"label": alt} | self.sources.entry(reference.file)

    def _cell(
        self, cell: Cell | None, scheduler: str, column: float, seed: int, same: float | None
    ) -> PageEntry:
        name = f"{scheduler}, {budget(column, self.comparison.match)}"
        alt = f"{name}, seed {seed}"
        if cell is None or cell.status == "missing":
            return MISSING | {"name": name, "alt": alt, "label": f"{alt}: {MISSING['message']}"}
        entry = self._measurements(cell, same) | {"name": name, "alt": alt}
        reason = (cell.reason or "the reason is unknown").translate(SYMBOLS)
        failure = {"status": "failed", "message": reason}
        entry |= failure if cell.status == "failed" else self.sources.entry(cell.file)
        return entry | {"label": f"{alt}: {_summary(entry, cell)}"}

    def _measurements(self, cell: Cell, same: float | None) -> PageEntry:
        """The numbers of a cell: its error, the line below it, and all `facts` for the viewer.

        `same` is an earlier column with the same image.
        """
        entry: PageEntry = {"id": cell.id, "error": ""}
        if cell.solver_error is not None:
            place = self.scale.at(cell.solver_error)
            entry |= {"error": format.number(cell.solver_error), "bar": round(0.04 + 0.96 * place, 3)}
            below = cell.solver_error < self.bands.get(cell.key, 0.0)
            entry |= {"colour": format.viridis(place), "below": below}
        calls = "" if cell.unet_calls is None else format.counted(cell.unet_calls, "UNet call")
        is_column = self.comparison.match == "unet-calls" and cell.unet_calls == cell.column
        short = "" if is_column else calls.removeprefix("UNet ").replace("UNet ", "")
        time = format.seconds(cell.seconds) if cell.seconds is not None else ""
        psnr = f"PSNR {format.decibels(cell.psnr)}" if cell.psnr is not None else ""
        ssim = f"SSIM {cell.ssim:.3f}" if cell.ssim is not None else ""
        distances = _join(psnr, ssim, separator=", ")
        facts = (
            f"solver error {entry['error']}" if entry["error"] else "",
            format.counted(cell.steps, "step") if cell.steps != cell.column else "",
            "" if is_column else calls,
            time,
            f"distance to the reference: {distances}" if distances else "",
            f"{cell.peak_memory / 2**30:.2f} GiB at peak" if cell.peak_memory else "",
        )
        note = f"same as {same:g}" if same is not None else _join(short, time)
        return entry | {"note": note, "facts": [*filter(None, facts)]}


def _summary(entry: PageEntry, cell: Cell) -> str:
    """The most important facts about a cell, for a reader who cannot see it; what is seen stands first."""
    if entry["status"] != "done":
        return str(entry["message"])
    shown = _join(entry["error"], entry["note"], separator=" ")
    if entry["error"]:
        return f"solver error {shown}{', below the measurement noise' if entry['below'] else ''}"
    return _join(shown, "stochastic" if cell.stochastic else "not compared with a reference", separator=", ")
