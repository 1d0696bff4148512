"""What one entry of a prompt file stands for: its combinations and its seeds; and its check."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from sdapp.config import SETTINGS, validate
from sdapp.errors import ConfigError
from sdapp.prompts.files import Entry
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.templates import MAX_VARIANTS, TOO_MANY, expand_all_groups, most_choices, parse
from sdapp.settings import layers

# --- combinations -------------------------------------------------------------------------------------------------


def expand(entry: Entry) -> Iterator[Entry]:
    """Every combination of the lists in its fields and of the `{all:a|b}` in its prompt; the last one said turns fastest.

    All have the entry's line, seeds and content, so the same seeds. An expanded entry expands to itself. Raises ConfigError,
    with its place, for an empty list, broken braces, and more than 100,000 combinations.
    """
    values = entry.layer.values
    axes = dict(_axes(values, entry.layer.origins, ()))
    if prod(map(len, axes.values())) > MAX_VARIANTS:
        raise ConfigError(f"{entry.origin}: {TOO_MANY}")
    for chosen in product(*axes.values()) if axes else ():
        yield replace(
            entry,
            layer=layers.Layer(_with(values, dict(zip(axes, chosen, strict=True))), entry.layer.origins),
        )
    if not axes:
        yield entry


def _axes(
    values: Mapping[str, Any], origins: Mapping[str, str], group: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """The paths of the fields that have several values, and those values."""
    for name, value in values.items():
        path = (*group, name)
        origin = f"{origins.get('.'.join(path), 'settings')}: {'.'.join(path)}"
        if isinstance(value, dict):
            yield from _axes(value, origins, path)
        elif value == []:
            raise ConfigError(f"{origin}: an empty list; give at least one value")
        elif path == ("prompt",):
            texts = [
                text
                for item in (value if isinstance(value, list) else [value])
                for text in expand_all_groups(item, origin)
            ]
            if texts != [value]:
                yield path, texts
        elif isinstance(value, list) and not (_takes_list(path) and _is_number_list(value)):
            yield path, value


def _takes_list(path: tuple[str, ...]) -> bool:
    setting = SETTINGS.get(".".join(path))
    return setting is not None and setting.list_is_value


def _is_number_list(value: list[Any]) -> bool:
    """Return whether a list is one value of a setting that takes a list, and not several."""
    return all(isinstance(item, int | float) for item in value)


def _with(values: Mapping[str, Any], chosen: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    fresh: dict[str, Any] = layers.merge([layers.Layer(dict(values))]).values  # a copy, groups and all
    for (*groups, last), value in chosen.items():
        inside: Any = fresh
        for group in groups:
            inside = inside[group]
        inside[last] = value
    size: dict[str, Any] = fresh.pop("size", {})  # a pair of width and height
    return fresh | size


# --- the check ----------------------------------------------------------------------------------------------------


def checked_entries(
    entries: Iterable[Entry], base: Sequence[layers.Layer], folder: Path | None = None
) -> Iterator[Entry]:
    """Expand entries and yield those that can be painted over the settings in `base`, in their order, as a stream.

    `folder` is the prompt file's, for its wildcards. Raises PromptFileError (a ConfigError) at the end, with every error of
    the entries and of their reading: `file:line: key: what, did you mean`; the first 100, and how many more.
    """
    errors = PromptFileError()
    below = layers.merge(list(base))
    known: dict[str, int] = {}
    try:
        for entry in entries:
            try:
                for variant in expand(entry):
                    faults = list(_faults(variant, below, folder or Path(), known))
                    if not faults:
                        yield variant
                    for fault in faults:
                        errors.add(entry.line, fault)
            except ConfigError as exc:
                errors.add(entry.line, str(exc))
    except PromptFileError as exc:
        errors.absorb(exc)
    if errors.count:
        raise errors


def _faults(entry: Entry, below: layers.Layer, folder: Path, known: dict[str, int]) -> Iterator[str]:
    merged = layers.merge([below, entry.layer])
    examinations: tuple[Callable[[], object], ...] = (
        lambda: _check_kind(entry.layer, below),
        lambda: validate(merged),
        lambda: _check_prompt(merged, f"{entry.origin}: prompt", folder, known),
    )
    for examine in examinations:
        try:
            examine()
        except ConfigError as exc:
            yield str(exc)


def _check_prompt(merged: layers.Layer, origin: str, folder: Path, known: dict[str, int]) -> None:
    prompt = merged.values.get("prompt")
    if prompt is None:
        raise ConfigError(f"{origin}: there is none; give one in the line or in the config")
    try:
        most_choices(parse(prompt) if isinstance(prompt, str) else (), folder, known)
    except ConfigError as exc:
        raise ConfigError(f"{merged.origins.get('prompt', origin)}: prompt: {exc}") from exc


def _check_kind(layer: layers.Layer, below: layers.Layer) -> None:
    """An image alone means img2img; where the settings below ask for inpainting, that would drop their mask unsaid."""
    kinds = [
        task.get("kind") if isinstance(task := said.values.get("task"), dict) else None
        for said in (layer, below)
    ]
    if kinds == ["img2img", "inpaint"] and "task.kind" not in layer.origins:
        raise ConfigError(f"{layer.origins['task.image']}: task.kind: the config asks for inpaint, the line gives an image "
                              "and no mask; say img2img, or inpaint with the config's mask")  # fmt: skip


# --- seeds --------------------------------------------------------------------------------------------------------
