"""The axes of a grid: what changes along each, and the settings that each of its values gives."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdapp.config import SETTINGS, ImageSettings, ModelSettings, read_override
from sdapp.errors import ConfigError, SdappError, did_you_mean, gathered
from sdapp.prompts.columns import known_key
from sdapp.settings.layers import Layer, combine, merge, override
from sdapp.settings.ranges import RANGE, numbers

AxisGiven = str | Mapping[str, Any]  # `steps=10,20`, or {"steps": [10, 20]}
LETTERS = ("x", "y", "z")
SIZE = re.compile(r"([0-9]{1,9})[xX×]([0-9]{1,9})")
WORDS, LORA = ("prompt", "negative_prompt"), "lora"  # keys with a word after a colon
FREE = "scheduler.options."  # what follows is an option of the scheduler's class
GROUPS = ("memory", "task", "scheduler.name", "scheduler.options")
DECIDING = {**ImageSettings.model_fields, **ModelSettings.model_fields}  # what decides the pixels of an image
KEYS = (
    "size", "memory.vae_tiling",
    *(key for key in SETTINGS if key in DECIDING and key not in GROUPS),
    *(key for key in SETTINGS if key.startswith("task.")),
)  # fmt: skip
# What A1111 calls an axis, for the text inside grid.png; others keep their name.
A1111_NAMES = {
    "guidance_scale": "CFG Scale", "scheduler": "Sampler", "model": "Checkpoint name",
    "vae": "VAE", "steps": "Steps", "seed": "Seed", "task.strength": "Denoising",
    "clip_skip": "Clip skip", "eta": "Eta",
    "size": "Size", "prompt": "Prompt S/R", "negative_prompt": "Prompt S/R",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One axis: a setting, or a word of a prompt that is replaced, or a LoRA whose weight changes."""

    letter: str  # x, y or z
    key: str  # dotted; `prompt`, `negative_prompt` or `lora` with a word
    word: str  # the word or the LoRA; "" for a setting
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """`guidance_scale`, or `prompt:castle`."""
        return f"{self.key}:{self.word}" if self.word else self.key

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(_label(self.key, value) for value in self.values)

    @property
    def a1111_type(self) -> str:
        plain = self.word or self.key not in WORDS
        return A1111_NAMES.get(self.key, self.name) if plain else self.name

    @property
    def a1111_values(self) -> str:
        """The values as A1111 writes them; of a replaced word that is the first one."""
        labels = self.labels
        if self.key == "clip_skip":
            labels = tuple(str(value + 1) for value in self.values)
        if self.key in WORDS and self.word:
            labels = tuple(dict.fromkeys((self.word, *labels)))
        return ", ".join(f'"{label}"' if "," in label else label for label in labels)

    def apply(self, settings: Layer, index: int) -> Layer:
        """Lay a value of this axis over settings. Raises ConfigError if a word is not in the prompt."""
        value, origin = self.values[index], f"--{self.letter} {self.name}"
        if self.key == LORA:
            return _weighted(settings, self.word, value, origin)
        if self.word:
            text = settings.values.get(self.key) or ""
            if self.word not in text:
                raise ConfigError(
                    f"{origin}: the {self.key.replace('_', ' ')} has no {self.word!r}: {text!r}"
                )
            return merge([settings, override(self.key, text.replace(self.word, value), origin)])
        if self.key == "size":
            sides = [override(side, value[place], origin) for place, side in enumerate(("width", "height"))]
            return merge([settings, combine(sides)])
        return merge([settings, override(self.key, value, f"--{self.letter}")])  # the message names the key


def read_axes(given: Mapping[str, AxisGiven | None]) -> tuple[Axis, ...]:
    """Return the axes of `x`, `y` and `z`. Raises ConfigError with everything that is wrong."""
    axes: list[Axis] = []
    errors: list[SdappError] = []
    for letter, one in given.items():
        try:
            axes += [_read_axis(letter, one)] if one is not None else []
        except ConfigError as exc:
            errors.append(exc)
    names = [axis.name for axis in axes]
    for axis in axes:
        if names.count(axis.name) > 1:
            errors.append(ConfigError(f"--{axis.letter} {axis.name}: two axes change the same setting"))
    if errors:
        raise gathered(errors)
    if [axis.letter for axis in axes] != [*LETTERS[: len(axes)]] or not axes:
        missing = next(letter for letter in LETTERS if letter not in {axis.letter for axis in axes})
        raise ConfigError(f"--{missing}: give it, such as --{missing} guidance_scale=3,5,7.5")
    return tuple(axes)


def _read_axis(letter: str, given: AxisGiven) -> Axis:
    if isinstance(given, str):
        name, equals, text = given.partition("=")
        if not equals or not name.strip() or not text.strip():
            way = "write it as KEY=VALUE,VALUE, such as guidance_scale=1-20 or scheduler=euler-a,unipc"
            raise ConfigError(f"--{letter}: {way}, not {given!r}")
    else:
        if len(given) != 1:
            raise ConfigError(f"{letter}: one setting and its values, not {len(given)}")
        [(name, text)] = given.items()
    key, word = _find_key(letter, name.strip())
    origin = f"--{letter} {name.strip()}"
    read = _reader(key, word)
    if isinstance(text, str):
        values = [value for part in _split(text) for value in read(part, origin)]
    else:
        given_values = [text] if not isinstance(text, Sequence) else text
        values = [
            v for each in given_values for v in (read(each, origin) if isinstance(each, str) else [each])
        ]
    if not values:
        raise ConfigError(f"{origin}: give at least one value")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{origin}: {_label(key, value)} is in the list more than once")
    if key == "seed" and -1 in values:
        raise ConfigError(
            f"{origin}: -1 is a random seed, which no second run would find; give numbers, such as 1-3"
        )
    return Axis(letter, key, word, tuple(values))


def _find_key(letter: str, name: str) -> tuple[str, str]:
    """The key and the word of an axis, from its name in any dialect."""
    first, _, word = name.partition(":")
    if word and first in (*WORDS, LORA):
        return first, word
    if name in KEYS or name.startswith(FREE):
        return name, ""
    key = (known_key(name) or "").removesuffix(".name")
    if key in KEYS:
        return key, ""
    words = "prompt:WORD (its replacements), lora:NAME (its weights)"
    plain = re.sub("[- ]", "_", name.lower())
    near = {"prompt_s/r": "prompt:WORD", "checkpoint_name": "model", "checkpoint": "model"}.get(plain)
    mean = (
        f", did you mean {near!r}?"
        if near
        else did_you_mean(plain, KEYS, f"; allowed: {words}, {', '.join(KEYS)}")
    )
    if plain == "count":
        raise ConfigError(
            f"--{letter} count: each cell has one image; for more, use seeds: --{letter} seed=1-3"
        )
    what = "all images of a grid share it" if plain in SETTINGS else "there is no such setting"
    raise ConfigError(f"--{letter} {name}: {what}{mean}")


def _split(text: str) -> list[str]:
    """The values of a list, separated by commas; one with a comma inside is in double quotes."""
    [row] = csv.reader([text], skipinitialspace=True)
    return [value.strip() for value in row]


def _reader(key: str, word: str) -> Callable[[str, str], list[Any]]:
    """How a text becomes values of an axis."""
    if word and key != LORA:
        return lambda text, _: [text]
    if key == "size":
        return _read_size
    if key == "loras":
        return lambda text, _: [[] if text in ("", "none") else [text]]
    kind = "value" if key == LORA else SETTINGS[key].kind if key in SETTINGS else "value"

    def read(text: str, origin: str) -> list[Any]:
        if kind == "value" and RANGE.fullmatch(text):
            try:
                return [*numbers(text)]
            except ValueError as exc:
                raise ConfigError(f"{origin}: {exc}") from exc
        if kind in ("name", "model") and text in ("", "none"):
            return [None]
        setting = "value" if key == LORA else key
        layer = read_override(f"{setting}={text}").values
        for part in setting.split("."):
            layer = layer[part]
        if key == LORA and (isinstance(layer, bool) or not isinstance(layer, int | float)):
            raise ConfigError(f"{origin}: weights are numbers, not {text!r}")
        return [layer]

    return read


def _read_size(text: str, origin: str) -> list[tuple[int, int]]:
    sides = SIZE.fullmatch(text)
    if sides is None:
        raise ConfigError(f"{origin}: write it as WIDTHxHEIGHT in pixels, such as 768x512, not {text!r}")
    return [(int(sides[1]), int(sides[2]))]


def _label(key: str, value: Any) -> str:
    """A value as short text: of a file, its name."""
    if value is None or value == []:
        return "none"
    if key == "size":
        return f"{value[0]}x{value[1]}"
    if key == "loras":
        return ", ".join(_short(str(each["file"] if isinstance(each, dict) else each)) for each in value)
    if isinstance(value, dict):
        return str(value.get("name", value))
    is_path = key in SETTINGS and SETTINGS[key].kind in ("model", "file")
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return _short(text) if is_path else text.lower() if isinstance(value, bool) else text


def _short(path: str) -> str:
    return Path(path).name.replace(".safetensors", "")


def _weighted(settings: Layer, name: str, weight: float, origin: str) -> Layer:
    """Give a LoRA a weight: in its <lora:…> tag, in the list of LoRAs, or as a new one at its end."""
    prompt = settings.values.get("prompt")
    tag = re.compile(rf"<lora:{re.escape(name)}(:[^<>]*)?>")
    if isinstance(prompt, str) and tag.search(prompt):
        replaced = tag.sub(f"<lora:{name}:{weight:g}>", prompt)
        return merge([settings, override("prompt", replaced, origin)])
    given = settings.values.get("loras") or []
    loras = [*([given] if isinstance(given, str) else given)]
    others = [each for each in loras if name not in _lora_names(each)]
    found = next((each for each in loras if name in _lora_names(each)), name)
    file = found["file"] if isinstance(found, dict) else re.sub(r"(:[-+.\d]+){1,2}$", "", found)
    return merge([settings, override("loras", [*others, {"file": file, "weight": weight}], origin)])


def _lora_names(lora: Any) -> tuple[str, str]:
    """The path and the short name of a LoRA in a list."""
    file = str(lora["file"]) if isinstance(lora, dict) else re.sub(r"(:[-+.\d]+){1,2}$", "", str(lora))
    return file, _short(file)
