"""The folder of a comparison: its images, and the latents from which they were decoded."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sdapp.errors import InputError
from sdapp.images import decode_file
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.files import overwrite
from sdapp.records import Result

PICTURES, LATENTS = "pictures", "latents"


def image_file(job: str) -> str:
    """The file of a job's image, relative to the folder of the comparison."""
    return f"{PICTURES}/{job}{SUFFIXES['png']}"


def open_image(folder: Path, file: str) -> Image.Image:
    """An image of the folder. Raises InputError if it is missing or cannot be read."""
    return decode_file(str(folder / file))


def keep_latents(folder: Path, result: Result, timings: Iterable[float] = ()) -> None:
    """Save the latents and timings (seconds) of a result; call it before the image is published.

    Raises OutputError.
    """
    if result.latents is not None and result.image is not None:
        latents = save({"latents": result.latents.numpy()}, {"timings": json.dumps(list(timings))})
        overwrite(folder / LATENTS / f"{result.job.id}.safetensors", [latents])


def read_latents(folder: Path, job: str) -> tuple[np.ndarray[Any, Any] | None, list[float]]:
    """The latents of a job, [4, h, w] in float32, and its other timings in seconds; (None, []) if none.

    Raises InputError if the file cannot be read.
    """
    path = folder / LATENTS / f"{job}.safetensors"
    if not path.exists():
        return None, []
    try:
        with safe_open(path, "np") as file:
            return file.get_tensor("latents"), json.loads(file.metadata()["timings"])
    except (OSError, SafetensorError) as exc:
        raise InputError(f"cannot read {path}: {exc}") from exc
