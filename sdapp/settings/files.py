"""YAML files as layers of settings."""

import re
from collections.abc import Mapping
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

    def complain(self, mark: Any, what: str) -> None:
        self.errors.append(f"{self.source}:{mark.line + 1}:{mark.column + 1}: {what}")

    def read(self) -> Any:
        try:
            self._refuse_tricks()
            if self.errors:
                return None
            node = yaml.compose(self.text, _CoreLoader)
        except yaml.MarkedYAMLError as exc:
            self.complain(exc.problem_mark or exc.context_mark, f"not YAML: {exc.problem or exc.context}")
            return None
        except yaml.YAMLError as exc:
            self.errors.append(f"{self.source}: not YAML: {' '.join(str(exc).split())}")
            return None
        return {} if node is None else self._build(node, "")

    def _refuse_tricks(self) -> None:
        """Aliases, anchors and tags can make a small file endless or run code; depth can break the reader."""
        depth = 0
        for event in yaml.parse(self.text, _CoreLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                self.complain(
                    event.start_mark, "anchors and aliases (& and *) are not allowed; write the value out"
                )
            elif tag := getattr(event, "tag", None):
                self.complain(event.start_mark, f"tags ({tag!r}) are not allowed; write a plain value")
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    self.complain(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
                    return
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _build(self, node: yaml.Node, path: str) -> Any:
        mark = node.start_mark
        self.origins.setdefault(path, f"{self.source}:{mark.line + 1}:{mark.column + 1}")
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, f"{path}.{i}") for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, path)
        loader = _CoreLoader("")
        return loader.construct_object(node)

    def _build_mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key == "<<" or not key.isprintable():
                self.complain(
                    key_node.start_mark,
                    "a key must be plain text; merge keys (<<) are not allowed, use extends",
                )
                continue
            dotted = f"{path}.{key}" if path else key
            mark = key_node.start_mark
            if key in built:
                first = self.origins[dotted].rsplit(":", 2)[1]
                self.complain(mark, f"{dotted}: said twice, first in line {first}; keep one")
                continue
            self.origins[dotted] = f"{self.source}:{mark.line + 1}:{mark.column + 1}"
            built[key] = self._build(value_node, dotted)
        return built


def parse_yaml(text: str, source: str) -> Layer:
    """Read one YAML mapping; `source` names it in errors and origins. Raises ConfigError with every error of the text."""
    document = Document(text, source)
    values = document.read()
    if not document.errors and not isinstance(values, dict):
        document.errors.append(
            f"{source}:1:1: a config is a mapping of `key: value` lines, this is a {type(values).__name__}"
        )
    if document.errors:
        raise ConfigError("\n".join(document.errors))
    return Layer(values, document.origins)


def read_layers(path: Path, settings: Mapping[str, Setting]) -> list[Layer]:
    """Return the layers of a config file: the files that it extends first, itself last.

    `settings` says which keys are paths; those become relative to the current folder. Raises ConfigError,
    MissingInputError.
    """
    chain: list[Layer] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        if following.is_symlink() and not following.exists():
            raise MissingInputError(
                f"{following}: cannot read the config: its link leads nowhere, or in a circle"
            )
        if following.resolve() in seen:
            names = " → ".join(str(file) for file in [*seen, following.resolve()])
            raise ConfigError(f"{path}: extends goes in a circle: {names}")
        if len(seen) == MAX_EXTENDS:
            raise ConfigError(f"{path}: extends more than {MAX_EXTENDS} files in a row")
        seen.append(following.resolve())
        layer = parse_yaml(_read_text(following, chain), str(following))
        parent = layer.values.pop("extends", None)
        if parent is not None and (not isinstance(parent, str) or not parent or "\0" in parent):
            raise ConfigError(f"{layer.origins['extends']}: extends: give one file name")
        anchor_paths(layer.values, following.parent, settings)
        chain.insert(0, layer)
        following = following.parent / parent if parent else None
    return chain


def _read_text(path: Path, chain: list[Layer]) -> str:
    where = f"{chain[0].origins['extends']}: extends: " if chain else ""
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
            _anchor_key(values, dotted.split("."), folder, setting.kind)


def _anchor_key(values: Any, keys: list[str], folder: Path, kind: str) -> None:
    if isinstance(values, list):
        for item in values:
            _anchor_key(item, keys, folder, kind)
    elif isinstance(values, dict) and keys[0] in values:
        if len(keys) > 1:
            _anchor_key(values[keys[0]], keys[1:], folder, kind)
        else:
            values[keys[0]] = _anchored(values[keys[0]], folder, kind)


def _anchored(value: Any, folder: Path, kind: str) -> Any:
    if isinstance(value, list):
        return [_anchored(item, folder, kind) for item in value]
    if not isinstance(value, str) or not value:
        return value
    if kind == "model":
        is_path = value.startswith(".") or value.endswith(".safetensors")
        return anchor(value, folder) if is_path and not Path(value).is_absolute() else value
    return str(Path(value).expanduser() if Path(value).parts[:1] == ("~",) else folder / value)


def parse_override(text: str) -> Layer:
    """`key=value` of --set, the value read as YAML where it is a number, true, false, null, [ ] or { }, else as the text
    that it is. Raises ConfigError.
    """
    origin = f"--set {text}"
    dotted, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in dotted.split(".")):
        raise ConfigError(
            f"{origin}: write it as key=value, such as --set steps=30 or --set output.dir=images"
        )
    try:
        read = parse_yaml(f"value: {value}", origin).values
    except ConfigError:  # such as `a cat: the film`
        read = {"value": value}
    found = read["value"]
    is_template = isinstance(found, dict) and ":" not in value  # `{seed}` is a mapping to YAML
    is_text = len(read) > 1 or is_template or (isinstance(found, str) and value[:1] not in ("'", '"'))
    return override(dotted, value if is_text else found, origin)
