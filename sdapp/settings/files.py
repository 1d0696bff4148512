"""Read settings from YAML files and from --set."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from sdapp.errors import ConfigError, MissingInputError, did_you_mean
from sdapp.settings.layers import Layer, anchor, override
from sdapp.settings.types import Setting

PACKAGE = Path(__file__).parents[1]
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_EXTENDS = 10


class _CoreLoader(yaml.SafeLoader):
    """Reads scalars by YAML 1.2, not 1.1: `no` and `1:30` are text, `010` is ten, `1e-5` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_SCALARS = {
    "null": r"^(?:~|null|Null|NULL|)$",
    "bool": r"^(?:true|True|TRUE|false|False|FALSE)$",
    "int": r"^[-+]?[0-9]{1,100}$",
    "float": r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$",
}
for _name, _pattern in _SCALARS.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), None)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


# Paths of prompts in a config or a prompt file, and lines with text that YAML may take for something else.
PROMPT = re.compile(r"(?i)(.*\.)?[^.]*prompts?(\.\d+)?|\.\d+")
TEXT_LINE = re.compile(r"(?i) *((?:- +)*(?:(?:[\w ]*prompts?|name): +|(?<=- )))(.*?)\s*")
CUT = re.compile(r"[ \t]+(#\w[^\n]*)")  # a comment that was probably meant as text


class Document:
    """Reads one YAML text into plain values.

    `source` is its name in messages; `errors` gets every error; `origins` the place of every value, by its
    path, such as `task.image` or, in a list, `.0.prompt`.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.errors: list[str] = []
        self.origins: dict[str, str] = {}

    def _complain(self, mark: Any, message: str, text_at: Any = None) -> None:
        """Add an error; `text_at` is where text may stand that only needs quotes."""
        advice = self._in_quotes(text_at) if text_at else ""
        self.errors.append(f"{self._place(mark)}: {message}{advice}")

    def _place(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}:{mark.column + 1}"

    def _in_quotes(self, mark: Any) -> str:
        """Return advice with the line of a mark as it should be; empty if its value is no text."""
        begin, end = self.text.rfind("\n", 0, mark.index) + 1, self.text.find("\n", mark.index)
        line = TEXT_LINE.fullmatch(self.text[begin : end if end >= 0 else None])
        if line is None or mark.column + 1 < line.start(2):
            return ""
        key, value = line.groups()
        inner = value[1:-1] if value[:1] in ("'", '"') and value[-1] == value[0] else value
        return f"; if this is text, put it in quotes: {key}{json.dumps(inner, ensure_ascii=False)}"

    def read(self) -> Any:
        """Return the values, `{}` for an empty text; they are only good if `errors` is empty."""
        try:
            self._refuse_tricks()
            if self.errors:
                return None
            node = yaml.compose(self.text, _CoreLoader)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            # The line in which a bracket or a quote is open, not the line in which it is missed.
            opened = exc.context_mark if "block" not in str(exc.context) else None
            self._complain(mark, f"not YAML: {exc.problem or exc.context}", text_at=opened or mark)
            return None
        except yaml.YAMLError as exc:
            self.errors.append(f"{self.source}: not YAML: {' '.join(str(exc).split())}")
            return None
        return {} if node is None else self._build(node, "")

    def _refuse_tricks(self) -> None:
        """Refuse aliases, anchors and tags, with which YAML can run code or never end, and deep nesting."""
        depth = 0
        for event in yaml.parse(self.text, _CoreLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                message = "anchors and aliases (& and *) are not allowed; write the value out"
                self._complain(event.start_mark, message, text_at=event.start_mark)
            elif tag := getattr(event, "tag", None):
                message = f"tags ({tag!r}) are not allowed; write a plain value"
                self._complain(event.start_mark, message, text_at=event.start_mark)
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    self._complain(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
                    return
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _build(self, node: yaml.Node, path: str) -> Any:
        self.origins.setdefault(path, self._place(node.start_mark))
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, f"{path}.{i}") for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            if PROMPT.fullmatch(path) and (cut := CUT.match(self.text, node.end_mark.index)):
                message = f"YAML takes {cut[1]!r} for a comment, unless the text is in quotes"
                self._complain(node.start_mark, message, text_at=node.start_mark)
            return _CoreLoader("").construct_object(node)
        if any(key.end_mark.index == value.end_mark.index for key, value in node.value):
            message = "YAML takes {…} for a mapping of `key: value`, unless it is in quotes"
            self._complain(node.start_mark, message, text_at=node.start_mark)
            return None
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key == "<<" or not key.isprintable():
                message = "a key must be plain text; merge keys (<<) are not allowed, use extends"
                self._complain(key_node.start_mark, message)
                continue
            dotted = f"{path}.{key}" if path else key
            if key in built:
                first = self.origins[dotted].rsplit(":", 2)[1]
                message = f"{dotted}: given twice, first in line {first}; keep one"
                self._complain(key_node.start_mark, message)
                continue
            self.origins[dotted] = self._place(key_node.start_mark)
            built[key] = self._build(value_node, dotted)
        return built


def parse_yaml(text: str, source: str) -> Layer:
    """Read one YAML mapping. `source` is its name in origins. Raises ConfigError with every error."""
    document = Document(text, source)
    values = document.read()
    if not document.errors and not isinstance(values, dict):
        kind = type(values).__name__
        document.errors.append(f"{source}:1:1: a config is a mapping of `key: value` lines, this is a {kind}")
    if document.errors:
        raise ConfigError("\n".join(document.errors))
    return Layer(values, document.origins)


def presets() -> dict[str, Path]:
    """The configs that come with sdapp, by their names: in a clone beside the package, in a wheel inside."""
    inside, beside = PACKAGE / "configs", PACKAGE.parent / "configs"
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_layers(path: Path, settings: Mapping[str, Setting]) -> list[Layer]:
    """Read a config file, or a preset by its name, and what it extends, which comes first in the list.

    Paths in each file are relative to that file; `settings` says which keys are paths. Raises ConfigError,
    MissingInputError.
    """
    chain: list[Layer] = []
    seen: list[Path] = []
    following: Path | None = _file_or_preset(path, str(path))
    while following is not None:
        if following.is_symlink() and not following.exists():
            raise MissingInputError(f"{following}: cannot read the config: a broken or circular link")
        if following.resolve() in seen:
            names = " → ".join(str(file) for file in [*seen, following.resolve()])
            raise ConfigError(f"{path}: extends goes in a circle: {names}")
        if len(seen) == MAX_EXTENDS:
            raise ConfigError(f"{path}: extends more than {MAX_EXTENDS} files in a row")
        seen.append(following.resolve())
        where = f"{chain[0].origins['extends']}: extends: " if chain else ""
        layer = parse_yaml(_read_text(following, where), str(following))
        parent = layer.values.pop("extends", None)
        if parent is not None and (not isinstance(parent, str) or not parent or "\0" in parent):
            raise ConfigError(f"{layer.origins['extends']}: extends: give one file name")
        anchor_paths(layer.values, following.parent, settings)
        chain.insert(0, layer)
        following = _file_or_preset(following.parent / parent, parent) if parent else None
    return chain


def _file_or_preset(path: Path, name: str) -> Path:
    """The preset of that name, unless there is a file."""
    return path if path.is_file() or path.is_symlink() else presets().get(name, path)


def _read_text(path: Path, where: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        names = presets()
        hint = did_you_mean(path.stem, names, f"; presets: {', '.join(names)}")
        raise MissingInputError(f"{where}{path}: no such config{hint}") from exc
    except OSError as exc:
        raise MissingInputError(f"{where}{path}: cannot read the config: {exc.strerror}") from exc
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where}{path}: {len(data):,} bytes; a config has at most {MAX_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}{path}: byte {exc.start}: not UTF-8; save the file as UTF-8") from exc


def find_named(folder: str | None, name: str) -> str | None:
    """Return the path of what is called `name` in a folder or below it, with or without `.safetensors`.

    None without a folder, for a path that exists, and for a name that is not there.
    """
    if folder is None or Path(name).expanduser().exists():
        return None
    path = names_in(Path(folder).expanduser()).get(Path(name).name.removesuffix(".safetensors").lower())
    return None if path is None else str(path)


@lru_cache(maxsize=8)
def names_in(folder: Path) -> dict[str, Path]:
    """The files and models in a folder and below it; of two with one name, the one that is less deep."""
    names = sorted(folder.rglob("*.safetensors"), key=lambda path: -len(path.parts))
    indexes = sorted(folder.rglob("model_index.json"), key=lambda path: -len(path.parts))
    return {path.stem.lower(): path for path in names} | {
        path.parent.name.lower(): path.parent for path in indexes
    }


def anchor_paths(values: dict[str, Any], folder: Path, settings: Mapping[str, Setting]) -> None:
    """Change relative paths in `values`, in place, into paths that start at `folder`.

    `settings` says which keys are paths; they may stand in groups and lists.
    """
    for dotted, setting in settings.items():
        if setting.parse and dotted in values:
            values[dotted] = setting.parse(values[dotted])
        if setting.kind in ("file", "model"):
            anchored(values, folder, setting.kind, dotted.split("."))
            anchored(values, folder, setting.kind, ["compare", "vary", dotted])


def anchored(value: Any, folder: Path, kind: str, keys: Sequence[str] = ()) -> Any:
    """Return a path, or a list of paths, anchored; anchor in place the paths at nested keys of a mapping."""
    if isinstance(value, list):
        return [anchored(item, folder, kind, keys) for item in value]
    if keys and isinstance(value, dict) and keys[0] in value:
        value[keys[0]] = anchored(value[keys[0]], folder, kind, keys[1:])
    if keys or not isinstance(value, str) or not value:
        return value
    if kind == "model":
        is_path = value.startswith(".") or value.endswith(".safetensors")
        return anchor(value, folder) if is_path and not Path(value).is_absolute() else value
    return str(Path(value).expanduser() if Path(value).parts[:1] == ("~",) else folder / value)


def parse_override(
    text: str, settings: Mapping[str, Setting] = MappingProxyType({}), command: str = "--set"
) -> Layer:
    """Return the layer of one `key=value` that was given to --set or `command`. Raises ConfigError.

    A text, name, file or model, as `settings` declares them, is taken as it stands, or without its quotes if
    it is a quoted YAML text; `null` unsets a name or model. Of others, numbers, true, false, null, [ ] and
    { } are read as YAML; everything else is text.
    """
    origin = f"{command} {text}".lstrip()
    dotted, equals, value = text.partition("=")
    around = [key for key in settings if dotted.startswith(f"{key}.") and settings[key].list_of]
    if equals and around:
        last = dotted.rpartition(".")[2]
        item = value if last.isdigit() else f"{{{last}: {value}, …}}"
        whole = f"{around[0]}=[{item}]"
        shown = f"--set '{whole}'" if command == "--set" else whole
        raise ConfigError(f"{origin}: {around[0]} is a list; give all of it: {shown}")
    if not equals or not all(part.isidentifier() for part in dotted.split(".")):
        raise ConfigError(f"{origin}: write it as key=value, such as {command} steps=30 or output.dir=images")
    try:
        read = parse_yaml(f"value: {value}", origin).values
    except ConfigError:  # such as `a cat: the film`
        read = {"value": value}
    found, setting = read["value"], settings.get(dotted, Setting())
    kind = setting.kind
    if setting.list_of and len(read) == 1 and (found is None or isinstance(found, list)):
        return override(dotted, found or [], origin)
    if isinstance(found, str) and len(read) == 1 and value[:1] in ("'", '"') and value[-1] == value[0]:
        return override(dotted, found, origin)
    takes_text = kind in ("text", "file") or (kind != "value" and found is not None)
    is_template = isinstance(found, dict) and ":" not in value  # `{seed}` is a mapping to YAML
    is_text = takes_text or is_template or isinstance(found, str) or len(read) > 1
    return override(dotted, value if is_text else found, origin)
