"""One line of a .txt prompt file: the prompt, and behind it options in the dialects of kohya, A1111 and sdapp."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sdapp.errors import ConfigError
from sdapp.prompts.columns import Given, find_key, from_text
from sdapp.prompts.lines import FORBIDDEN, character_name
from sdapp.settings import files

OPTION = re.compile(r"(?:(?<=[ \t])|^)--([A-Za-z][^ \t=]*)=?[ \t]*")
QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"')


def parse_line(text: str, where: str) -> list[Given]:
    """The prompt, then the options: `--name value`, where the value goes on to the next option or stands in "quotes"."""
    said: list[Given] = []
    errors: list[str] = []
    option = OPTION.search(text)
    start = len(text) - len(text.lstrip(" \t"))
    if prompt := text[start : option.start() if option else None].rstrip(" \t"):
        said.append(Given("the text in front", "prompt", prompt, f"{where}:{start + 1}"))
    while option:
        origin = f"{where}:{option.start() + 1}"
        value, end = _value(text, option.end())
        following = OPTION.search(text, end)
        try:
            if text.startswith('"', option.end()) and value is None:
                raise ConfigError(
                    f"--{option[1]}: the double quote is never closed; a value that begins with one is put in quotes"
                )
            if text[end : following.start() if following else None].strip(" \t"):
                raise ConfigError(
                    f'--{option[1]}: the quotes end before the value does; inside them write \\" for a quote'
                )
            said += _option(option[1], value, origin)
        except ConfigError as exc:
            errors.append(f"{origin}: {exc}")
        option = following
    if errors:
        raise ConfigError("\n".join(errors))
    return said


def _value(text: str, start: int) -> tuple[str | None, int]:
    """The value that begins here and its end; None where there is none, or a quote that is never closed."""
    if quoted := QUOTED.match(text, start):
        return re.sub(r'\\(["\\])', r"\1", quoted[1]), quoted.end()
    following = OPTION.search(text, start)
    end = following.start() if following else len(text)
    return None if text.startswith('"', start) else text[start:end].rstrip(" \t") or None, end


def _option(name: str, value: str | None, origin: str) -> list[Given]:
    if value is None:
        raise ConfigError(f'--{name}: needs a value; an empty one is ""')
    if name.lower() == "set":
        values = files.parse_override(value).values
        return [
            Given(f"--set {dotted}", find_key(dotted), item, origin) for dotted, item in leaf_values(values)
        ]
    key = find_key(name, is_option=True)
    return [Given(f"--{name}", key, from_text(key, value), origin)]


def leaf_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and the values that are no mapping. Raises ConfigError for control characters and for depth."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if not name.isprintable() or key.count(".") > files.MAX_DEPTH:
            raise ConfigError(f"{key!r:.80}: keys are plain text and at most {files.MAX_DEPTH} deep")
        if isinstance(value, dict):
            yield from leaf_values(value, f"{key}.")
        else:
            _refuse_control(key, value, 0)
            yield key, value


def _refuse_control(key: str, value: object, depth: int) -> None:
    """In JSON and YAML a value may have lines, but no other control characters. Raises ConfigError."""
    if depth > files.MAX_DEPTH:
        raise ConfigError(f"{key}: nested deeper than {files.MAX_DEPTH} levels")
    if isinstance(value, str) and (found := FORBIDDEN.search(value.replace("\n", ""))):
        raise ConfigError(f"{key}: {character_name(found[0])}")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        _refuse_control(f"{key}.{name}", item, depth + 1)
