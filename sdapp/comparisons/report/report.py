"""The report of a comparison: one HTML file that needs no network, made from the folder at any time."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from sdapp import images
from sdapp.comparisons import cells as results
from sdapp.comparisons import statistics
from sdapp.comparisons.cells import Cell, Comparison, Reference
from sdapp.comparisons.report import format, plots
from sdapp.errors import InputError
from sdapp.outputs.files import overwrite

NAME = "report.html"
MAX_INLINE = 20_000_000  # bytes of images inside the file; beyond that they are linked to
SMALL = 128  # pixels; an image up to this side is kept inside as it is, for it is looked at enlarged
HERE = Path(__file__).parent
# Control characters have no shape; these stand for them.
SHOWN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
Shown = dict[str, Any]


def build_report(folder: Path, max_inline: int = MAX_INLINE) -> Path:
    """Write report.html into the folder of a comparison, finished or not, and return its path.

    Images are inside the file up to about `max_inline` bytes; beyond that the file links to those beside it.
    Raises MissingInputError and InputError for result files that cannot be read, OutputError.
    """
    comparison = results.read_comparison(folder)
    page = _render(comparison, _View(comparison, _Pictures(folder, max_inline)))
    overwrite(folder / NAME, [page.encode()])
    return folder / NAME


def _render(comparison: Comparison, view: "_View") -> str:
    room = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    room.filters["shown"] = lambda text: str(text).translate(SHOWN)
    style, script = ((HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    data = view.data()
    return room.get_template("report.html.jinja").render(
        comparison=comparison,
        data=data,
        rest=data | {"views": [_bare(data["views"][0]), *data["views"][1:]]},
        plots=[plots.convergence(comparison, axis) for axis in ("unet_calls", "seconds")],
        frame=plots,
        styles=plots.styles(comparison.schedulers),
        stochastic=statistics.stochastic(comparison),
        unit=format.UNITS[comparison.match],
        band=statistics.band(comparison),
        number=format.number,
        said=_counts(comparison),
        style=Markup(style),  # our own, with nothing of the user's in it
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _bare(view: Shown) -> Shown:
    """A combination without its images, for the page has them already."""

    def without(shown: Shown) -> Shown:
        return {key: value for key, value in shown.items() if key != "src"}

    return {"reference": without(view["reference"]), "cells": [[*map(without, row)] for row in view["cells"]]}


def _counts(comparison: Comparison) -> str:
    """What the medians are taken over, such as `3 prompts × 4 seeds`."""
    axes = {"prompt": len(comparison.prompts), "seed": len(comparison.seeds)}
    axes |= {
        f"{key} value".replace("_", " "): len(values)
        for key, values in comparison.varied.items()
        if len(values) > 1
    }
    return " × ".join(format.counted(size, name) for name, size in axes.items())


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass
class _Pictures:
    """Addresses of the images of a folder: inside the file as WebP while there is room, else links."""

    folder: Path
    room: int  # bytes
    known: dict[str, str] = field(default_factory=dict)

    def address(self, file: str) -> str:
        """A data URI or a relative link. Raises InputError if there is no such image."""
        if file not in self.known:
            self.known[file] = self._inline(file) if self.room > 0 else self._link(file)
        return self.known[file]

    def _link(self, file: str) -> str:
        if not (self.folder / file).is_file():
            raise InputError(f"its image {file} is gone")
        return quote(file)

    def _inline(self, file: str) -> str:
        path = str(self.folder / file)
        picture = images.decode_image(images.read_bytes(path, "image")[0], path, "image").convert("RGB")
        buffer = BytesIO()
        picture.save(buffer, "WEBP", quality=90, method=3, lossless=max(picture.size) <= SMALL)
        text = "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()
        self.room -= len(text)
        return text


class _View:
    """Everything that the page says of a comparison, in words and numbers that need no more thought."""

    def __init__(self, comparison: Comparison, pictures: _Pictures) -> None:
        self.comparison, self.pictures = comparison, pictures
        self.cells = {(*_key(cell), cell.scheduler, cell.column): cell for cell in comparison.cells}
        self.references = {_key(reference): reference for reference in comparison.references}
        self.floor = statistics.band(comparison) or 0.0
        self.scale = format.LogScale.over(cell.solver_error for cell in comparison.cells)

    def data(self) -> Shown:
        """What the script works on: every combination of prompt, seed and varied keys, as text ready to be shown."""
        same = self.comparison
        return {
            "schedulers": same.schedulers,
            "columns": [f"{column:g}" for column in same.columns],
            "column": len(same.columns) // 2,
            "order": [
                [same.schedulers.index(name) for name in statistics.rank(same, column)]
                for column in same.columns
            ],
            "medians": self._medians(),
            "prompts": [prompt.translate(SHOWN) for prompt in same.prompts],
            "axes": [len(same.prompts), len(same.seeds), *map(len, same.varied.values())],
            "views": [self._combination(*chosen) for chosen in self._combinations()],
        }

    def _medians(self) -> list[list[str]]:
        found = {
            (item.scheduler, item.column): item.solver_error for item in statistics.summarise(self.comparison)
        }
        return [
            [
                format.number(error.median) if (error := found[name, column]) else ""
                for column in self.comparison.columns
            ]
            for name in self.comparison.schedulers
        ]

    def _combinations(self) -> Iterator[tuple[str, int, Mapping[str, results.Value]]]:
        same = self.comparison
        for prompt, seed, values in product(same.prompts, same.seeds, product(*same.varied.values())):
            yield prompt, seed, dict(zip(same.varied, values, strict=True))

    def _combination(self, prompt: str, seed: int, varied: Mapping[str, results.Value]) -> Shown:
        key = (prompt, seed, tuple(sorted(varied.items())))
        return {
            "reference": self._reference(self.references.get(key), seed),
            "cells": [
                [
                    self._cell(self.cells.get((*key, name, column)), name, column, seed)
                    for column in self.comparison.columns
                ]
                for name in self.comparison.schedulers
            ],
        }

    def _reference(self, reference: Reference | None, seed: int) -> Shown:
        if reference is None:
            return self._picture(None) | {
                "label": "Reference",
                "note": "",
                "alt": "",
                "says": "not painted yet",
            }
        calls = format.counted(reference.unet_calls, "UNet call") if reference.unet_calls is not None else ""
        apart = (
            f"{format.number(reference.distance)} from {reference.other}"
            if reference.distance is not None
            else ""
        )
        return {
            "label": reference.label,
            "note": " · ".join(filter(None, (calls, apart))),
            "alt": f"The reference: {reference.label}, seed {seed}",
        } | self._picture(reference.file)

    def _cell(self, cell: Cell | None, scheduler: str, column: float, seed: int) -> Shown:
        budget = format.budget(column, self.comparison.match)
        if cell is None or cell.status == "missing":
            return {
                "name": f"{scheduler}, {budget}",
                "alt": f"{scheduler}, {budget}: not painted yet",
            } | self._picture(None)
        shown = self._measured(cell) | {"name": f"{scheduler}, {budget}"}
        if cell.status == "failed":
            shown |= {"status": "failed", "says": (cell.reason or "no reason was noted").translate(SHOWN)}
        else:
            shown |= self._picture(cell.file)
        return shown | {"alt": f"{scheduler}, {budget}, seed {seed}: {_summary(shown, cell)}"}

    def _measured(self, cell: Cell) -> Shown:
        """The numbers of a cell: the large one, the small line, and all of them for the viewer."""
        shown: Shown = {"error": "", "note": ""}
        if cell.solver_error is not None:
            place = self.scale.at(cell.solver_error)
            shown |= {"error": format.number(cell.solver_error), "bar": round(0.04 + 0.96 * place, 3)}
            shown |= {"colour": format.viridis(place), "below": cell.solver_error < self.floor}
        calls = (
            f"{cell.unet_calls:,} call{'' if cell.unet_calls == 1 else 's'}"
            if cell.unet_calls is not None
            else ""
        )
        time = format.seconds(cell.seconds) if cell.seconds is not None else ""
        shown["note"] = " · ".join(filter(None, (calls, time)))
        psnr = f"PSNR {format.decibels(cell.psnr)}" if cell.psnr is not None else ""
        ssim = f"SSIM {cell.ssim:.3f}" if cell.ssim is not None else ""
        facts = [
            ("solver error ", shown["error"]),
            ("", format.counted(cell.steps, "step")),
            ("", format.counted(cell.unet_calls, "UNet call") if cell.unet_calls is not None else ""),
            ("", time),
            ("distance to the reference: ", ", ".join(filter(None, (psnr, ssim)))),
            ("", f"{cell.peak_memory / 2**30:.2f} GiB at peak" if cell.peak_memory else ""),
        ]
        return shown | {"facts": [name + value for name, value in facts if value], "id": cell.id}

    def _picture(self, file: str | None) -> Shown:
        if file is None:
            return {"status": "missing", "says": "not painted yet"}
        try:
            return {"status": "done", "src": self.pictures.address(file), "file": quote(file)}
        except InputError as exc:
            return {"status": "failed", "says": str(exc).translate(SHOWN)}


def _summary(shown: Shown, cell: Cell) -> str:
    """What someone who cannot see the image should know first."""
    if shown["status"] != "done":
        return str(shown["says"])
    if shown["error"]:
        return f"solver error {shown['error']}{', too small to say anything' if shown['below'] else ''}"
    return "stochastic" if cell.stochastic else "not compared with a reference"


def _key(item: Cell | Reference) -> tuple[Any, ...]:
    return item.prompt, item.seed, tuple(sorted(item.varied.items()))
