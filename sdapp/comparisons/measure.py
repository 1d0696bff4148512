"""What a comparison came to, from its folder: images, records, latents, and how far they are from the reference."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from sdapp.batches import ledger
from sdapp.comparisons import cells as results
from sdapp.comparisons.cells import Cell, Comparison, Reference
from sdapp.comparisons.folder import PICTURES, image_file, read_latents
from sdapp.comparisons.metrics import WINDOW, psnr, rms, ssim
from sdapp.errors import InputError
from sdapp.images import decode_image, read_bytes
from sdapp.metadata.record import read_header


def measure_folder(folder: Path) -> Comparison:
    """Look at everything in the folder of a comparison, write its results anew, and return them.

    What is not painted yet is missing, what failed says why. Raises MissingInputError, InputError, OutputError.
    """
    comparison = results.read_comparison(folder)
    last = {line.id: line for line in ledger.read_ledger(folder / PICTURES)}
    reasons = {job: line.error for job, line in last.items() if line.status == "failed"}
    _solution.cache_clear()  # images may have come and gone since
    references = [_measure_reference(folder, reference) for reference in comparison.references]
    beside = {_where(reference): reference for reference in references}
    cells = [_measure_cell(folder, cell, beside.get(_where(cell)), reasons) for cell in comparison.cells]
    records = [_record_of(folder, cell.id) for cell in cells if cell.file]
    comparison = replace(
        comparison,
        cells=tuple(cells),
        references=tuple(references),
        hardware=_joined(records, "device") or comparison.hardware,
        dtype=_joined(records, "dtype") or comparison.dtype,
        versions=records[0]["versions"] if records else comparison.versions,
    )
    results.write_comparison(comparison, folder)
    return comparison


def _joined(records: Iterable[Mapping[str, Any]], key: str) -> str:
    """What the records say; all of it where they differ, for then the seconds do too."""
    return " and ".join(dict.fromkeys(str(record[key]) for record in records))


def _where(item: Cell | Reference) -> tuple[Any, ...]:
    return item.prompt, item.seed, tuple(item.varied.items())


def _record_of(folder: Path, job: str) -> dict[str, Any]:
    """The record inside the image of a job; empty where there is none."""
    try:
        record = read_header(folder / image_file(job)).get("record")
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


def _image(folder: Path, job: str) -> Image.Image:
    path = str(folder / image_file(job))
    return decode_image(read_bytes(path, "image")[0], path, "image")


@lru_cache(maxsize=4)
def _solution(folder: Path, reference: str) -> tuple[Image.Image | None, np.ndarray[Any, Any] | None]:
    """Image and latents of a reference, where they can be read; the report draws what cannot."""
    shown = latents = None
    with suppress(InputError):
        shown = _image(folder, reference)
    with suppress(InputError):
        latents, _ = read_latents(folder, reference)
    return shown, latents


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
    cell = replace(
        cell, status="missing", file=None, unet_calls=None, seconds=None, timings=(), peak_memory=None, solver_error=None,
        psnr=None, ssim=None, reason=None,
    )  # fmt: skip
    if not (record := _record_of(folder, cell.id)):
        return replace(cell, status="failed", reason=reasons[cell.id]) if cell.id in reasons else cell
    try:
        ours, (latents, again) = _image(folder, cell.id), read_latents(folder, cell.id)
    except InputError as exc:
        return replace(cell, status="failed", reason=f"{exc}; delete it and compare again")
    timings = (float(record["seconds"]), *again)
    cell = replace(
        cell, status="done", file=image_file(cell.id), unet_calls=record["unet_calls"], timings=timings, seconds=median(timings),
        peak_memory=record.get("peak_memory"),
    )  # fmt: skip
    shown, solution = _solution(folder, reference.id) if reference else (None, None)
    if not cell.stochastic and latents is not None and solution is not None:
        cell = replace(cell, solver_error=rms(latents, solution))
    if shown is None:
        return cell
    return replace(cell, psnr=psnr(ours, shown), ssim=ssim(ours, shown) if min(ours.size) >= WINDOW else None)
