"""Read one line of a .txt prompt file: a prompt, then options as in kohya, A1111 and sdapp."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sdapp.config import read_override
from sdapp.errors import ConfigError
from sdapp.prompts.columns import Given, find_key, from_text
from sdapp.prompts.lines import FORBIDDEN, PromptFileError, explain_forbidden
from sdapp.settings import files

# An option after a space, and its value if that is in double quotes.
OPTION = re.compile(
    r"(?:(?<=[ \t])|^)--(?P<name>[A-Za-z][^ \t=]*)=?[ \t]*"
    r'(?:"(?P<quoted>[^"\\]*(?:\\.[^"\\]*)*)")?'
)


def parse_line(text: str, place: str) -> list[Given]:
    """Read the prompt and the options: `--name value`, where the value ends at the next option or is in
    "quotes".

    `place` is `file:line`. Raises PromptFileError with all errors of the line and their columns.
    """
    given: list[Given] = []
    errors = PromptFileError()
    option = OPTION.search(text)
    start = len(text) - len(text.lstrip(" \t"))
    if prompt := text[start : option.start() if option else None].rstrip(" \t"):
        given.append(Given("the text in front", "prompt", prompt, f"{place}:{start + 1}"))
    while option:
        following = OPTION.search(text, option.end())
        rest = text[option.end() : following.start() if following else None].strip(" \t")
        origin = f"{place}:{option.start() + 1}"
        with errors.collect(place=origin):
            given += _read_option(option["name"], _value(option, rest), origin)
        option = following
    errors.raise_if_any()
    return given


def _value(option: re.Match[str], rest: str) -> str:
    name, quoted = option["name"], option["quoted"]
    if quoted is None and rest.startswith('"'):
        raise ConfigError(
            f'--{name}: the double quote is never closed; write "\\"…" if the value begins with a quote'
        )
    if quoted is not None and rest:
        raise ConfigError(f'--{name}: text after the closing quote; inside quotes write \\" for a quote')
    if quoted is None and not rest:
        raise ConfigError(f'--{name}: needs a value; write "" for an empty one')
    return rest if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)


def _read_option(name: str, value: str, origin: str) -> list[Given]:
    if name.lower() != "set":
        key = find_key(name, is_option=True)
        return [Given(f"--{name}", key, from_text(key, value), origin)]
    values = read_override(value).values
    return [Given(f"--set {dotted}", find_key(dotted), item, origin) for dotted, item in leaf_values(values)]


def leaf_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of all that is not a mapping itself.

    Raises ConfigError for control characters, and for mappings and lists that are nested too deeply.
    """
    for name, value in values.items():
        key = f"{prefix}{name}"
        if not name.isprintable() or key.count(".") > files.MAX_DEPTH:
            raise ConfigError(f"{key!r:.80}: keys are plain text and at most {files.MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            yield from leaf_values(value, f"{key}.")
        else:
            _check_text(key, value, 0)
            yield key, value


def _check_text(key: str, value: object, depth: int) -> None:
    """Raise ConfigError for control characters, except the line ends that JSON and YAML values may have."""
    if depth > files.MAX_DEPTH:
        raise ConfigError(f"{key}: nested deeper than {files.MAX_DEPTH} levels")
    if isinstance(value, str) and (found := FORBIDDEN.search(value.replace("\n", ""))):
        raise ConfigError(f"{key}: {explain_forbidden(found[0])}")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        _check_text(f"{key}.{name}", item, depth + 1)
