"""Expand an entry of a prompt file into its combinations, and check each over the settings of the batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from sdapp.config import SETTINGS, RunConfig
from sdapp.errors import ConfigError
from sdapp.prompts.columns import TEMPLATES
from sdapp.prompts.files import Entry
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.templates import MAX_VARIANTS, TOO_MANY, ChoiceCheck, expand_all_groups
from sdapp.settings import layers
from sdapp.validation import validate


def expand(entry: Entry) -> Iterator[Entry]:
    """Yield every combination of the lists in an entry and of the `{all:a|b}` in its prompts.

    The last field changes fastest. All combinations keep the entry's line, seeds and content, so they have
    the same seeds. An expanded entry expands to itself. Raises ConfigError, with the place, for an empty
    list, wrong braces and more than 100,000 combinations.
    """
    axes = {}
    for key, value in entry.values.items():
        try:
            options = _options(key, value)
        except ConfigError as exc:
            raise ConfigError(f"{entry.origins.get(key, entry.place)}: {key}: {exc}") from exc
        if options != [value]:
            axes[key] = options
    variants = prod(map(len, axes.values()))
    if variants > MAX_VARIANTS:
        raise ConfigError(f"{entry.place}: {TOO_MANY}")
    for chosen in product(*axes.values()):
        values = {**entry.values, **dict(zip(axes, chosen, strict=True))}
        yield replace(entry, values=values, variants=variants) if axes else entry


def _options(key: str, value: Any) -> list[Any]:
    """Return the values that a setting of an entry stands for. Raises ConfigError without a place."""
    values = value if isinstance(value, list) else [value]
    takes = SETTINGS[key].list_of if key in SETTINGS else ()
    if not values and dict not in takes:
        raise ConfigError("an empty list; give at least one value")
    if key in TEMPLATES:  # what is no text is refused with the other settings
        texts = (expand_all_groups(each) if isinstance(each, str) else [each] for each in values)
        return [each for expanded in texts for each in expanded]
    return [value] if takes and all(isinstance(item, takes) for item in values) else values


def checked_entries(
    entries: Iterable[Entry], base: Sequence[layers.Layer], folder: Path | None = None
) -> Iterator[tuple[Entry, RunConfig]]:
    """Expand entries and yield, in their order, those that are valid over `base`, with all their settings.

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
                    config, faults = _check(variant, below, choices)
                    if config is None or faults.count:
                        errors.absorb(faults, entry.line)
                    else:
                        yield variant, config
    errors.raise_if_any()


def _check(
    entry: Entry, below: layers.Layer, choices: ChoiceCheck
) -> tuple[RunConfig | None, PromptFileError]:
    faults, config = PromptFileError(), None
    merged = layers.merge([below, entry.layer])
    with faults.collect():
        _check_kind(entry, below)
    with faults.collect():
        config = validate(merged)
    if merged.values.get("prompt") is None:
        faults.add(0, f"{entry.place}: prompt: there is none; give one in the line or in the config")
    for key in TEMPLATES:
        text = merged.values.get(key)
        with faults.collect(place=f"{merged.origins.get(key, entry.place)}: {key}"):
            if isinstance(text, str):
                choices.check(text)
    return config, faults


def _check_kind(entry: Entry, below: layers.Layer) -> None:
    """Refuse an image alone, so img2img, over settings for inpainting, whose mask would be dropped."""
    task = below.values.get("task")
    is_img2img = entry.values.get("task.kind") == "img2img" and "task.kind" not in entry.origins
    if is_img2img and isinstance(task, dict) and task.get("kind") == "inpaint":
        raise ConfigError(
            f"{entry.origins['task.image']}: task.kind: the config asks for inpaint, but the line gives an "
            "image and no mask; set task.kind to img2img, or to inpaint to use the mask of the config"
        )
