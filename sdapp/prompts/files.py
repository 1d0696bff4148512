"""Read prompt files of every format (.txt, .csv, .tsv, .jsonl, .yaml) as the settings of each line."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from sdapp.config import COLUMNS, Folders
from sdapp.errors import ConfigError, InputError, MissingInputError
from sdapp.images import IMAGE_SUFFIXES
from sdapp.metadata.read import read_settings
from sdapp.prompts.columns import (
    LABEL,
    MADE_WITH,
    Given,
    assemble_line,
    find_key,
    from_text,
    known_key,
    label_key,
    nest,
)
from sdapp.prompts.lines import SPACES, Lines, PromptFileError, is_read, read_lines
from sdapp.prompts.txt import TEXT_IN_FRONT, leaf_values, parse_line
from sdapp.settings import files, layers

STDIN = "<stdin>"  # in the places of errors
YAML_BREAKS = re.compile("[\u2028\u2029]")
Rows = Iterator[tuple[int, list[Given]]]  # numbers of lines, and the settings that they give


@dataclass(frozen=True)
class Entry:
    """One line of .txt, row or item of a prompt file: the settings that it gives, by dotted key.

    `place` is its `file:line`, and `origins` has the place of each setting. A list of seeds, one for each
    image, is in `seeds`, not in the values; -1 there means a derived one. `content` is the text that derived
    seeds are made from: equal for equal settings in any format and folder; seed and count are not in it.
    `labels` has what is no setting, such as a tag. `variants` is into how many combinations it was expanded.
    `made_with` has the model and so on of the image that a line begins with, `notes` what to know about it.
    """

    line: int
    place: str
    values: Mapping[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    content: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    variants: int = 1
    made_with: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def layer(self) -> layers.Layer:
        """The same settings, nested."""
        origins = dict(self.origins)
        for key, origin in self.origins.items():
            while key := key.rpartition(".")[0]:
                origins.setdefault(key, origin)
        return layers.Layer(nest(self.values), origins)


def read_prompts(
    path: Path | None, stdin: BinaryIO | None = None, folders: Folders | None = None
) -> Iterator[Entry]:
    """Yield the entries of a prompt file one at a time; without a path, those of standard input or `stdin`.

    The suffix decides the format. Standard input is .txt, or .jsonl if it begins with a JSON object. Relative
    paths of images are relative to the file's folder, for standard input to the current one. An image makes
    the task img2img and a mask makes it inpaint, unless `task.kind` is given. Lists and choices stay as they
    are, and only names of settings are checked; `variants.checked_entries` does the rest. What an image that
    a line begins with names is looked for in `folders`.

    Raises MissingInputError for a file that cannot be read; after the last good entry, PromptFileError with
    all lines that cannot be read.
    """
    errors = PromptFileError()
    if path is None:
        lines = read_lines(stdin or sys.stdin.buffer, STDIN, errors)
        yield from _assemble(_read_stdin(lines, STDIN, errors), STDIN, Path(), errors, folders)
    elif reader := READERS.get(path.suffix.lower()):
        try:
            with path.open("rb") as stream:
                rows = reader(read_lines(stream, str(path), errors), str(path), errors)
                yield from _assemble(rows, str(path), path.parent, errors, folders)
        except OSError as exc:
            raise MissingInputError(f"{path}: cannot read the prompts: {exc.strerror}") from exc
    else:
        raise ConfigError(f"{path}: not a format for prompt files; allowed: {', '.join(READERS)}")
    errors.raise_if_any()


def _assemble(
    rows: Rows, name: str, folder: Path, errors: PromptFileError, folders: Folders | None
) -> Iterator[Entry]:
    for line, given in rows:
        with errors.collect(line):
            notes: tuple[str, ...] = ()
            if _begins_with_image(given):
                given, notes = _with_settings_of_image(given, folder, folders)
            yield Entry(line, f"{name}:{line}", *assemble_line(given, folder), notes)


def _read_stdin(lines: Lines, name: str, errors: PromptFileError) -> Rows:
    first = next((each for each in lines if each[1].strip(" \t")), (0, ""))
    # `{red|blue} house` is a prompt, so a brace alone does not mean JSON.
    reader = _read_jsonl if re.match(r'\s*\{\s*["}]', first[1]) else _read_txt
    return reader(chain([first], lines), name, errors)


def _read_txt(lines: Lines, name: str, errors: PromptFileError) -> Rows:
    for number, line in lines:
        if is_read(line):
            with errors.collect(number):
                yield number, parse_line(line.rstrip(" \t"), f"{name}:{number}")


def _begins_with_image(given: list[Given]) -> bool:
    """Whether a line begins with the path of an image."""
    is_text = bool(given) and given[0].name == TEXT_IN_FRONT
    return is_text and given[0].value.lower().endswith(IMAGE_SUFFIXES)


def _with_settings_of_image(
    given: list[Given], folder: Path, folders: Folders | None
) -> tuple[list[Given], tuple[str, ...]]:
    """The settings inside the image that a line begins with, those of the line over them, and notes on it."""
    path, origin = folder / given[0].value, given[0].origin
    try:
        inside = read_settings(path.absolute(), folders)
        values = [*leaf_values(inside.values)]
    except InputError as exc:
        way = 'a line that ends so is the path of an image; give a prompt as --prompt "…"'
        raise ConfigError(f"{origin}: {exc}; {way}") from exc
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {path}: {exc}") from exc
    over = {each.key for each in given[1:]}
    groups = {key.partition(".")[0] for key in over if key in ("scheduler.name", "task.kind")}
    over |= {"width", "height"} if "size" in over else set()
    found = [
        Given(str(path), f"{MADE_WITH}{key}" if key.partition(".")[0] not in COLUMNS else key, value, origin)
        for key, value in values
        if key != "count" and key not in over and key.partition(".")[0] not in groups and value is not None
    ]
    return [*found, *given[1:]], inside.notes


class _CsvLines:
    """Feeds lines to `csv.reader`, and keeps the number of a row's first line (bad lines are left out)."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.first = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in self.lines:
            self.first = self.first or number
            yield f"{line}\n"


def _read_table(usual: str, lines: Lines, name: str, errors: PromptFileError) -> Rows:
    """Read a table with a header. Empty rows, and columns that are empty, are passed over."""
    top = next((each for each in lines if each[1].strip(f"{SPACES},;")), (1, ""))
    said = re.fullmatch(r'"?sep=([^\w"\s]|\t)"?[,;]*', top[1])  # Excel's way to name the delimiter
    delimiter = said[1] if said else max((usual, *",;\t"), key=top[1].count)
    feed = _CsvLines(lines if said else chain([top], lines))
    keys: list[str] = []
    line = 0
    try:
        for row in csv.reader(feed, delimiter=delimiter, strict=True):
            line, feed.first = feed.first, 0
            if not any(map(_text, row)):
                continue
            if not keys:
                keys = _read_header(row, f"{name}:{line}")
                continue
            with errors.collect(line, f"{name}:{line}"):
                yield line, _given_in_row(row, keys, f"{name}:{line}", delimiter)
    except (csv.Error, PromptFileError) as exc:  # the rows that follow would make no sense
        line = feed.first or line
        place = "" if isinstance(exc, PromptFileError) else f"{name}:{line}: "
        errors.add(line, f"{place}{exc}; the lines below it were not checked")
        for _ in lines:  # except to find lines that are not text
            pass


def _text(cell: str) -> str:
    return cell.strip(SPACES)


def _read_header(header: list[str], place: str) -> list[str]:
    """Return the keys of the columns: "" for a column without a name, which pandas calls `Unnamed: 0`."""
    keys: list[str] = []
    errors = PromptFileError()
    for name in map(_text, header):
        with errors.collect(place=place):
            is_unnamed = re.fullmatch("(Unnamed: [0-9]+)?", name)
            key = "" if is_unnamed else known_key(name) or label_key(name) or find_key(name)
            if key and key in keys:
                raise ConfigError(f"{name}: is a second column for {key.removeprefix(LABEL)}; keep one")
            keys.append(key)
    if not errors.count and all(not key or key.startswith(LABEL) for key in keys):
        form = "the first line names the columns, such as prompt,seed,steps"
        errors.add(0, f"{place}: no column is a setting; {form}")
    errors.raise_if_any()
    return keys


def _given_in_row(row: list[str], keys: list[str], place: str, delimiter: str) -> list[Given]:
    """The settings of a row. Raises ConfigError for a cell without a name, unless it numbers the row."""
    if any(keys[len(row) :]) or any(map(_text, row[len(keys) :])):
        quotes = f"put double quotes around a cell that contains {delimiter!r} or a quote"
        fix = (
            quotes if len(row) > len(keys) else f"a cell is missing; an empty one needs its {delimiter!r} too"
        )
        raise ConfigError(f"{len(row)} cells, but the header has {len(keys)}; {fix}")
    given: list[Given] = []
    for column, (key, cell) in enumerate(zip(keys, row, strict=False)):
        if key and _text(cell):
            given.append(Given(key, key, from_text(key, cell), place))
        elif _text(cell) and (any(keys[:column]) or not cell.isdecimal()):
            raise ConfigError(f"{cell!r:.80} is in a column without a name; name the column in the header")
    return given


def _given_in_item(item: object, origins: Mapping[str, str], place: str) -> list[Given]:
    """The settings of a JSON or YAML item: a mapping, or a prompt alone. Raises PromptFileError."""
    values = {"prompt": item} if isinstance(item, str) else item
    given: list[Given] = []
    errors = PromptFileError()
    with errors.collect(place=place):
        if not isinstance(values, dict):
            wrong = f"an entry is a prompt or a mapping of settings, not {item!r:.80}"
            raise ConfigError(f"{wrong}; put a prompt in quotes")
        for dotted, value in leaf_values(values):
            origin = origins.get(dotted, place)
            with errors.collect(place=origin):
                has_mappings = isinstance(value, list) and any(isinstance(item, dict) for item in value)
                known = known_key(dotted) or label_key(dotted)
                key = "scheduler" if dotted == "scheduler" and has_mappings else known or find_key(dotted)
                given.append(Given(dotted, key, value, origin))
    errors.raise_if_any()
    return given


def _read_jsonl(lines: Lines, name: str, errors: PromptFileError) -> Rows:
    for number, line in lines:
        if line.strip(" \t"):
            place = f"{name}:{number}"
            with errors.collect(number):
                yield number, _given_in_item(_parse_json(line, place), {}, place)


def _parse_json(line: str, place: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{place}:{exc.colno}: not JSON: {exc.msg}") from exc
    except ValueError as exc:  # also a number of thousands of digits
        raise ConfigError(f"{place}: not JSON: {exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{place}: nested deeper than {files.MAX_DEPTH} levels") from exc


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r:.80} is given twice; keep one")
        values[name] = value
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _read_yaml(lines: Lines, name: str, errors: PromptFileError) -> Rows:
    text: list[str] = []
    size = 0
    for number, line in lines:
        size += len(line.encode()) + 1
        if size > files.MAX_BYTES:
            limit = f"a YAML file has at most {files.MAX_BYTES:,} bytes, because it is read at once"
            errors.add(number, f"{name}:{number}: {limit}; use .jsonl")
            return
        if found := YAML_BREAKS.search(line):
            escaped = f'U+{ord(found[0]):04X} ends a line in YAML; write "\\u{ord(found[0]):04x}"'
            errors.add(number, f"{name}:{number}:{found.start() + 1}: {escaped}")
        text.append(f"{line}\n")
    if errors.count:
        return
    document = files.Document("".join(text), name)
    items = document.read() or []
    if not document.errors and not isinstance(items, list):
        document.errors.append(f"{name}:1:1: a prompt file is a list; begin each entry with `- `")
    if document.errors:
        errors.add(0, "\n".join(document.errors))
        return
    for item, origins in zip(items, _item_origins(len(items), document.origins), strict=True):
        number = int(origins[""].rsplit(":", 2)[1])
        with errors.collect(number):
            yield number, _given_in_item(item, origins, origins[""])


def _item_origins(count: int, origins: Mapping[str, str]) -> list[dict[str, str]]:
    """The origins of each item of a list, by key; "" is the item. `.0.steps` is `steps` of the first item."""
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for dotted, origin in origins.items():
        _, _, path = dotted.partition(".")
        index, _, key = path.partition(".")
        if index:
            found[int(index)][key] = origin
    return found


READERS: dict[str, Callable[[Lines, str, PromptFileError], Rows]] = {
    ".txt": _read_txt,
    ".csv": partial(_read_table, ","),
    ".tsv": partial(_read_table, "\t"),
    ".jsonl": _read_jsonl,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
