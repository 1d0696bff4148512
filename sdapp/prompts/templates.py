"""Choices inside a prompt: `{a|b}`, `{all:a|b}` and `__words__`, which is a line of a wildcard file."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path

from sdapp.errors import ConfigError
from sdapp.prompts.lines import PromptFileError, read_lines

MAX_VARIANTS = 100_000  # of one entry
MAX_CHOICES = 1_000  # in one prompt
MAX_NESTED = 20  # braces in one text
MAX_GROUP_DEPTH = 50  # braces and wildcard files
MAX_LETTERS = 50_000_000  # of all the prompts of one entry
MAX_WILDCARDS = 1_000_000  # bytes of a wildcard file

TOO_MANY = f"more than {MAX_VARIANTS:,} combinations in one entry, or {MAX_LETTERS:,} letters in them"

EVERY = re.compile(r"\{\s*all\s*:")
TOKEN = re.compile(r"\\(?:[{}|]|__)|\{\s*all\s*:|[{}|]|__(?!_)((?:[\w./*~-]|\\(?!__))+?)__")
ESCAPED = re.compile(r"\\([{}|]|__)")
WEIGHTED = re.compile(r"\s*(?:[\d.]+::|[\w-]*\$\$)")
WILDCARD_NAME = re.compile(r"[\w-]+(/[\w-]+)?")


@dataclass(frozen=True)
class _Group:
    """`{a|b}`, `{all:a|b}` or, with a name, `__words__`."""

    source: str
    options: "tuple[_Template, ...]" = ()
    is_every: bool = False
    name: str = ""


_Template = tuple[str | _Group, ...]


def parse(prompt: str) -> _Template:
    """Split a prompt into text, braces and wildcards. Raises ConfigError, with the wrong character."""
    return _Parser(prompt).parse(depth=0)[0]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = TOKEN.finditer(text)
        self.at = 0  # the end of the last token

    def parse(self, depth: int) -> tuple[_Template, re.Match[str] | None]:
        """Read up to the end of an option inside `depth` braces, and return the `|` or `}` that ends it."""
        nodes: list[str | _Group] = []
        for token in self.tokens:
            nodes.append(self.text[self.at : token.start()])
            self.at = token.end()
            if token[1]:
                nodes.append(self.wildcard(token))
            elif token[0].startswith("{"):
                nodes.append(self.group(token, depth + 1))
            elif depth and token[0] in "|}":
                return tuple(nodes), token
            elif token[0] == "}":
                raise ConfigError(rf"{_place(token)}: no brace is open here; for a plain brace write \}}")
            else:
                nodes.append(token[0])
        return (*nodes, self.text[self.at :]), None

    def wildcard(self, token: re.Match[str]) -> _Group:
        if not WILDCARD_NAME.fullmatch(token[1]):
            raise ConfigError(
                f"{_place(token)}: {token[0]} is not the name of a wildcard file: letters, digits, - and _, "
                r"in at most one folder; for plain underscores write \__"
            )
        return _Group(token[0], name=token[1])

    def group(self, brace: re.Match[str], depth: int) -> _Group:
        if depth > MAX_NESTED:
            raise ConfigError(f"{_place(brace)}: braces nested deeper than {MAX_NESTED}")
        options: list[_Template] = []
        end = brace
        while end[0] != "}":
            start = self.at
            option, found = self.parse(depth)
            if found is None:
                raise ConfigError(rf"{_place(brace)}: the brace is never closed; for a plain brace write \{{")
            end = found
            if WEIGHTED.match(self.text, start, end.start()):
                raise ConfigError(
                    f"character {start + 1}: weights (2::) and counts (2$$) are not supported; "
                    "{a|b} chooses one of them, {all:a|b} makes an image of each"
                )
            options.append(option)
        is_every = EVERY.match(brace[0]) is not None
        if len(options) == 1 and not is_every:
            raise ConfigError(
                rf"{_place(brace)}: nothing to choose from; write {{a|b}}, or \{{ for a plain brace"
            )
        return _Group(self.text[brace.start() : self.at], tuple(options), is_every)


def _place(token: re.Match[str]) -> str:
    return f"character {token.start() + 1}"


def expand_all_groups(prompt: str) -> list[str]:
    """The prompts that the `{all:…}` in one stand for, or itself if it has none. Raises ConfigError."""
    if not EVERY.search(prompt):
        return [prompt]
    template = parse(prompt)
    number = _count(template)
    if number > MAX_VARIANTS or number * len(prompt) > MAX_LETTERS:
        raise ConfigError(TOO_MANY)
    return _spell(template)


def _count(template: _Template) -> int:
    """How many prompts `_spell` would return."""
    groups = (node for node in template if isinstance(node, _Group))
    return prod((sum if group.is_every else prod)(map(_count, group.options)) for group in groups)


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


def choose(prompt: str, seed: int, folder: Path | None) -> tuple[str, dict[str, str]]:
    """The prompt of the image with this seed, and the choice for each `{a|b}` and `__words__`, in their
    order.

    A choice depends on the seed, on the text of the group, and on how often that text came before in the
    prompt (`__words__ #2`); not on the words around it, the machine or the version of Python. `folder` has
    the wildcard files; None is the current folder. Raises ConfigError, with the character where the prompt is
    wrong.
    """
    chooser = _Chooser(seed, Path() if folder is None else folder)
    return chooser.choose(parse(prompt), depth=0), chooser.choices


@dataclass
class _Chooser:
    seed: int
    folder: Path
    choices: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def choose(self, template: _Template, depth: int) -> str:
        return "".join(
            ESCAPED.sub(r"\1", node) if isinstance(node, str) else self.choose_option(node, depth)
            for node in template
        )

    def choose_option(self, group: _Group, depth: int) -> str:
        self.seen[group.source] += 1
        count = self.seen[group.source]
        label = group.source if count == 1 else f"{group.source} #{count}"
        if len(self.choices) == MAX_CHOICES:
            raise ConfigError(f"{label}: more than {MAX_CHOICES:,} choices in one prompt")
        _check_group(group, depth)
        options = _options(group, self.folder)
        digest = hashlib.sha256(f"{self.seed}\0{label}".encode()).digest()
        self.choices[label] = ""  # keeps its place before the choices inside it
        self.choices[label] = self.choose(options[int.from_bytes(digest) % len(options)], depth + 1)
        return self.choices[label]


class ChoiceCheck:
    """Checks that every choice in prompts can be made, whatever the seed; reads each wildcard file once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, int] = {}  # the most choices in a wildcard file

    def check(self, prompt: str) -> None:
        """Raise ConfigError for a prompt in which a choice cannot be made, or which has too many."""
        self.most_choices(parse(prompt), depth=0)

    def most_choices(self, template: _Template, depth: int) -> int:
        total = 0
        for group in template:
            if isinstance(group, str):
                continue
            _check_group(group, depth)
            most = self.known.get(group.name)
            if most is None:
                options = _options(group, self.folder)
                most = max(self.most_choices(option, depth + 1) for option in options)
                self.known |= {group.name: most} if group.name else {}
            total += 1 + most
            if total > MAX_CHOICES:
                raise ConfigError(f"{group.source}: more than {MAX_CHOICES:,} choices in one prompt")
        return total


def _check_group(group: _Group, depth: int) -> None:
    if group.is_every:
        raise ConfigError(
            f"{group.source:.80}: {{all:…}} works only in the prompts of a prompt file; {{a|b}} chooses one"
        )
    if depth > MAX_GROUP_DEPTH:
        raise ConfigError(
            f"{group.source:.80}: contains itself, or is nested deeper than {MAX_GROUP_DEPTH} levels"
        )


def _options(group: _Group, folder: Path) -> tuple[_Template, ...]:
    return _wildcards(group.name, folder) if group.name else group.options


def _wildcards(name: str, folder: Path) -> tuple[_Template, ...]:
    """The lines of `folder/name.txt` without comments and blank lines. Raises ConfigError."""
    path = folder / f"{name}.txt"
    try:
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise ConfigError(f"__{name}__: {path} is a link to a place outside the prompt file's folder")
        if not path.is_file():
            near = get_close_matches(name, _wildcard_names(folder), n=1)
            hint = f", did you mean __{near[0]}__?" if near else r"; for plain underscores write \__"
            raise ConfigError(f"__{name}__: there is no file {path}{hint}")
        status = real.stat()
        if status.st_size > MAX_WILDCARDS:
            raise ConfigError(f"__{name}__: {path} has more than {MAX_WILDCARDS:,} bytes")
        return _read_wildcards(real, name, status.st_mtime_ns, status.st_size)
    except (OSError, RuntimeError) as exc:  # a loop of links is a RuntimeError before Python 3.13
        raise ConfigError(f"__{name}__: cannot read {path}: {exc}") from exc


@lru_cache(maxsize=4)
def _wildcard_names(folder: Path) -> list[str]:
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
                with errors.collect(number, f"{path}:{number}"):
                    templates.append(parse(text))
    if errors.rows:
        raise ConfigError(f"__{name}__: {errors.rows[0][1]}")
    if not templates:
        raise ConfigError(f"__{name}__: {path} has no lines to choose from")
    return tuple(templates)
