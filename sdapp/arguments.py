"""The keyword arguments of the Python functions as a layer of settings: paths and images in memory too."""

import hashlib
import os
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps
from platformdirs import user_cache_path

from sdapp.errors import ConfigError
from sdapp.outputs.files import create
from sdapp.settings.layers import Layer

TASK_KEYS = ("image", "mask", "mask_prompt", "mask_model", "mask_blur", "strength", "padding")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def as_layer(arguments: Mapping[str, Any]) -> Layer:
    """Return arguments as a layer. Those of `TASK_KEYS`, such as `image` and `mask`, go into `task`.

    Images of Pillow are kept as files. Raises ConfigError, OutputError.
    """
    values = {key: _as_setting(key, value) for key, value in arguments.items() if key not in TASK_KEYS}
    task = {key: _as_setting(key, arguments[key]) for key in TASK_KEYS if arguments.get(key) is not None}
    if task:
        is_masked = "mask" in task or "mask_prompt" in task
        kind = {"kind": "inpaint" if is_masked else "img2img"} if "image" in task else {}
        given = values.get("task", {})
        values["task"] = kind | (given if isinstance(given, dict) else {"kind": given}) | task
    return Layer(values)


def _as_setting(key: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _as_setting(name, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_setting(key, item) for item in value]
    if isinstance(value, Image.Image):
        return _kept(key, value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _kept(key: str, image: Image.Image) -> str:
    """Return the path of an image as a PNG in the user's cache, named by its SHA-256.

    So its jobs have ids and records like those of a file, and can be painted again.
    """
    if image.mode not in PNG_MODES:
        raise ConfigError(f"{key}: an image of mode {image.mode} cannot be kept as a PNG; convert it to RGB")
    buffer = BytesIO()
    ImageOps.exif_transpose(image).save(buffer, "png", compress_level=1)
    data = buffer.getvalue()
    path = user_cache_path("sdapp") / "inputs" / f"{hashlib.sha256(data).hexdigest()}.png"
    if not path.exists():
        create(path, data)
    return str(path)
