"""The choices inside a prompt: `{a|b}`, `{all:a|b}` and `__words__` from wildcard files."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError
from sdapp.prompts.lines import PromptFileError, read_lines

MAX_VARIANTS = 100_000  # of one entry
MAX_CHOICES = 1_000  # in one prompt
MAX_NESTED = 20  # braces in one text
MAX_GROUP_DEPTH = 50  # braces and wildcard files
MAX_LETTERS = 50_000_000  # of all the prompts of one entry
MAX_WILDCARDS = 1_000_000  # bytes of a wildcard file

TOO_MANY = f"more than {MAX_VARIANTS:,} combinations in one entry, or {MAX_LETTERS:,} letters in them"


# --- templates ----------------------------------------------------------------------------------------------------

EVERY = re.compile(r"\{\s*all\s*:")
TOKEN = re.compile(r"\\(?:[{}|]|__)|\{\s*all\s*:|[{}|]|__(?!_)((?:[\w./*~-]|\\(?!__))+?)__")
ESCAPED = re.compile(r"\\([{}|]|__)")
WEIGHTED = re.compile(r"\s*(?:[\d.]+::|[\w-]*\$\$)")


@dataclass(frozen=True)
class _Group:
    """`{a|b}`, `{all:a|b}` or, with a name, `__words__`."""

    source: str
    options: "tuple[_Template, ...]" = ()
    is_every: bool = False
    name: str = ""


_Template = tuple[str | _Group, ...]


@dataclass
class _Open:
    """A brace that is not closed yet."""

    start: int
    is_every: bool
    options: list[list[str | _Group]]
    option_start: int


def parse(text: str) -> _Template:
    """Text, braces and wildcards of a prompt. Raises ConfigError, with the place in the prompt."""
    stack = [_Open(0, False, [[]], 0)]
    at = 0
    for token in TOKEN.finditer(text):
        stack[-1].options[-1].append(text[at : token.start()])
        at = token.end()
        where = f"character {token.start() + 1}"
        if token[0].startswith("\\"):
            stack[-1].options[-1].append(token[0])
        elif token[1]:
            if not re.fullmatch(r"[\w-]+(/[\w-]+)?", token[1]):
                raise ConfigError(f"{where}: {token[0]} names no wildcard file: letters, digits, - and _, at most one folder; "
                                  r"for plain underscores write \__")  # fmt: skip
            stack[-1].options[-1].append(_Group(token[0], name=token[1]))
        elif token[0].startswith("{"):
            if len(stack) > MAX_NESTED:
                raise ConfigError(f"{where}: braces nested deeper than {MAX_NESTED}")
            stack.append(_Open(token.start(), len(token[0]) > 1, [[]], at))
        elif token[0] == "|" and len(stack) > 1:
            _check_option(text, stack[-1], at - 1)
            stack[-1].options.append([])
            stack[-1].option_start = at
        elif token[0] == "|":
            stack[-1].options[-1].append("|")
        else:
            _close(text, stack, at, where)
    if len(stack) > 1:
        raise ConfigError(
            rf"character {stack[-1].start + 1}: the brace is never closed; for a plain brace write \{{"
        )
    return (*stack[0].options[0], text[at:])


def _check_option(text: str, group: _Open, end: int) -> None:
    if WEIGHTED.match(text, group.option_start, end):
        raise ConfigError(f"character {group.option_start + 1}: weights (2::) and counts (2$$) are not known here; {{a|b}} is "
                          "one of them, {all:a|b} is every one")  # fmt: skip


def _close(text: str, stack: list[_Open], end: int, where: str) -> None:
    if len(stack) == 1:
        raise ConfigError(rf"{where}: no brace is open here; for a plain brace write \}}")
    group = stack.pop()
    _check_option(text, group, end - 1)
    if len(group.options) == 1 and not group.is_every:
        raise ConfigError(
            rf"character {group.start + 1}: nothing to choose from; write {{a|b}}, or \{{ for a plain brace"
        )
    options = tuple(tuple(option) for option in group.options)
    stack[-1].options[-1].append(_Group(text[group.start : end], options, group.is_every))


def _count(template: _Template) -> int:
    """How many prompts `_spell` would give."""
    return prod(
        (sum if node.is_every else prod)(map(_count, node.options)) for node in template if isinstance(node, _Group)
    )  # fmt: skip


def _spell(template: _Template) -> list[str]:
    """The template without its `{all:…}`, once for each of their combinations."""
    parts: list[list[str]] = []
    for node in template:
        if isinstance(node, str) or node.name:
            parts.append([node if isinstance(node, str) else node.source])
        elif node.is_every:
            parts.append([text for option in node.options for text in _spell(option)])
        else:
            parts.append([f"{{{'|'.join(texts)}}}" for texts in product(*map(_spell, node.options))])
    return ["".join(texts) for texts in product(*parts)]


def expand_all_groups(prompt: Any, origin: str) -> list[Any]:
    """The prompts that the `{all:…}` of one stand for; itself if it has none, or is no text (which the check will say)."""
    if not isinstance(prompt, str) or not EVERY.search(prompt):
        return [prompt]
    try:
        template = parse(prompt)
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    number = _count(template)
    if number > MAX_VARIANTS or number * len(prompt) > MAX_LETTERS:
        raise ConfigError(f"{origin}: {TOO_MANY}")
    return _spell(template)


# --- choices ------------------------------------------------------------------------------------------------------


def choose(prompt: str, seed: int, folder: Path | None) -> tuple[str, dict[str, str]]:
    """The prompt of the image with this seed, and what was chosen for each `{a|b}` and `__words__`, in their order.

    A choice depends on the seed, on what it is chosen from as it is written, and on how often that stood in the prompt
    before (`__words__ #2`): not on the words around it, the machine or the version of Python. Wildcard files are those in
    `folder`, the prompt file's; None is the current one. Raises ConfigError, with the place in the prompt.
    """
    choices: dict[str, str] = {}
    text = _choose(parse(prompt), seed, Path() if folder is None else folder, choices, Counter(), 0)
    return text, choices


def _choose(
    template: _Template, seed: int, folder: Path, choices: dict[str, str], seen: Counter[str], depth: int
) -> str:
    text = []
    for node in template:
        if isinstance(node, str):
            text.append(ESCAPED.sub(r"\1", node))
            continue
        seen[node.source] += 1
        label = node.source if seen[node.source] == 1 else f"{node.source} #{seen[node.source]}"
        _check_group(node, depth)
        if len(choices) == MAX_CHOICES:
            raise ConfigError(f"{label}: more than {MAX_CHOICES:,} choices in one prompt")
        options = _wildcards(node.name, folder) if node.name else node.options
        digest = hashlib.sha256(f"{seed}\0{label}".encode()).digest()
        choices[label] = ""  # so that it stands before those inside it
        choices[label] = _choose(
            options[int.from_bytes(digest) % len(options)], seed, folder, choices, seen, depth + 1
        )
        text.append(choices[label])
    return "".join(text)


def _wildcards(name: str, folder: Path) -> tuple[_Template, ...]:
    """The lines of `folder/name.txt` without comments and blank ones. Raises ConfigError."""
    path = folder / f"{name}.txt"
    try:
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise ConfigError(f"__{name}__: {path} is a link to a place outside the prompt file's folder")
        if not path.is_file():
            near = get_close_matches(name, _names(folder), n=1)
            mean = f", did you mean __{near[0]}__?" if near else r"; for plain underscores write \__"
            raise ConfigError(f"__{name}__: there is no file {path}{mean}")
        status = real.stat()
        if status.st_size > MAX_WILDCARDS:
            raise ConfigError(f"__{name}__: {path} has more than {MAX_WILDCARDS:,} bytes")
        return _read_wildcards(real, name, status.st_mtime_ns, status.st_size)
    except (OSError, RuntimeError) as exc:  # a loop of links is a RuntimeError before Python 3.13
        raise ConfigError(f"__{name}__: cannot read {path}: {exc}") from exc


@lru_cache(maxsize=4)
def _names(folder: Path) -> list[str]:
    files = [*folder.glob("*.txt"), *folder.glob("*/*.txt")]
    return [file.relative_to(folder).with_suffix("").as_posix() for file in files]


@lru_cache(maxsize=32)
def _read_wildcards(path: Path, name: str, *_: int) -> tuple[_Template, ...]:
    errors = PromptFileError()
    templates = []
    with path.open("rb") as stream:
        for number, line in read_lines(stream, str(path), errors):
            text = line.strip(" \t")
            if text and not text.startswith("#"):
                try:
                    templates.append(parse(text))
                except ConfigError as exc:
                    errors.add(number, f"{path}:{number}: {exc}")
    if errors.count:
        raise ConfigError(f"__{name}__: {str(errors).partition(chr(10))[0]}")
    if not templates:
        raise ConfigError(f"__{name}__: {path} has no words")
    return tuple(templates)


def most_choices(template: _Template, folder: Path, known: dict[str, int], depth: int = 0) -> int:
    """How many choices the template can ask for at most; every wildcard file is read once. Raises ConfigError."""
    total = 0
    for node in template:
        if isinstance(node, _Group):
            _check_group(node, depth)
            most = known.get(node.name)
            if most is None:
                options = _wildcards(node.name, folder) if node.name else node.options
                most = max(most_choices(option, folder, known, depth + 1) for option in options)
                known |= {node.name: most} if node.name else {}
            total += 1 + most
            if total > MAX_CHOICES:
                raise ConfigError(f"{node.source}: more than {MAX_CHOICES:,} choices in one prompt")
    return total


def _check_group(group: _Group, depth: int) -> None:
    if group.is_every:
        raise ConfigError(
            f"{group.source:.80}: every one is for the prompts of a prompt file's lines; {{a|b}} chooses one"
        )
    if depth > MAX_GROUP_DEPTH:
        raise ConfigError(f"{group.source:.80}: goes in a circle, or more than {MAX_GROUP_DEPTH} deep")
