"""What a comparison came to, from its folder: pictures, records, latents, and how far they are from the reference."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

from sdapp import ledger, results
from sdapp.comparing import LATENTS, PICTURES, picture
from sdapp.distance import psnr, rms, ssim
from sdapp.errors import InputError
from sdapp.images import decode, read_bytes
from sdapp.outputs import Result, overwrite, read_header
from sdapp.results import Cell, Comparison, Reference


def keep(folder: Path, result: Result, timings: Iterable[float] = ()) -> None:
    """Keep the latents of a result, and how long it took each time, before its picture is published. Raises OutputError."""
    if result.latents is not None and result.picture is not None:
        (folder / LATENTS).mkdir(parents=True, exist_ok=True)
        latents = save({"latents": result.latents.numpy()}, {"timings": json.dumps(list(timings))})
        overwrite(folder / LATENTS / f"{result.job.id}.safetensors", [latents])


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


def _latents(folder: Path, job: str) -> tuple[np.ndarray[Any, Any] | None, list[float]]:
    """The latents of a job and its timings, if they are there."""
    path = folder / LATENTS / f"{job}.safetensors"
    if not path.exists():
        return None, []
    with safe_open(path, "np") as file:
        return file.get_tensor("latents"), json.loads(file.metadata()["timings"])


@lru_cache(maxsize=4)
def _picture(path: Path) -> Image.Image:
    return decode(read_bytes(str(path), "picture")[0], str(path), "picture")


def _measure_reference(folder: Path, reference: Reference) -> Reference:
    record = _record(folder, reference.id)
    (first, _), (other, _) = _latents(folder, reference.id), _latents(folder, reference.other_id)
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
    latents, again = _latents(folder, cell.id)
    timings = (float(record["seconds"]), *again)
    cell = replace(
        cell, status="done", file=picture(cell.id), reason=None, unet_calls=record["unet_calls"], timings=timings,
        seconds=median(timings), peak_memory=record.get("peak_memory"),
    )  # fmt: skip
    if reference is None or reference.file is None:
        return cell
    ours, best = _picture(folder / picture(cell.id)), _picture(folder / reference.file)
    solution, _ = _latents(folder, reference.id)
    error = None if cell.stochastic or latents is None or solution is None else rms(latents, solution)
    return replace(cell, solver_error=error, psnr=psnr(ours, best), ssim=ssim(ours, best))
