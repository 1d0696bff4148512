"""sdapp's own record inside an image: the job and what happened when it ran."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdapp import images
from sdapp.config import MODEL_KEYS, usual_values
from sdapp.errors import InputError
from sdapp.jobs import LATER_DEFAULTS, Job
from sdapp.metadata import containers
from sdapp.models.files import BUILT_IN
from sdapp.settings import layers

CHUNK = "sdapp"  # the PNG text chunk with job and record; other formats have them in the XMP packet
ALWAYS_SHOWN = ("scheduler", "steps", "guidance_scale", "seed", "width", "height")
SHOWN_APART = ("prompt", "negative_prompt", "model", "revision", "inputs")
NOTHING_SAVED = {"offload": "none", "vae_slicing": False, "vae_tiling": False}  # as auto was recorded once
# Settings that are lists of groups, with a text that each group has.
LISTED = {"loras": "file", "embeddings": "file", "control": "image", "detail": "mask_prompt"}
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def to_portable(job: Job, folder: Path) -> dict[str, Any]:
    """Return the job as plain data, with paths relative to the folder of the image."""

    def relative(path: str) -> str:
        try:
            return f"./{Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()}"
        except ValueError:  # another drive on Windows
            return Path(path).resolve().as_posix()

    content = job.to_data()
    content["task"] |= {key: relative(content["task"][key]) for key in job.inputs}
    for key in ("loras", "embeddings"):
        content[key] = [each | {"file": relative(each["file"])} for each in content[key]]
    if job.upscale and job.upscale.model and Path(job.upscale.model).exists():
        content["upscale"]["model"] = relative(job.upscale.model)
    for each in content["control"]:
        each["image"] = relative(each["image"])
        each["model"] = relative(each["model"]) if Path(each["model"]).exists() else each["model"]
    groups = [(content, key) for key in MODEL_KEYS & content.keys()]
    groups += [(each, "mask_model") for each in (content["task"], *content["detail"])]
    for group, key in groups:
        if group.get(key) not in (None, BUILT_IN) and Path(group[key]).exists():
            group[key] = relative(group[key])
    return content


def to_layer(content: Mapping[str, Any], image: Path) -> layers.Layer:
    """Return the job inside an image as a layer of settings. Raises InputError if an input file changed."""
    task, inputs = content.get("task", {}), content.get("inputs", {})
    given = {key: value for key, value in content.items() if key not in _derived(task)}
    values = LATER_DEFAULTS | given | {"count": 1}
    are_mappings = isinstance(task, dict) and isinstance(inputs, dict)
    if not are_mappings or not all(isinstance(task.get(key), str) for key in inputs):
        raise InputError(f"{image}: its record is broken: task and inputs do not match")
    if unknown := sorted(content.keys() - Job.model_fields.keys()):
        raise InputError(f"{image}: its record is broken: a job has no {', '.join(map(repr, unknown))}")
    values["task"] = task | {key: str(image.parent / task[key]) for key in inputs}
    for key, digest in inputs.items():
        path = values["task"][key]
        if images.inputs.read(path, f"{image}: task.{key}")[1] != digest:
            raise InputError(f"{image}: task.{key}: {path} is not the file that this image was made from")
    if isinstance(values.get("scheduler"), dict):
        values["scheduler"] = values["scheduler"] | {"exact": True}  # it ran as it is
    for key, name in LISTED.items():
        groups = content.get(key, [])
        if not isinstance(groups, list) or not all(
            isinstance(each, dict) and isinstance(each.get(name), str) for each in groups
        ):
            raise InputError(f"{image}: its record is broken: its {key} are no list of {name}s")
        has_file = name in ("file", "image")
        values[key] = [each | ({name: str(image.parent / each[name])} if has_file else {}) for each in groups]
    # Details of before there was `mask_blur` have a hard edge.
    values["detail"] = [{"mask_blur": 0} | each for each in values["detail"]]
    values["upscale"] = _anchored_upscale(content.get("upscale"), image.parent)
    groups = [(values, key) for key in MODEL_KEYS] + [(each, "model") for each in values["control"]]
    groups += [(each, "mask_model") for each in (values["task"], *values["detail"])]
    for group, key in groups:
        if str(group.get(key, "")).startswith("."):
            group[key] = layers.anchor(group[key], image.parent)
    return layers.Layer(values, {dotted: str(image) for dotted in dotted_keys(values)})


def _derived(task: Any) -> tuple[str, ...]:
    """The fields of a job that follow from others; the size too, where it is that of an input image."""
    has_own_size = isinstance(task, dict) and task.get("kind") in ("outpaint", "upscale")
    return ("inputs", "width", "height") if has_own_size else ("inputs",)


def _anchored_upscale(upscale: Any, folder: Path) -> Any:
    """The settings of upscaling with the path of the upscaler, if there is one, in a folder."""
    model = upscale.get("model") if isinstance(upscale, dict) else None
    if not isinstance(model, str) or (upscale.get("method") == "diffusion" and not model.startswith(".")):
        return upscale
    return upscale | {"model": str(folder / model)}


def settings_in_words(job: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a job as text, without prompts and model; most only if they are not the defaults."""
    usual = usual_values()
    return {
        key: _unquoted(value)
        for key, value in job.items()
        if key in ALWAYS_SHOWN
        or (key not in SHOWN_APART and value not in (usual.get(key), [], NOTHING_SAVED))
    }


def _unquoted(value: Any) -> str:
    """A value as text without quotes; of a scheduler without options only its name."""
    if isinstance(value, dict) and value.get("options") == {}:
        value = value.get("name")
    if isinstance(value, dict):  # without colons, for which YAML would put the whole line in quotes
        shown = {k: each for k, each in value.items() if each is not None and not k.endswith("sha256")}
        return ", ".join(f"{key} {_unquoted(each)}" for key, each in shown.items())
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "; ".join(map(_unquoted, value))
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def dotted_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys of nested values, such as `task` and `task.image`."""
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        found += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


def read_image(path: Path) -> dict[str, Any]:
    """Return the `job` and the `record` inside an image, and decode its pixels as a check.

    Raises MissingInputError, InputError.
    """
    return parse_content(images.decode_file(str(path)), path)


def read_header(path: Path) -> dict[str, Any]:
    """Return the `job` and the `record` inside an image without decoding it. Raises InputError."""
    try:
        with Image.open(path, formats=tuple(SUFFIXES)) as image:
            return parse_content(image, path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise InputError(f"{path}: broken: {exc}") from exc


def record_text(image: Image.Image) -> str | None:
    """Return the record inside an image as JSON; None if there is none."""
    text = image.info.get(CHUNK)
    return text if isinstance(text, str) else containers.record_in(image.info.get("xmp"))


def parse_content(image: Image.Image, path: Path) -> dict[str, Any]:
    """Return the `job` and the `record` inside an image. Raises InputError if they are missing or broken."""
    text = record_text(image)
    try:
        content = json.loads(text) if text is not None else None
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path}: its record is broken: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("job"), dict):
        raise InputError(f"{path}: has no sdapp record inside; was it edited, or made by another tool?")
    return content
