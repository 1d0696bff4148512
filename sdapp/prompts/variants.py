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

MAX_KINDS = 1_000  # of entries whose settings are remembered
SEEDS = range(2**32)  # of usual size


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
    settings = _Settings(layers.merge(list(base)))
    choices = ChoiceCheck(folder or Path())
    with errors.collect():
        for entry in entries:
            with errors.collect(entry.line):
                for variant in expand(entry):
                    config, faults = _check(variant, settings, choices)
                    if config is None or faults.count:
                        errors.absorb(faults, entry.line)
                    else:
                        yield variant, config
    errors.raise_if_any()


class _Settings:
    """Checks the settings of entries over those below; entries that differ only in prompts and seeds share a
    check.
    """

    def __init__(self, below: layers.Layer) -> None:
        self.below = below
        self._known: dict[str, RunConfig] = {}  # by what else an entry has

    def of(self, entry: Entry) -> RunConfig:
        """All settings of an entry. Raises ConfigError."""
        own = {key: value for key, value in entry.values.items() if _is_right(key, value)}
        kind = repr((sorted(own), {key: value for key, value in entry.values.items() if key not in own}))
        if known := self._known.get(kind):
            return known.model_copy(update=own)
        config = validate(layers.merge([self.below, entry.layer]))
        if len(self._known) < MAX_KINDS:
            self._known[kind] = config
        return config


def _is_right(key: str, value: Any) -> bool:
    """Whether a value is right, whatever the other settings are: a prompt, or a seed of usual size."""
    if key == "seed":
        return type(value) is int and value in SEEDS
    return key in TEMPLATES and isinstance(value, str)


def _check(
    entry: Entry, settings: _Settings, choices: ChoiceCheck
) -> tuple[RunConfig | None, PromptFileError]:
    faults, config, below = PromptFileError(), None, settings.below
    with faults.collect():
        _check_kind(entry, below)
    with faults.collect():
        config = settings.of(entry)
    prompts = {key: entry.values.get(key, below.values.get(key)) for key in TEMPLATES}
    if prompts["prompt"] is None:
        faults.add(0, f"{entry.place}: prompt: there is none; give one in the line or in the config")
    for key, text in prompts.items():
        origin = entry.origins.get(key) or below.origins.get(key, entry.place)
        with faults.collect(place=f"{origin}: {key}"):
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
