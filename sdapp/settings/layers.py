"""Layers of settings, how they are merged, and where each value comes from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Layer:
    """Nested values; for each dotted key where it was given (`file:line:column`, or the option); notes for the user."""

    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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
    """Lay each layer over those before it. A new scheduler, model or kind of task drops the options of the old one."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for key in list(_superseded(values, layer.values)):
            values.pop(key)
            origins = {dotted: origin for dotted, origin in origins.items() if dotted.split(".")[0] != key}
        _lay_over(values, layer.values)
        origins |= layer.origins
    return Layer(values, origins, tuple(note for layer in layers for note in layer.notes))


def combine(layers: list[Layer]) -> Layer:
    """Put layers that were given together, as on one command line, into one: none of them drops another."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _lay_over(values, layer.values)
        origins |= layer.origins
    return Layer(values, origins, tuple(note for layer in layers for note in layer.notes))


def _superseded(values: Mapping[str, Any], over: Mapping[str, Any]) -> Iterator[str]:
    scheduler, task, below = over.get("scheduler"), over.get("task"), values.get("task")
    if "scheduler" in values and (
        isinstance(scheduler, str) or (isinstance(scheduler, dict) and "name" in scheduler)
    ):
        yield "scheduler"
    if "revision" in values and "model" in over:
        yield "revision"
    if (
        isinstance(task, dict)
        and isinstance(below, dict)
        and "kind" in task
        and task["kind"] != below.get("kind", task["kind"])
    ):
        yield "task"


def _lay_over(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        below = values.get(key)
        if key == "scheduler" and isinstance(below, str) and isinstance(value, dict):
            below = values[key] = {"name": below}
        if key == "scheduler" and isinstance(below, dict) and isinstance(value, str):
            below["name"] = value
        elif isinstance(below, dict) and isinstance(value, dict):
            _lay_over(below, value)
        else:
            values[key] = value if not isinstance(value, dict) else _copy(value)


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    fresh: dict[str, Any] = {}
    _lay_over(fresh, value)
    return fresh
