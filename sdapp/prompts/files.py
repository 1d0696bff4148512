"""Prompt files: .txt, .csv, .tsv, .jsonl and .yaml read as one stream of entries, every error with its place."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sdapp.errors import ConfigError, MissingInputError
from sdapp.prompts.columns import Given, assemble_line, find_key, from_text
from sdapp.prompts.lines import Lines, PromptFileError, read_lines
from sdapp.prompts.txt import leaf_values, parse_line
from sdapp.settings import files, layers

YAML_BREAKS = re.compile("[\u2028\u2029]")


@dataclass(frozen=True)
class Entry:
    """What one line asks for, as a layer of settings.

    `seeds` is its list of seeds, one an image; a single seed stays in the layer, and `count` goes on from it. `content`
    is what derived seeds are made from: equal for equal lines, whatever the file's format and folder, the seeds and count.
    """

    line: int
    layer: layers.Layer
    seeds: tuple[int, ...] | None = None
    content: str = ""

    @property
    def origin(self) -> str:
        """Where the entry begins, as `file:line` or `file:line:column`."""
        return next(iter(self.layer.origins.values()), f"line {self.line}")


class _Source(NamedTuple):
    """A prompt file while it is read."""

    name: str
    folder: Path
    errors: PromptFileError

    def entry(self, line: int, say: Callable[[], Iterable[Given]]) -> Iterator[Entry]:
        """The entry of what is said, or its errors in the list."""
        try:
            layer, seeds, content = assemble_line(say(), self.folder)
        except ConfigError as exc:
            self.errors.add(line, str(exc))
        else:
            yield Entry(line, layer, seeds, content)


def read_prompts(path: Path | None, stdin: BinaryIO | None = None) -> Iterator[Entry]:
    """The entries of a prompt file, one at a time; without a path those of standard input (`stdin` stands in for it).

    The format is that of the suffix; standard input is .txt, or .jsonl if it begins with a JSON object. Relative paths of
    images are relative to the file's folder, from standard input to the current one. An image makes the task img2img, a
    mask inpaint, unless `task.kind` is said. Lists are left for `variants.expand`.

    Raises MissingInputError for a file that cannot be read and, after the last good entry, PromptFileError (a ConfigError)
    with every line that is no entry. Whether the settings are good is for `variants.check` to say.
    """
    errors = PromptFileError()
    if path is None:
        yield from _read_stdin(
            read_lines(stdin or sys.stdin.buffer, "<stdin>", errors), _Source("<stdin>", Path(), errors)
        )
    elif path.suffix.lower() not in READERS:
        raise ConfigError(f"{path}: no format of prompt files; allowed: {', '.join(READERS)}")
    else:
        try:
            with path.open("rb") as stream:
                lines = read_lines(stream, str(path), errors)
                yield from READERS[path.suffix.lower()](lines, _Source(str(path), path.parent, errors))
        except OSError as exc:
            raise MissingInputError(f"{path}: cannot read the prompts: {exc.strerror}") from exc
    if errors.count:
        raise errors


def _read_stdin(lines: Lines, source: _Source) -> Iterator[Entry]:
    first = next(lines, (0, ""))
    # `{red|blue} house` is a prompt, so a brace alone does not make it JSON.
    reader = _read_jsonl if re.match(r'\s*\{\s*["}]', first[1]) else _read_txt
    yield from reader(chain([first], lines), source)


# --- .txt ---------------------------------------------------------------------------------------------------------


def _read_txt(lines: Lines, source: _Source) -> Iterator[Entry]:
    for number, line in lines:
        text = line.rstrip(" \t")
        if text and not text.lstrip(" \t").startswith("#"):
            yield from source.entry(number, partial(parse_line, text, f"{source.name}:{number}"))


# --- tables -------------------------------------------------------------------------------------------------------


def _read_table(delimiter: str, lines: Lines, source: _Source) -> Iterator[Entry]:
    taken: list[int] = []  # the numbers of the lines of this row: the reader's own count misses the bad ones

    def feed() -> Iterator[str]:
        for number, line in lines:
            taken.append(number)
            yield f"{line}\n"

    rows = csv.reader(feed(), delimiter=delimiter, strict=True)
    keys: list[str] = []
    try:
        for row in rows:
            line = taken[0]
            taken.clear()
            origin = f"{source.name}:{line}"
            if row and keys:
                yield from source.entry(line, partial(_said_in_row, row, keys, origin))
            elif row:
                keys = _keys(row, origin)
    except (csv.Error, ConfigError) as exc:  # what follows would make no sense
        line = taken[0] if taken else line
        what = f"{source.name}:{line}: {exc}" if isinstance(exc, csv.Error) else str(exc)
        source.errors.add(line, f"{what}; the rest was not read")
        for _ in lines:  # but for lines that are no text at all
            pass


def _keys(header: list[str], origin: str) -> list[str]:
    keys: list[str] = []
    errors: list[str] = []
    for name in header:
        try:
            key = find_key(name.strip(" \t"))
            errors += [f"{origin}: {name}: a second column of {key}; keep one"] if key in keys else []
            keys.append(key)
        except ConfigError as exc:
            errors.append(f"{origin}: {exc}")
    if errors:
        raise ConfigError("\n".join(errors))
    return keys


def _said_in_row(row: list[str], keys: list[str], origin: str) -> list[Given]:
    if len(row) != len(keys):
        raise ConfigError(f"{origin}: {len(row)} cells, the header has {len(keys)}; a comma or a quote inside a cell needs "
                          "double quotes around the cell")  # fmt: skip
    return [
        Given(key, key, from_text(key, cell), origin) for key, cell in zip(keys, row, strict=True) if cell
    ]


# --- JSON lines and YAML ------------------------------------------------------------------------------------------


def _said_in_item(item: object, origins: Mapping[str, str], where: str) -> list[Given]:
    """A mapping of settings, or a prompt alone."""
    values = {"prompt": item} if isinstance(item, str) else item
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: an entry is a prompt or a mapping of settings, this is {item!r:.80}")
    said: list[Given] = []
    errors: list[str] = []
    try:
        for dotted, value in leaf_values(values):
            origin = origins.get(dotted, where)
            try:
                key = "scheduler" if dotted == "scheduler" and _has_mappings(value) else find_key(dotted)
                said.append(Given(dotted, key, value, origin))
            except ConfigError as exc:
                errors.append(f"{origin}: {exc}")
    except ConfigError as exc:
        errors.append(f"{where}: {exc}")
    if errors:
        raise ConfigError("\n".join(errors))
    return said


def _has_mappings(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _read_jsonl(lines: Lines, source: _Source) -> Iterator[Entry]:
    for number, line in lines:
        if line.strip(" \t"):
            yield from source.entry(number, partial(_said_in_json, line, f"{source.name}:{number}"))


def _said_in_json(line: str, where: str) -> list[Given]:
    try:
        item = json.loads(line, object_pairs_hook=_without_twins, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{where}:{exc.colno}: not JSON: {exc.msg}") from exc
    except ValueError as exc:  # also a number of thousands of digits
        raise ConfigError(f"{where}: not JSON: {exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{where}: nested deeper than {files.MAX_DEPTH} levels") from exc
    return _said_in_item(item, {}, where)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twin = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"{twin!r:.80} is said twice; keep one")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _read_yaml(lines: Lines, source: _Source) -> Iterator[Entry]:
    text: list[str] = []
    size = 0
    for number, line in lines:
        size += len(line.encode()) + 1
        if size > files.MAX_BYTES:
            source.errors.add(
                number,
                f"{source.name}:{number}: YAML is read whole, at most {files.MAX_BYTES:,} bytes; use .jsonl",
            )
            return
        if found := YAML_BREAKS.search(line):
            where = f"{source.name}:{number}:{found.start() + 1}"
            source.errors.add(
                number, f'{where}: U+{ord(found[0]):04X} ends a line of YAML; write "\\u{ord(found[0]):04x}"'
            )
        text.append(f"{line}\n")
    if not source.errors.count:
        yield from _entries_in_yaml("".join(text), source)


def _entries_in_yaml(text: str, source: _Source) -> Iterator[Entry]:
    document = files.Document(text, source.name)
    items = document.read() or []
    if not document.errors and not isinstance(items, list):
        document.errors.append(f"{source.name}:1:1: a prompt file is a list; begin each entry with `- `")
    if document.errors:
        source.errors.add(0, "\n".join(document.errors))
        return
    places: list[dict[str, str]] = [{} for _ in items]
    for dotted, origin in document.origins.items():  # `.0.steps` is the steps of the first entry
        _, index, key = f"{dotted}..".split(".", 2)
        if index:
            places[int(index)][key.removesuffix("..").removesuffix(".")] = origin
    for item, origins in zip(items, places, strict=True):
        line = int(origins[""].rsplit(":", 2)[1])
        yield from source.entry(line, partial(_said_in_item, item, origins, origins[""]))


READERS: dict[str, Callable[[Lines, _Source], Iterator[Entry]]] = {
    ".txt": _read_txt,
    ".csv": partial(_read_table, ","),
    ".tsv": partial(_read_table, "\t"),
    ".jsonl": _read_jsonl,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
