"""Upscaler files: whether they are there and what they are, found from their headers without torch."""

import re
from importlib.util import find_spec
from pathlib import Path

from sdapp.config import Upscale
from sdapp.errors import InputError, MissingInputError, UnavailableError
from sdapp.models.files import refuse_others, tensor_digest, tensor_shapes
from sdapp.models.kinds import IN_FILE, IS_UPSCALER, find_kind

KEY = "upscale.model"
LOADED_BY = ("spandrel", "torchvision")
INSTALL = (
    "pip install 'sdapp[upscale]', with a torchvision that was built for your torch "
    "(both from the same index, such as https://download.pytorch.org/whl/cpu)"
)


def check_upscaler(upscale: Upscale) -> Upscale:
    """Return the settings with the path of the upscaler and the SHA-256 of its tensors.

    Raises MissingInputError, UnavailableError for what is no upscaler or without the packages that load one,
    and InputError for another SHA-256 than the settings name.
    """
    assert upscale.model is not None
    path = Path(upscale.model).expanduser()
    refuse_others(upscale.model, path, KEY)
    if not path.is_file():
        raise MissingInputError(f"{KEY}: {upscale.model}: no such file; give an upscaler as .safetensors")
    names = tensor_shapes(path, KEY)
    marks = "".join(f"{name} {'x'.join(map(str, shape))}\n" for name, shape in names.items())
    is_known = re.search(IS_UPSCALER, marks, re.MULTILINE)
    if kind := None if is_known else _whole_model(marks) or find_kind(marks, is_part=True):
        what = kind.partition(";")[0]
        raise UnavailableError(f"{KEY}: {upscale.model} is {what}; give an upscaler such as ESRGAN")
    digest = tensor_digest(path)
    if upscale.sha256 not in (None, digest):
        raise InputError(f"{KEY}: {upscale.model} is not the file that was used: its SHA-256 is {digest}")
    if missing := [name for name in LOADED_BY if find_spec(name) is None]:
        raise UnavailableError(f"upscale: {' and '.join(missing)} are needed to load an upscaler: {INSTALL}")
    return upscale.model_copy(update={"model": str(path), "sha256": digest})


def _whole_model(marks: str) -> str | None:
    return "a Stable Diffusion" if re.search(IN_FILE, marks, re.MULTILINE) else None
