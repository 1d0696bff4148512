"""Layers of settings, how they are merged, and where each value comes from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Groups that may be given as one value: of which key, and its types.
ONE_VALUE: dict[str, tuple[str, tuple[type, ...]]] = {
    "scheduler": ("name", (str,)), "upscale": ("scale", (int, float)), "score": ("kind", (str,)),
}  # fmt: skip
ITEM = re.compile(r"\.\d+(?=\.|$)")  # in a dotted key: the number of an item in a list


@dataclass(frozen=True)
class Layer:
    """Nested values, and the place of each dotted key: `file:line:column`, or the option that gave it."""

    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # on what was read, for the user; merged layers have none
    named_model: str = ""  # the model that an image of another program names, if no layer above gives one


def anchor(model: str, folder: Path) -> str:
    """Return the path of a model in a folder; it keeps its `./`, since `org/name` alone is a Hub id."""
    return f"{folder}/{model}" if folder.parts else model


def override(dotted: str, value: object, origin: str) -> Layer:
    """Return a layer of one value."""
    values: Any = value
    for part in reversed(dotted.split(".")):
        values = {part: values}
    return Layer(values, {dotted: origin})


def merge(layers: list[Layer]) -> Layer:
    """Lay each layer over those before it.

    A new scheduler, model or kind of task drops the options of the old one. Outpainting and upscaling
    drop a size, since theirs follows from the image.
    """
    merged = Layer({})
    for layer in layers:
        dropped = set(_superseded(merged.values, layer))
        values = {key: value for key, value in merged.values.items() if key not in dropped}
        origins = {key: value for key, value in merged.origins.items() if key.split(".")[0] not in dropped}
        merged = combine([Layer(values, origins, named_model=merged.named_model), layer])
    return merged


def combine(layers: list[Layer]) -> Layer:
    """Put layers that were given together, as on one command line, into one: none of them drops another."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    named_model = ""
    for layer in layers:
        _lay_over(values, layer.values)
        origins = {key: place for key, place in origins.items() if not _is_in_list(key, layer)}
        origins |= layer.origins
        named_model = layer.named_model or ("" if "model" in layer.values else named_model)
    return Layer(values, origins, named_model=named_model)


def _is_in_list(dotted: str, layer: Layer) -> bool:
    """Whether a key is of an item of a list that a layer replaces."""
    item = ITEM.search(dotted)
    return item is not None and dotted[: item.start()] in layer.origins


def _superseded(values: Mapping[str, Any], layer: Layer) -> Iterator[str]:
    over = layer.values
    match over.get("scheduler"):
        case str() | {"name": _}:
            yield "scheduler"
    if "model" in over or layer.named_model:
        yield from ("model", "revision")
    match values.get("task"), over.get("task"):
        case {"kind": below}, {"kind": kind} if kind != below:
            yield "task"
    match over.get("task"):
        case {"kind": "outpaint" | "upscale"}:
            yield from ("width", "height")


def _lay_over(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        below = values.get(key)
        main, is_one = ONE_VALUE.get(key, ("", ()))
        if isinstance(below, is_one) and isinstance(value, dict):
            below = values[key] = {main: below}
        if isinstance(below, dict) and isinstance(value, is_one):
            below[main] = value
        elif isinstance(value, dict):
            if not isinstance(below, dict):
                below = values[key] = {}
            _lay_over(below, value)
        else:
            values[key] = value
