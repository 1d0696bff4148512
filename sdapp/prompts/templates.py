"""Choices inside a prompt: `{a|b}`, `{all:a|b}` and `__words__`, which is a line of a wildcard file."""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, product, zip_longest
from math import prod
from pathlib import Path

from sdapp.errors import ConfigError, nearest
from sdapp.prompts.lines import PromptFileError, is_read, read_lines

MAX_VARIANTS = 100_000  # of one entry
MAX_CHOICES = 1_000  # in one prompt
MAX_NESTED = 20  # braces in one text
MAX_GROUP_DEPTH = 50  # braces and wildcard files
MAX_LETTERS = 50_000_000  # of all the prompts of one entry
MAX_WILDCARDS = 1_000_000  # bytes of a wildcard file

TOO_MANY = f"more than {MAX_VARIANTS:,} combinations in one entry, or {MAX_LETTERS:,} letters in them"

EVERY = re.compile(r"\{\s*all\s*:")
# The name in `__name__` is whatever stands there, so that no spelling of a wildcard is taken for text.
TOKEN = re.compile(
    r"\\(?:[{}|]|__)|\{\s*all\s*:|[{}|]"
    r"|__(?![_\s])((?:(?!__)[^{}|\\\n]|\\(?!__)|\{[^{}\n]*\}){1,1000})(?<!\s)__"
)
ESCAPED = re.compile(r"\\([{}|]|__)")
WEIGHT = re.compile(r"\s*([0-9.]+)::")
POSITIVE = re.compile(r"(?=.*[1-9])[0-9]{0,9}\.?[0-9]{0,9}")
UNSUPPORTED = re.compile(r"\s*[\w:.-]*\$\$|[~@!](?=[^\W_])")
_PART = r'(?![.\s])[^/\\:*?"<>|$(){}\[\]=~@!]+'
WILDCARD_NAME = re.compile(f"{_PART}(/{_PART})*")


@dataclass(frozen=True)
class _Group:
    """`{a|b}`, `{all:a|b}` or, with a name, `__words__`, whose options are the lines of a file.

    `weights` has a text such as `2::`, or nothing, for each option; it is empty if no option has one.
    """

    source: str
    options: "tuple[_Template, ...]" = ()
    weights: tuple[str, ...] = ()
    is_every: bool = False
    name: str = ""

    def pick(self, number: int) -> "_Template":
        """Choose an option by a number below 2**256, each as often as its weight says."""
        if not self.weights:
            return self.options[number % len(self.options)]
        return self.options[bisect_right(self._ends, self._ends[-1] * Fraction(number, 2**256))]

    @cached_property
    def _ends(self) -> list[Fraction]:
        return list(accumulate(Fraction(weight.strip().removesuffix("::") or 1) for weight in self.weights))


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

    def weight(self) -> str:
        """Read the weight of an option, such as `2::`, if it has one."""
        found = WEIGHT.match(self.text, self.at)
        if found and not POSITIVE.fullmatch(found[1]):
            raise ConfigError(
                f"{_place(found)}: {found[0]} is no weight; write a number above 0, such as 2::"
            )
        self.at = found.end() if found else self.at
        return found[0] if found else ""

    def wildcard(self, token: re.Match[str]) -> _Group:
        if not WILDCARD_NAME.fullmatch(token[1]):
            raise ConfigError(
                f"{_place(token)}: {token[0]} is not the name of a wildcard file; write __name__ or "
                "__folder/name__, without counts ($$), samplers (~ @ !), parameters, patterns (*) or ..; "
                r"for plain underscores write \__"
            )
        return _Group(token[0], name=token[1])

    def group(self, brace: re.Match[str], depth: int) -> _Group:
        if depth > MAX_NESTED:
            raise ConfigError(f"{_place(brace)}: braces nested deeper than {MAX_NESTED}")
        options: list[_Template] = []
        weights: list[str] = []
        end = brace
        while end[0] != "}":
            if UNSUPPORTED.match(self.text, self.at):
                raise ConfigError(
                    f"character {self.at + 1}: counts (2$$) and samplers (~ @ !) are not supported; "
                    "{a|b} chooses one, {all:a|b} makes an image of each"
                )
            weights.append(self.weight())
            option, found = self.parse(depth)
            if found is None:
                raise ConfigError(rf"{_place(brace)}: the brace is never closed; for a plain brace write \{{")
            end = found
            options.append(option)
        is_every = EVERY.match(brace[0]) is not None
        if len(options) == 1 and not is_every:
            raise ConfigError(
                rf"{_place(brace)}: nothing to choose from; write {{a|b}}, or \{{ for a plain brace"
            )
        if is_every and any(weights):
            raise ConfigError(f"{_place(brace)}: {{all:…}} makes an image of each option; leave out weights")
        source = self.text[brace.start() : self.at]
        return _Group(source, tuple(options), tuple(weights) if any(weights) else (), is_every)


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
            pairs = zip_longest(node.weights, map(_spell, node.options), fillvalue="")
            weighted = ([f"{weight}{text}" for text in texts] for weight, texts in pairs)
            parts.append([f"{{{'|'.join(texts)}}}" for texts in product(*weighted)])
    return ["".join(texts) for texts in product(*parts)]


def choose(prompt: str, seed: int, folder: Path | None, prefix: str = "") -> tuple[str, dict[str, str]]:
    """The prompt of the image with this seed, and the choice for each `{a|b}` and `__words__`, in their
    order.

    A choice depends on the seed, on `prefix` and the text of the group, and on how often that text came
    before in the prompt (`__words__ #2`); not on the words around it, the machine or the version of Python.
    With another `prefix`, a negative prompt chooses independently of its prompt. `folder` has the wildcard
    files; None is the current folder. Raises ConfigError, with the character where the prompt is wrong.
    """
    chooser = _Chooser(seed, Path() if folder is None else folder, prefix)
    return chooser.choose(parse(prompt), depth=0), chooser.choices


@dataclass
class _Chooser:
    seed: int
    folder: Path
    prefix: str
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
        label = f"{self.prefix}{group.source}" + (f" #{count}" if count > 1 else "")
        if len(self.choices) == MAX_CHOICES:
            raise ConfigError(f"{label}: more than {MAX_CHOICES:,} choices in one prompt")
        _check_group(group, depth)
        number = int.from_bytes(hashlib.sha256(f"{self.seed}\0{label}".encode()).digest())
        self.choices[label] = ""  # keeps its place before the choices inside it
        self.choices[label] = self.choose(_with_options(group, self.folder).pick(number), depth + 1)
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
                options = _with_options(group, self.folder).options
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


def _with_options(group: _Group, folder: Path) -> _Group:
    """The group itself, or for a wildcard one with the lines of `folder/name.txt`. Raises ConfigError."""
    if not (name := group.name):
        return group
    path = folder / f"{name}.txt"
    try:
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise ConfigError(f"__{name}__: {path} is a link to a place outside the prompt file's folder")
        if not path.is_file():
            names = _wildcard_names(folder, path.parent)
            near = [each for each in names if each.endswith(f"/{name}")] or nearest(name, names)
            hint = f", did you mean __{near[0]}__?" if near else r"; for plain underscores write \__"
            raise ConfigError(f"__{name}__: there is no file {path}{hint}")
        status = real.stat()
        if status.st_size > MAX_WILDCARDS:
            raise ConfigError(f"__{name}__: {path} has more than {MAX_WILDCARDS:,} bytes")
        return _read_wildcards(real, name, status.st_mtime_ns, status.st_size)
    except (OSError, RuntimeError) as exc:  # a loop of links is a RuntimeError before Python 3.13
        raise ConfigError(f"__{name}__: cannot read {path}: {exc}") from exc


@lru_cache(maxsize=4)
def _wildcard_names(folder: Path, subfolder: Path) -> list[str]:
    files = [*folder.glob("*.txt"), *folder.glob("*/*.txt"), *subfolder.glob("*.txt")]
    return [file.relative_to(folder).with_suffix("").as_posix() for file in files]


@lru_cache(maxsize=32)
def _read_wildcards(path: Path, name: str, *_: int) -> _Group:
    """The lines of a file as options, without comments and blank lines."""
    errors = PromptFileError()
    options: list[_Template] = []
    weights: list[str] = []
    with path.open("rb") as stream:
        for number, line in read_lines(stream, str(path), errors):
            if is_read(line):
                with errors.collect(number, f"{path}:{number}"):
                    parser = _Parser(line.strip(" \t"))
                    weights.append(parser.weight())
                    options.append(parser.parse(depth=0)[0])
    if errors.rows:
        raise ConfigError(f"__{name}__: {errors.rows[0][1]}")
    if not options:
        raise ConfigError(f"__{name}__: {path} has no lines to choose from")
    return _Group(f"__{name}__", tuple(options), tuple(weights) if any(weights) else (), name=name)
