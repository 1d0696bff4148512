"""The record inside an image of ours."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdapp import images
from sdapp.config import MODEL_KEYS
from sdapp.errors import InputError
from sdapp.jobs import UNSAID, Job
from sdapp.metadata import containers
from sdapp.models.files import BUILT_IN
from sdapp.settings import layers


def to_portable(job: Job, folder: Path) -> dict[str, Any]:
    """The job as plain data, with paths relative to the folder that the image goes to."""

    def beside(path: str) -> str:
        try:
            return f"./{Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()}"
        except ValueError:  # another drive of a Windows machine
            return Path(path).resolve().as_posix()

    content = job.to_data()
    content["task"] |= {key: beside(content["task"][key]) for key in job.inputs}
    if Path(job.model).exists() and job.model != BUILT_IN:
        content["model"] = beside(job.model)
    if job.vae is not None and Path(job.vae).exists():
        content["vae"] = beside(job.vae)
    return content


def to_layer(content: Mapping[str, Any], image: Path) -> layers.Layer:
    """The job inside an image as a layer of settings. Raises InputError if an input file is not what it was."""
    values = UNSAID | {key: value for key, value in content.items() if key != "inputs"} | {"count": 1}
    task, inputs = content.get("task", {}), content.get("inputs", {})
    if not (
        isinstance(task, dict)
        and isinstance(inputs, dict)
        and all(isinstance(task.get(key), str) for key in inputs)
    ):
        raise InputError(f"{image}: its record is broken: task and inputs do not fit together")
    if strange := sorted(content.keys() - Job.model_fields.keys()):
        raise InputError(f"{image}: its record is broken: a job has no {', '.join(map(repr, strange))}")
    values["task"] = task | {key: str(image.parent / task[key]) for key in inputs}
    for key, digest in inputs.items():
        path = values["task"][key]
        if images.read_bytes(path, f"{image}: task.{key}")[1] != digest:
            raise InputError(f"{image}: task.{key}: {path} is not the file that this image was painted from")
    for key in MODEL_KEYS:
        if str(values.get(key, "")).startswith("."):
            values[key] = layers.anchor(values[key], image.parent)
    return layers.Layer(values, {dotted: str(image) for dotted in dotted_keys(values)})


def dotted_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys of nested values, as `task.image`."""
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        found += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


CHUNK = "sdapp"  # the PNG text chunk that holds job and record; other formats have them in the XMP packet
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def read_image(path: Path) -> dict[str, Any]:
    """The `job` and the `record` inside an image, which is read to its end. Raises MissingInputError, InputError."""
    return parse_content(
        images.decode_image(images.read_bytes(str(path), "image")[0], str(path), "image"), path
    )


def read_header(path: Path) -> dict[str, Any]:
    """The same without the pixels, for folders of thousands: sdapp writes its record before them. Raises InputError."""
    try:
        with Image.open(path, formats=tuple(SUFFIXES)) as image:
            return parse_content(image, path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise InputError(f"{path}: broken: {exc}") from exc


def record_text(image: Image.Image) -> str | None:
    text = image.info.get(CHUNK)
    return text if isinstance(text, str) else containers.record_in(image.info.get("xmp"))


def parse_content(image: Image.Image, path: Path) -> dict[str, Any]:
    text = record_text(image)
    try:
        content = json.loads(text) if text is not None else None
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path}: its record is broken: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("job"), dict):
        raise InputError(f"{path}: has no sdapp record inside; was it edited, or painted by another tool?")
    return content
