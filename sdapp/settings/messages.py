"""Error messages for settings: the place, the key, and what is allowed."""

import json
import re
import reprlib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sdapp.errors import InputError, did_you_mean
from sdapp.settings.layers import Layer
from sdapp.settings.types import Setting, alternatives, to_whole

WORDS = {  # pydantic's types of errors → what is allowed, with the values that it gives
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be {le} or less",
    "finite_number": "must be a finite number",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "too_short": "must have {min_length} or more values",
    "too_long": "must have {max_length} or fewer values",
    "literal_error": "must be {expected}",
}
OTHER_NAMES = {
    "fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32",
    "full": "float32", "v": "v_prediction", "eps": "epsilon", "noise": "epsilon",
}  # fmt: skip


def what_is_wrong(error: Any) -> str:
    """Return what one of pydantic's errors says is wrong with a value, without the value."""
    if error["type"] in WORDS:
        return WORDS[error["type"]].format(
            **{key: to_whole(value) for key, value in error.get("ctx", {}).items()}
        )
    return str(error["msg"]).removeprefix("Value error, ")


def explain_error(error: Any, merged: Layer, model: type[BaseModel]) -> str:
    """Return one of pydantic's errors as a line: where the value was given, its key, what is allowed."""
    unknown = error["type"] == "extra_forbidden"
    loc = error["loc"][:-1] if unknown else error["loc"]
    path, parts, expected = _follow(loc, model)
    given = reprlib.repr(error["input"])
    groups = [part for part in parts if _is_group(part)]
    match error["type"]:
        case "extra_forbidden":
            key, fields = str(error["loc"][-1]), [*([] if path else ["extends"]), *groups[0].model_fields]
            path.append(key if key.isprintable() else repr(key))
            allowed_here = f"; allowed here: {', '.join(fields)}"
            message = f"unknown key{did_you_mean(key, fields, allowed_here)}"
        case "missing":
            message = f"is required here{_description(error['loc'], model)}"
        case "union_tag_not_found" | "union_tag_invalid":
            path.append("kind")
            kinds = ", ".join(_kind_of(each) for each in groups)
            tag = error["ctx"].get("tag")
            message = f"must be one of {kinds}, not {tag!r}" if tag else f"is required here: one of {kinds}"
        case "value_error":
            message = what_is_wrong(error)
        case _ if expected:
            message = f"must be {expected}, not {given}"
        case "string_type" if error["input"] is None:
            message = 'must be text, not null; write "" for none'
        case "string_type":
            written = json.dumps(error["input"], ensure_ascii=False, default=str).replace('"', "")
            way = f'; put it in quotes: {path[-1]}: "{written}"' if written.isprintable() else ""
            message = f"must be text, not {given}{way}"
        case "model_type" | "model_attributes_type":
            keys = dict.fromkeys(name for each in groups for name in each.model_fields)
            message = f"must be a group of keys ({', '.join(keys)}), not {given}"
        case _:
            message = f"{what_is_wrong(error)}, not {given}{_right_spelling(error)}"
    return place_message(".".join(path) or "config", message, merged)


def _right_spelling(error: Any) -> str:
    """What is nearest to a value that is one of a few words, or to a number with a decimal comma."""
    word = str(error["input"])
    if error["type"] == "literal_error":
        allowed = re.findall("'(.*?)'", error["ctx"]["expected"])
        return did_you_mean(OTHER_NAMES.get(word.lower(), word), allowed)
    is_decimal_comma = error["type"] == "float_type" and re.fullmatch(r"-?\d+,\d+", word)
    return f"; write {word.replace(',', '.')}" if is_decimal_comma else ""


def place_message(dotted: str, message: str, merged: Layer) -> str:
    """Return `place: key: message`, without what the place says already, such as the option of that name.

    The place is where the key was given, else where the nearest group around it was, else a key beside it.
    """
    group = dotted
    while group and group not in merged.origins:
        group = group.rpartition(".")[0]
    if group:
        origin = merged.origins[group]
    else:  # such as a key that is missing beside others that were given
        beside = f"{dotted.rpartition('.')[0]}."
        near = (origin for key, origin in merged.origins.items() if key.startswith(beside))
        origin = next(near, merged.origins.get("", "settings"))
    option = f"--{dotted.rpartition('.')[2].replace('_', '-')}"
    given = re.sub(r"^(--set|/set) ", "", origin)
    if origin == option or given.startswith(f"{dotted}="):
        return f"{origin}: {message}"
    if group.rpartition(".")[2].isdigit() and origin.startswith("--"):  # such as `--detail face:3`
        dotted = dotted.removeprefix(group).removeprefix(".")
    return ": ".join(filter(None, (origin, dotted, message)))


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


def _description(loc: Sequence[str | int], model: type[BaseModel]) -> str:
    """What a key is for, behind a colon; empty if that is not known."""
    fields = [part.model_fields.get(str(loc[-1])) for part in _follow(loc[:-1], model)[1] if _is_group(part)]
    return next((f": {field.description}" for field in fields if field and field.description), "")


def _is_group(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _kind_of(group: type[BaseModel]) -> str:
    kind = group.model_fields.get("kind")
    return str(get_args(kind.annotation)[0]) if kind else ""


def edited_file(where: str, exc: ValidationError) -> InputError:
    """The error for a file that sdapp wrote, and that is not as it was written."""
    error = exc.errors(include_url=False)[0]
    place = ".".join(map(str, error["loc"]))
    return InputError(f"{where}: {place and f'{place}: '}{error['msg']}; was the file edited?")
