"""Expand an entry of a prompt file into its combinations, and check each over the settings of the batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from sdapp.config import SETTINGS, validate
from sdapp.errors import ConfigError
from sdapp.prompts.files import Entry
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.templates import MAX_VARIANTS, TOO_MANY, ChoiceCheck, expand_all_groups
from sdapp.settings import layers

KeyPath = tuple[str, ...]  # the keys that lead to a nested value


def expand(entry: Entry) -> Iterator[Entry]:
    """Yield every combination of the lists in an entry and of the `{all:a|b}` in its prompt.

    The last field changes fastest. All combinations keep the entry's line, seeds and content, so they have
    the same seeds. An expanded entry expands to itself. Raises ConfigError, with the place, for an empty
    list, wrong braces and more than 100,000 combinations.
    """
    axes = dict(_axes(entry.layer.values, entry.layer.origins, ()))
    if not axes:
        yield entry
        return
    if prod(map(len, axes.values())) > MAX_VARIANTS:
        raise ConfigError(f"{entry.origin}: {TOO_MANY}")
    for chosen in product(*axes.values()):
        values = _with_choices(entry.layer.values, dict(zip(axes, chosen, strict=True)))
        yield replace(entry, layer=layers.Layer(values, entry.layer.origins))


def _axes(
    values: Mapping[str, Any], origins: Mapping[str, str], group: KeyPath
) -> Iterator[tuple[KeyPath, list[Any]]]:
    """Find the fields that have several values, with those values. Raises ConfigError."""
    for name, value in values.items():
        path = (*group, name)
        origin = f"{origins.get('.'.join(path), 'settings')}: {'.'.join(path)}"
        if isinstance(value, dict):
            yield from _axes(value, origins, path)
        elif value == []:
            raise ConfigError(f"{origin}: an empty list; give at least one value")
        elif path == ("prompt",):
            texts = _prompts(value if isinstance(value, list) else [value], origin)
            if texts != [value]:
                yield path, texts
        elif isinstance(value, list) and not (_takes_list(path) and _is_number_list(value)):
            yield path, value


def _prompts(values: list[Any], origin: str) -> list[Any]:
    """Expand `{all:…}` in prompts. A value that is not text stays; the check of the settings refuses it."""
    try:
        expanded = [expand_all_groups(value) if isinstance(value, str) else [value] for value in values]
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    return [prompt for prompts in expanded for prompt in prompts]


def _takes_list(path: KeyPath) -> bool:
    setting = SETTINGS.get(".".join(path))
    return setting is not None and setting.list_is_value


def _is_number_list(value: list[Any]) -> bool:
    """Return whether a list is one value of a setting that takes a list, and not several."""
    return all(isinstance(item, int | float) for item in value)


def _with_choices(values: Mapping[str, Any], chosen: Mapping[KeyPath, Any]) -> dict[str, Any]:
    fresh = deepcopy(dict(values))
    for (*groups, last), value in chosen.items():
        inside: Any = fresh
        for group in groups:
            inside = inside[group]
        inside[last] = value
    size: dict[str, Any] = fresh.pop("size", {})  # a pair of width and height
    return fresh | size


def checked_entries(
    entries: Iterable[Entry], base: Sequence[layers.Layer], folder: Path | None = None
) -> Iterator[Entry]:
    """Expand entries and yield, in their order, those that are valid over the settings in `base`.

    `folder` is the prompt file's, for its wildcard files. Raises PromptFileError after the last good entry,
    with the errors of reading the entries too: `file:line: key: message`, the first 100, and how many more.
    """
    errors = PromptFileError()
    below = layers.merge(list(base))
    choices = ChoiceCheck(folder or Path())
    with errors.collect():
        for entry in entries:
            with errors.collect(entry.line):
                for variant in expand(entry):
                    faults = _check(variant, below, choices)
                    if faults.count:
                        errors.absorb(faults, entry.line)
                    else:
                        yield variant
    errors.raise_if_any()


def _check(entry: Entry, below: layers.Layer, choices: ChoiceCheck) -> PromptFileError:
    faults = PromptFileError()
    merged = layers.merge([below, entry.layer])
    with faults.collect():
        _check_kind(entry.layer, below)
    with faults.collect():
        validate(merged)
    prompt = merged.values.get("prompt")
    with faults.collect(place=f"{merged.origins.get('prompt', entry.origin)}: prompt"):
        if prompt is None:
            raise ConfigError("there is none; give one in the line or in the config")
        if isinstance(prompt, str):
            choices.check(prompt)
    return faults


def _check_kind(layer: layers.Layer, below: layers.Layer) -> None:
    """Refuse an image alone, so img2img, over settings for inpainting, whose mask would be dropped."""
    tasks = [each.values.get("task") for each in (layer, below)]
    kinds = [task.get("kind") if isinstance(task, dict) else None for task in tasks]
    if kinds == ["img2img", "inpaint"] and "task.kind" not in layer.origins:
        raise ConfigError(
            f"{layer.origins['task.image']}: task.kind: the config asks for inpaint, but the line gives an "
            "image and no mask; set task.kind to img2img, or to inpaint to use the mask of the config"
        )
