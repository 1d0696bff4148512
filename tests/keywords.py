"""The types of the Python functions' keyword arguments, from the settings: `python tests/keywords.py` writes them."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sdapp.arguments import TASK_KEYS
from sdapp.config import SETTINGS, ImageSettings, LoadSettings, RunConfig

MODULE = Path(__file__).parents[1] / "sdapp" / "keywords.py"
HEAD = '''\
"""The keyword arguments of the Python functions. `python tests/keywords.py` writes this file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, Required, TypedDict

from PIL import Image

AnyPath = str | PathLike[str]
InputImage = AnyPath | Image.Image
'''
PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
INPUTS = ("image", "mask")  # which may be Pillow's images
SCHEMA = RunConfig.model_json_schema(mode="validation")
Fields = Mapping[str, Any]


def python_type(schema: Mapping[str, Any], key: str) -> str:
    """The type of what a JSON Schema allows; `key` is the dotted key of the setting."""
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    members = schema.get("anyOf") or schema.get("oneOf")
    match schema:
        case {"$ref": str(group)}:
            return f"{group.rpartition('/')[2]}Keywords"
        case _ if values:
            return f"Literal[{', '.join(json.dumps(value) for value in values)}]"
        case _ if members:
            return " | ".join(dict.fromkeys(python_type(member, key) for member in members))
        case {"type": "array", "items": items}:
            found = f"Sequence[{python_type(items, key)}]"
        case {"type": "object", "additionalProperties": items}:
            found = f"Mapping[str, {python_type(items, key)}]"
        case {"type": "string"} if key in SETTINGS and SETTINGS[key].kind in ("file", "model"):
            found = "InputImage" if key.rpartition(".")[2] in INPUTS else "AnyPath"
        case _:
            found = PLAIN[schema["type"]]
    return found


def keywords(
    name: str, bases: str, doc: str, fields: Fields, prefix: str = "", required: Iterable[str] = ()
) -> str:
    """The source of one TypedDict."""
    lines = [f"class {name}Keywords({bases or 'TypedDict'}, total=False):", f'    """{doc}"""\n']
    for field, schema in fields.items():
        kind = python_type(schema, prefix + field)
        lines.append(f"    {field}: {f'Required[{kind}]' if field in required else kind}")
    return "\n".join(lines)


def source() -> str:
    """The source of the module."""
    run, groups = SCHEMA["properties"], dict(SCHEMA["$defs"])
    grid = groups.pop("Grid")["properties"]
    del groups["ExecutorChoice"]
    parts = [HEAD]
    for name, group in sorted(
        groups.items(), key=lambda item: "$ref" in json.dumps(item[1])
    ):  # those in groups first
        owner = next((key for key, schema in run.items() if f"#/$defs/{name}" in json.dumps(schema)), "")
        doc = group["description"].partition("\n")[0]
        parts.append(keywords(name, "", doc, group["properties"], f"{owner}.", group.get("required", ())))
    task = {key: groups["Inpaint"]["properties"][key] for key in TASK_KEYS}
    image = {key: run[key] for key in ImageSettings.model_fields if not SETTINGS[key].in_grid}
    own = {key: run[key] for key in ImageSettings.model_fields if SETTINGS[key].in_grid and key != "prompt"}
    load = {key: run[key] for key in LoadSettings.model_fields}
    others = {*image, *own, *load, "prompt", "count", "compare", "executor"}  # the functions have their own
    rest = {key: schema for key, schema in run.items() if key not in others}
    compared = {key: schema for key, schema in grid.items() if key != "prompts"}
    parts += [
        keywords("Task", "", "An image or a mask makes the task img2img or inpaint.", task, "task."),
        keywords("Shared", "TaskKeywords", "Settings of an image that `compare` does not vary itself.", image),
        keywords("Load", "", "Settings of a load of the model.", load),
        keywords("Run", "", "Settings of a run.", rest),
        keywords("Warm", "SharedKeywords, RunKeywords", "Of `generate` with a loaded model.", own),
        keywords("Generate", "WarmKeywords, LoadKeywords", "Of `generate`.", {}),
        keywords("WarmBatch", "WarmKeywords", "Of `batch` and `replay` with a loaded model.",
                 {key: run[key] for key in ("prompt", "count")}),
        keywords("Batch", "WarmBatchKeywords, LoadKeywords", "Of `batch` and `replay`.", {}),
        keywords("WarmCompare", "SharedKeywords, RunKeywords", "Of `compare` with a loaded model.", compared,
                 "compare."),
        keywords("Compare", "WarmCompareKeywords, LoadKeywords", "Of `compare`.", {}),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def formatted() -> str:
    """The source as `ruff format` writes it."""
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(MODULE), "-"]
    return subprocess.run(ruff, input=source(), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    MODULE.write_text(formatted(), encoding="utf-8")
