"""The words that the built-in model knows."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError
from sdapp.models.files import BUILT_IN, read_json
from sdapp.models.locate import EXAMPLES
from sdapp.models.model import Model

# Skies, places and things of its world; colours, styles and words such as `in` are not enough for an image.
SUBJECTS = {
    "balloon", "beach", "boat", "castle", "cat", "cloudy", "cosmic", "cosmos", "day", "daylight",
    "desert", "dunes", "dusk", "evening", "field", "galaxy", "grass", "home", "house", "hut", "kitten",
    "meadow", "moon", "moonlight", "mountain", "mountains", "night", "ocean", "palm", "planets",
    "sailboat", "sand", "sea", "ship", "sky", "snow", "snowy", "space", "starry", "stars", "sun",
    "sunny", "sunset", "sunshine", "tree", "water", "winter",
}  # fmt: skip
WORD = re.compile(r"[^\W\d_]+")


@lru_cache(maxsize=1)
def _vocabulary(folder: Path) -> Mapping[str, Any]:
    return read_json(folder / "tokenizer" / "tokenizer.json")["model"]["vocab"]  # type: ignore[no-any-return]


def unknown_words(model: Model, prompt: str) -> list[str]:
    """The words of a prompt that the built-in model was not trained on: those that are not one token.

    Other models: none.
    """
    if model.name != BUILT_IN:
        return []
    vocabulary = _vocabulary(model.path)
    words = WORD.findall(prompt.lower())
    return list(dict.fromkeys(word for word in words if f"{word}</w>" not in vocabulary))


def check_words(model: Model, prompt: str) -> None:
    """Raise ConfigError, with the way out, for a prompt in which the built-in model knows no subject."""
    unknown = unknown_words(model, prompt)
    if unknown and SUBJECTS.isdisjoint(WORD.findall(prompt.lower())):
        lacks = f"{BUILT_IN}, the small built-in model, knows nothing of this: {', '.join(unknown)}"
        real = f"--model {EXAMPLES['model']}, or for good: sdapp config set model {EXAMPLES['model']}"
        raise ConfigError(
            f"prompt: {lacks}. Use a real model: {real}; or {BUILT_IN} all the same: --model {BUILT_IN}"
        )
