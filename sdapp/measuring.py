"""What a comparison came to, from its folder: pictures, records, latents, and how far they are from the reference."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from sdapp import ledger, results
from sdapp.distance import psnr, rms, ssim
from sdapp.errors import InputError
from sdapp.images import decode, read_bytes
from sdapp.latents import PICTURES, picture, read_latents
from sdapp.outputs import read_header
from sdapp.results import Cell, Comparison, Reference


def measure(folder: Path) -> Comparison:
    """Look at everything in the folder of a comparison, write its results anew, and return them.

    What is not painted yet is missing, what failed says why. Raises MissingInputError, InputError, OutputError.
    """
    comparison = results.read(folder)
    reasons = {line.id: line.error for line in ledger.read(folder / PICTURES) if line.status == "failed"}
    references = [_measure_reference(folder, reference) for reference in comparison.references]
    beside = {_where(reference): reference for reference in references}
    cells = [_measure_cell(folder, cell, beside.get(_where(cell)), reasons) for cell in comparison.cells]
    ran = next((record for cell in cells if cell.file and (record := _record(folder, cell.id))), {})
    comparison = replace(
        comparison,
        cells=tuple(cells),
        references=tuple(references),
        hardware=str(ran.get("device", comparison.hardware)),
        dtype=str(ran.get("dtype", comparison.dtype)),
        versions=ran.get("versions", comparison.versions),
    )
    results.write(comparison, folder)
    return comparison


def _where(item: Cell | Reference) -> tuple[Any, ...]:
    return item.prompt, item.seed, tuple(item.varied.items())


def _record(folder: Path, job: str) -> dict[str, Any]:
    """The record inside the picture of a job; empty where there is none."""
    try:
        record = read_header(folder / picture(job)).get("record")
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


@lru_cache(maxsize=4)
def _picture(path: Path) -> Image.Image:
    return decode(read_bytes(str(path), "picture")[0], str(path), "picture")


def _measure_reference(folder: Path, reference: Reference) -> Reference:
    record = _record(folder, reference.id)
    (first, _), (other, _) = read_latents(folder, reference.id), read_latents(folder, reference.other_id)
    return replace(
        reference,
        file=picture(reference.id) if record else None,
        unet_calls=record.get("unet_calls"),
        distance=rms(other, first) if first is not None and other is not None else None,
    )


def _measure_cell(folder: Path, cell: Cell, reference: Reference | None, reasons: Mapping[str, str | None]) -> Cell:
    record = _record(folder, cell.id)
    if not record:
        reason = reasons.get(cell.id)
        return replace(cell, status="failed" if reason else "missing", file=None, reason=reason)
    latents, again = read_latents(folder, cell.id)
    timings = (float(record["seconds"]), *again)
    cell = replace(
        cell, status="done", file=picture(cell.id), reason=None, unet_calls=record["unet_calls"], timings=timings,
        seconds=median(timings), peak_memory=record.get("peak_memory"),
    )  # fmt: skip
    if reference is None or reference.file is None:
        return cell
    ours, best = _picture(folder / picture(cell.id)), _picture(folder / reference.file)
    solution, _ = read_latents(folder, reference.id)
    error = None if cell.stochastic or latents is None or solution is None else rms(latents, solution)
    return replace(cell, solver_error=error, psnr=psnr(ours, best), ssim=ssim(ours, best))
