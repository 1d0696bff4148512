"""The page of a grid: one HTML file that works offline, with the viewer for any two images."""

from pathlib import Path
from typing import Any

from sdapp.errors import InputError
from sdapp.grids.folder import GridCell, ImageGrid
from sdapp.metadata.record import read_header
from sdapp.outputs.files import overwrite
from sdapp.pages.page import SYMBOLS, render_page
from sdapp.pages.sources import MAX_INLINE, MISSING, ImageSources, PageEntry, without_images

PAGE = "grid.html"
TEMPLATE_FOLDER = Path(__file__).parent


def build_page(grid: ImageGrid, folder: Path, max_inline: int = MAX_INLINE) -> Path:
    """Write grid.html into the folder of a grid, finished or not, and return its path.

    Images are inside the file up to about `max_inline` bytes; all others are links to the files next to it.
    Raises OutputError.
    """
    sources = ImageSources(folder, max_inline)
    views = [_view(grid, layer, folder, sources) for layer in range(len(grid.labels(2)))]
    facts = [entry["facts"] for view in views for row in view["cells"] for entry in row if "facts" in entry]
    data: PageEntry = {
        "rows": grid.labels(1),
        "columns": grid.labels(0),
        "axes": [len(views)],
        "brackets": 0,
        "digits": 0,
        "views": views,
    }
    values: dict[str, Any] = {
        "grid": grid,
        "data": data,
        "script_data": data | {"views": [without_images(views[0]), *views[1:]]},
        "failed": sum(cell.status == "failed" for cell in grid.cells),
        "in_common": [each for each in facts[0] if all(each in other for other in facts)] if facts else [],
        "missing": sum(cell.status == "missing" for cell in grid.cells),
    }
    overwrite(folder / PAGE, render_page(TEMPLATE_FOLDER, "grid", ("page", "table"), **values))
    return folder / PAGE


def _view(grid: ImageGrid, layer: int, folder: Path, sources: ImageSources) -> PageEntry:
    """The images at one value of the axis z."""

    def entry(column: int, row: int) -> PageEntry:
        labels = zip(grid.axes, (column, row, layer), strict=False)
        name = ", ".join(f"{axis.name} {axis.labels[index]}" for axis, index in labels).translate(SYMBOLS)
        found = _entry(grid.cell(column, row, layer), name, folder, sources)
        is_single = len(grid.axes) == 1  # the value stands below the image, not above the column
        return found | {"note": grid.labels(0)[column].translate(SYMBOLS) if is_single else ""}

    rows, columns = range(len(grid.labels(1))), range(len(grid.labels(0)))
    cells = [[entry(column, row) for column in columns] for row in rows]
    return {"cells": cells, "where": grid.prompt.translate(SYMBOLS)}


def _entry(cell: GridCell, name: str, folder: Path, sources: ImageSources) -> PageEntry:
    texts: PageEntry = {"name": name, "alt": name, "label": name, "id": cell.id}
    if cell.status == "failed":
        reason = (cell.reason or "the reason is unknown").translate(SYMBOLS)
        return texts | {"status": "failed", "message": reason, "label": f"{name}: {reason}"}
    if cell.file is None:
        return texts | MISSING | {"label": f"{name}: {MISSING['message']}"}
    return texts | {"facts": _settings_of(folder / cell.file)} | sources.entry(cell.file)


def _settings_of(path: Path) -> list[str]:
    """The settings of an image in short, from the record inside it."""
    try:
        content = read_header(path)
        job, record = content["job"], content["record"]
        width, height = record.get("final_size") or (job["width"], job["height"])
        return [
            job["scheduler"]["name"],
            f"{job['steps']} steps",
            f"guidance {job['guidance_scale']:g}",
            f"seed {job['seed']}",
            f"{width} × {height}",
            f"{record['seconds']:.2g} s",
        ]
    except (InputError, LookupError, TypeError, ValueError):  # of another version
        return []
