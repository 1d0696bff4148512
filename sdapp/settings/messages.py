"""What is wrong with a setting, in words."""

import reprlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from sdapp.settings.layers import Layer


def explain(error: Any, merged: Layer, model: type[BaseModel]) -> str:
    path = [str(part) for part in error["loc"]]
    if path[0] == "task":
        path = [part for part in path if part not in ("txt2img", "img2img", "inpaint")]
    message = error["msg"][0].lower() + error["msg"][1:]
    match error["type"]:
        case "extra_forbidden":
            fields = _fields(path[:-1], merged, model)
            near = get_close_matches(path[-1], fields, n=1)
            path[-1] = path[-1] if path[-1].isprintable() else repr(path[-1])
            message = f"unknown key{f', did you mean {near[0]!r}?' if near else ''}; allowed here: {', '.join(fields)}"
        case "missing":
            message = "is required here"
        case "union_tag_not_found":
            path, message = ["task", "kind"], "is required here: txt2img, img2img or inpaint"
        case "value_error":
            message = error["msg"].removeprefix("Value error, ")
        case "string_pattern_mismatch":  # there is one pattern
            message = f"should be auto, cpu, cuda, cuda:N or mps, not {reprlib.repr(error['input'])}"
        case _ if path[0] == "batch_size":
            path, message = (
                path[:1],
                f"should be a number from 1 to 256, or auto, not {reprlib.repr(error['input'])}",
            )
        case _ if path[:2] == ["scheduler", "options"] and len(path) > 2:
            path, message = path[:3], "should be text, a number, true, false or null"
        case _:
            message += f", not {reprlib.repr(error['input'])}"
    dotted = ".".join(path) or "config"
    return place_message(dotted, message, merged)


def place_message(dotted: str, message: str, merged: Layer) -> str:
    """`origin: key: message`; where the origin is a flag of that name, it says the key already."""
    origin = origin_of(dotted, merged)
    is_said = origin == f"--{dotted.rpartition('.')[2].replace('_', '-')}" or origin.startswith(
        f"--set {dotted}="
    )
    return f"{origin}: {message}" if is_said else f"{origin}: {dotted}: {message}"


def _fields(path: Sequence[str], merged: Layer, model: type[BaseModel]) -> list[str]:
    """The keys that are allowed at a path; of several kinds of a group those of the kind that is asked for."""
    values: Any = merged.values
    for key in path:
        values = values.get(key, {}) if isinstance(values, dict) else {}
        kinds = list(_models(model.model_fields[key].annotation))
        asked = values.get("kind") if isinstance(values, dict) else None
        model = (
            next(
                (kind for kind in kinds if asked in get_args(kind.model_fields["kind"].annotation)), kinds[0]
            )
            if kinds[1:]
            else kinds[0]
        )
    return [*([] if path else ["extends"]), *model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def origin_of(dotted: str, merged: Layer) -> str:
    while dotted and dotted not in merged.origins:
        dotted = dotted.rpartition(".")[0]
    return merged.origins.get(dotted, "settings")
