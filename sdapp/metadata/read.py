"""Find out which tool made an image, and read its settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdapp import images
from sdapp.config import Folders
from sdapp.errors import InputError
from sdapp.metadata.carry import Carried
from sdapp.metadata.comfyui import read_comfyui
from sdapp.metadata.containers import texts
from sdapp.metadata.infotext_read import read_infotext, read_prompts_only
from sdapp.metadata.named import read_named, refuse
from sdapp.metadata.record import dotted_keys, parse_content, record_text, to_layer
from sdapp.profiles import PROFILES
from sdapp.settings.layers import Layer

# From `containers.texts`: the name of the tool and its settings; None if it is not this reader's tool.
Reader = Callable[[Mapping[str, str]], tuple[str, Carried] | None]
TOOL_READERS: tuple[Reader, ...] = (  # the first that finds something wins
    read_infotext, read_comfyui, read_named, refuse, read_prompts_only,
)  # fmt: skip

DIFFERS = (
    "what can still differ: its attention (xformers), half precision, another version, and files that are "
    "missing here"
)


def read_foreign(info: Mapping[Any, Any], folders: Folders | None = None) -> tuple[str, Carried] | None:
    """Return the tool that made an image and what is carried over; None if no tool is recognized.

    `info` is Pillow's `image.info`. LoRAs and embeddings are looked for in `folders`. Raises InputError for
    metadata that is too long, too deep, broken, or of a tool that is not read.
    """
    found = texts(info)
    result = next(filter(None, (reader(found) for reader in TOOL_READERS)), None)
    if result is not None:
        result[1].use_folders(folders or Folders())
    return result


def read_settings(path: Path, folders: Folders | None = None) -> Layer:
    """Return the settings inside an image, made by sdapp or another tool, as a layer.

    LoRAs and embeddings that an image of another tool names are looked for in `folders`. Its notes name what
    was not carried over. Raises MissingInputError, InputError.
    """
    image = images.decode_file(str(path))
    if record_text(image) is not None:
        return to_layer(parse_content(image, path)["job"], path)
    try:
        found = read_foreign(image.info, folders)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc
    if found is None:
        missing = "has no sdapp record inside, and no settings of another tool"
        raise InputError(f"{path}: {missing}; use the original file: editors and messengers remove them")
    tool, carried = found
    values, left_out = carried.values, "; ".join(carried.left_out)
    if not {"width", "height"} & values.keys() and not (image.width % 8 or image.height % 8):
        values |= {"width": image.width, "height": image.height}
    notes = [f"{path} was made by {tool}; not carried over: {left_out}"] if left_out else []
    notes += [f"{path}: {note}" for note in carried.notes]
    if profile := values.get("profile"):
        label = PROFILES[profile].label
        notes.append(f"{path} sets profile: {profile}, to be painted as {label} does; {DIFFERS}")
    origins = {dotted: str(path) for dotted in ("model", *dotted_keys(values))}
    return Layer(values, origins, tuple(notes), carried.model)
