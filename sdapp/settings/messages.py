"""Error messages for settings: the place, the key, and what is allowed."""

import json
import reprlib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from sdapp.errors import nearest
from sdapp.settings.layers import Layer
from sdapp.settings.types import Setting, alternatives


def explain(error: Any, merged: Layer, model: type[BaseModel]) -> str:
    """Return one of pydantic's errors as a line: where the value was given, its key, what is allowed."""
    unknown = error["type"] == "extra_forbidden"
    loc = error["loc"][:-1] if unknown else error["loc"]
    path, parts, expected = _follow(loc, model)
    given = reprlib.repr(error["input"])
    groups = [part for part in parts if _is_group(part)]
    match error["type"]:
        case "extra_forbidden":
            key, fields = str(error["loc"][-1]), [*([] if path else ["extends"]), *groups[0].model_fields]
            near = nearest(key, fields)
            path.append(key if key.isprintable() else repr(key))
            hint = f", did you mean {near[0]!r}?" if near else ""
            message = f"unknown key{hint}; allowed here: {', '.join(fields)}"
        case "missing":
            message = "is required here"
        case "union_tag_not_found" | "union_tag_invalid":
            path.append("kind")
            kinds = ", ".join(_kind_of(each) for each in groups)
            tag = error["ctx"].get("tag")
            message = f"should be one of {kinds}, not {tag!r}" if tag else f"is required here: one of {kinds}"
        case "value_error":
            message = error["msg"].removeprefix("Value error, ")
        case _ if expected:
            message = f"should be {expected}, not {given}"
        case "int_type" | "float_type" as kind:
            message = f"should be a {'whole ' if kind == 'int_type' else ''}number, not {given}"
        case "string_type" if error["input"] is None:
            message = 'should be text, not null; write "" for none'
        case "string_type":
            written = json.dumps(error["input"], ensure_ascii=False, default=str).replace('"', "")
            message = f'should be text, not {given}; put it in quotes: {path[-1]}: "{written}"'
        case "model_type" | "model_attributes_type":
            allowed = dict.fromkeys(name for each in groups for name in each.model_fields)
            message = f"should be a group of keys ({', '.join(allowed)}), not {given}"
        case _:
            message = f"{error['msg'][0].lower()}{error['msg'][1:]}, not {given}"
    return place_message(".".join(path) or "config", message, merged)


def place_message(dotted: str, message: str, merged: Layer) -> str:
    """Return `place: key: message`, without the key if the place is the option of that name.

    The place is where the key was given, else where the nearest group around it was.
    """
    group = dotted
    while group and group not in merged.origins:
        group = group.rpartition(".")[0]
    origin = merged.origins.get(group, "settings")
    option = f"--{dotted.rpartition('.')[2].replace('_', '-')}"
    if origin == option or origin.startswith(f"--set {dotted}="):
        return f"{origin}: {message}"
    return f"{origin}: {dotted}: {message}"


def _follow(loc: Sequence[str | int], model: type[BaseModel]) -> tuple[list[str], list[Any], str]:
    """Follow pydantic's location of an error down the annotations of a model.

    Returns its keys and indexes, without pydantic's marks for members of a union; the alternatives of the
    annotation at the end; and the `expected` of its Setting.
    """
    path: list[str] = []
    parts: list[Any] = [model]
    expected = ""
    for step in loc:
        groups = [part for part in parts if _is_group(part)]
        field = next((each.model_fields[step] for each in groups if step in each.model_fields), None)
        inner = [get_args(part)[-1] for part in parts if get_origin(part) in (list, dict)]
        if field is not None:
            parts, markers = list(alternatives(field.annotation)), field.metadata
        elif inner:
            parts, markers = list(alternatives(inner[0])), []
        else:  # a mark of pydantic; for a group with a `kind` it is that kind
            parts = [each for each in groups if _kind_of(each) == step] or parts
            continue
        path.append(str(step))
        markers = [*markers, *(marker for part in parts for marker in get_args(part)[1:])]
        expected = next((each.expected for each in markers if isinstance(each, Setting)), "")
    return path, parts, expected


def _is_group(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _kind_of(group: type[BaseModel]) -> str:
    kind = group.model_fields.get("kind")
    return str(get_args(kind.annotation)[0]) if kind else ""
