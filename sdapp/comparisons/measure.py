"""Measure a comparison: read the images, records and latents in its folder, and compute distances."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from sdapp.batches import ledger
from sdapp.comparisons.cells import Cell, Comparison, Reference, read_comparison, write_comparison
from sdapp.comparisons.folder import PICTURES, image_file, open_image, read_latents
from sdapp.comparisons.metrics import WINDOW, psnr, rms, ssim
from sdapp.errors import InputError
from sdapp.metadata.record import read_header

# The fields of a cell that are measured, as they are before that.
UNMEASURED: Mapping[str, Any] = {
    each.name: each.default
    for each in fields(Cell)
    if each.default is not MISSING and each.name != "stochastic"
}


def measure_folder(folder: Path) -> Comparison:
    """Measure all images in the folder of a comparison, write its result files again, and return the results.

    Cells without an image have the status missing or failed, with the reason. Raises MissingInputError and
    InputError if the results cannot be read, OutputError.
    """
    comparison = read_comparison(folder)
    last = {line.id: line for line in ledger.read_ledger(folder / PICTURES)}
    reasons = {job: line.error for job, line in last.items() if line.status != "done"}
    _solution.cache_clear()  # images may have changed since the last call
    references = [_measure_reference(folder, reference) for reference in comparison.references]
    reference_of = comparison.reference_of
    cells = [_measure_cell(folder, cell, reference_of.get(cell.key), reasons) for cell in comparison.cells]
    records = [_record_of(folder, cell.id) for cell in cells if cell.file]
    comparison = replace(
        comparison,
        cells=tuple(cells),
        references=tuple(references),
        hardware=_joined(records, "device") or comparison.hardware,
        dtype=_joined(records, "dtype") or comparison.dtype,
        versions=records[0]["versions"] if records else comparison.versions,
    )
    write_comparison(comparison, folder)
    return comparison


def _joined(records: Iterable[Mapping[str, Any]], key: str) -> str:
    """The value of a key in the records. If there are several, all: timings of different machines differ."""
    return " and ".join(dict.fromkeys(str(record[key]) for record in records))


def _record_of(folder: Path, job: str) -> dict[str, Any]:
    """The record inside the image of a job; empty if there is none."""
    try:
        record = read_header(folder / image_file(job)).get("record")
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


@lru_cache(maxsize=4)
def _solution(folder: Path, reference: str) -> tuple[Image.Image | None, np.ndarray[Any, Any] | None]:
    """The image and latents of a reference; None for what cannot be read."""
    image = latents = None
    with suppress(InputError):
        image = open_image(folder, image_file(reference))
    with suppress(InputError):
        latents, _ = read_latents(folder, reference)
    return image, latents


def _measure_reference(folder: Path, reference: Reference) -> Reference:
    record = _record_of(folder, reference.id)
    (_, first), (_, other) = _solution(folder, reference.id), _solution(folder, reference.other_id)
    return replace(
        reference,
        file=image_file(reference.id) if record else None,
        unet_calls=record.get("unet_calls"),
        distance=rms(other, first) if first is not None and other is not None else None,
    )


def _measure_cell(
    folder: Path, cell: Cell, reference: Reference | None, reasons: Mapping[str, str | None]
) -> Cell:
    cell = replace(cell, **UNMEASURED)
    if not (record := _record_of(folder, cell.id)):
        return replace(cell, status="failed", reason=reasons[cell.id]) if cell.id in reasons else cell
    try:
        image, (latents, timings) = open_image(folder, image_file(cell.id)), read_latents(folder, cell.id)
    except InputError as exc:
        return replace(cell, status="failed", reason=f"{exc}; delete it and compare again")
    timings = [float(record["seconds"]), *timings]
    found: dict[str, Any] = {"unet_calls": record["unet_calls"], "peak_memory": record.get("peak_memory")}
    found |= {"seconds": median(timings), "timings": tuple(timings)}
    target, solution = _solution(folder, reference.id) if reference else (None, None)
    if not cell.stochastic and latents is not None and solution is not None:
        found["solver_error"] = rms(latents, solution)
    if target is not None:
        found["psnr"] = psnr(image, target)
        found["ssim"] = ssim(image, target) if min(image.size) >= WINDOW else None
    return replace(cell, status="done", file=image_file(cell.id), **found)
