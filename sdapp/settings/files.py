"""YAML files as layers of settings."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sdapp.errors import ConfigError, MissingInputError
from sdapp.settings.layers import Layer, anchor, override
from sdapp.settings.types import Setting

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_EXTENDS = 10


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `no` is text, `010` is ten, `1e-5` is a number, `1:30` is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way)


_SCALARS = {
    "null": r"^(?:~|null|Null|NULL|)$",
    "bool": r"^(?:true|True|TRUE|false|False|FALSE)$",
    "int": r"^[-+]?[0-9]{1,100}$",
    "float": r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$",
}
for _name, _pattern in _SCALARS.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), None)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class Document:
    """One YAML text on its way to a Layer; collects every error with its place."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.errors: list[str] = []
        self.origins: dict[str, str] = {}

    def _complain(self, mark: Any, message: str) -> None:
        self.errors.append(f"{self._place(mark)}: {message}")

    def _place(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}:{mark.column + 1}"

    def read(self) -> Any:
        """Return the values; None if there are errors. An empty text is an empty mapping."""
        try:
            self._refuse_tricks()
            if self.errors:
                return None
            node = yaml.compose(self.text, _CoreLoader)
        except yaml.MarkedYAMLError as exc:
            self._complain(exc.problem_mark or exc.context_mark, f"not YAML: {exc.problem or exc.context}")
            return None
        except yaml.YAMLError as exc:
            self.errors.append(f"{self.source}: not YAML: {' '.join(str(exc).split())}")
            return None
        return {} if node is None else self._build(node, "")

    def _refuse_tricks(self) -> None:
        """Refuse aliases, anchors and tags, which can run code or never end, and depth that breaks PyYAML."""
        depth = 0
        for event in yaml.parse(self.text, _CoreLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                message = "anchors and aliases (& and *) are not allowed; write the value out"
                self._complain(event.start_mark, message)
            elif tag := getattr(event, "tag", None):
                self._complain(event.start_mark, f"tags ({tag!r}) are not allowed; write a plain value")
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
            return _CoreLoader("").construct_object(node)
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


def read_layers(path: Path, settings: Mapping[str, Setting]) -> list[Layer]:
    """Return the layers of a config file: the files that it extends first, itself last.

    Paths, which `settings` declares, become relative to the current folder. Raises ConfigError,
    MissingInputError.
    """
    chain: list[Layer] = []
    seen: list[Path] = []
    following: Path | None = path
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
        following = following.parent / parent if parent else None
    return chain


def _read_text(path: Path, where: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise MissingInputError(f"{where}{path}: cannot read the config: {exc.strerror}") from exc
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where}{path}: {len(data):,} bytes; a config has at most {MAX_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}{path}: byte {exc.start}: not UTF-8; save the file as UTF-8") from exc


def anchor_paths(values: dict[str, Any], folder: Path, settings: Mapping[str, Setting]) -> None:
    """Change relative paths in nested values, inside lists too, into paths that start at `folder`."""
    for dotted, setting in settings.items():
        if setting.kind in ("file", "model"):
            anchored(values, folder, setting.kind, dotted.split("."))


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


def parse_override(text: str) -> Layer:
    """Return the layer of one `key=value` of --set. Raises ConfigError.

    Numbers, true, false, null, [ ] and { } are read as YAML; everything else is text.
    """
    origin = f"--set {text}"
    dotted, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in dotted.split(".")):
        raise ConfigError(f"{origin}: write it as key=value, such as --set steps=30 or output.dir=images")
    try:
        read = parse_yaml(f"value: {value}", origin).values
    except ConfigError:  # such as `a cat: the film`
        read = {"value": value}
    found = read["value"]
    is_template = isinstance(found, dict) and ":" not in value  # `{seed}` is a mapping to YAML
    is_text = len(read) > 1 or is_template or (isinstance(found, str) and value[:1] not in ("'", '"'))
    return override(dotted, value if is_text else found, origin)
