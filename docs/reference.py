"""Write the reference of the site from the commands and from the JSON Schema: docs/conf.py calls `write`."""

import json
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer

from sdapp.cli import EXIT_CODES, app
from sdapp.commands.config import json_schema


def write(folder: Path) -> None:
    """Write commands.md and settings.md."""
    folder.mkdir(exist_ok=True)
    (folder / "commands.md").write_text("\n".join(_commands()) + "\n", encoding="utf-8")
    (folder / "settings.md").write_text("\n".join(_settings()) + "\n", encoding="utf-8")


def _commands() -> Iterator[str]:
    yield f"# Commands\n\nWhat `--help` says. {EXIT_CODES}.\n"
    group = typer.main.get_command(app)
    for command in group.commands.values():
        below = getattr(command, "commands", None)
        for each in below.values() if below else (command,):
            name = f"{command.name} {each.name}" if below else each.name
            yield from _command(each, f"sdapp {name}")


def _command(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    about, _, example = cleandoc(command.help or "").partition("\n\nExample")
    yield f"## {name}\n\n{about}\n"
    yield f"```text\n{command.get_usage(context)}\n```\n"
    if example:
        yield "```sh\n" + "\n".join(re.findall(r"^sdapp .*", example, re.MULTILINE)) + "\n```\n"
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and not getattr(parameter, "hidden", False):
            is_argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
            panels.setdefault(panel, []).append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
    for panel, rows in panels.items():
        yield "\n".join([f"| {panel} | |", "|---|---|", *rows, ""])


def _settings() -> Iterator[str]:
    schema = json.loads(json_schema())
    yield "# Settings\n\nThe keys of a config, from the JSON Schema (`sdapp config schema`).\n"
    groups = {"": schema, **{name: schema["$defs"][name] for name in sorted(schema["$defs"])}}
    for name, group in groups.items():
        if "properties" not in group:
            continue
        yield f"## {name or 'A config'}\n\n{group.get('description', '') if name else ''}\n"
        yield "| key | value | default | |\n|---|---|---|---|"
        for key, setting in group["properties"].items():
            default = f"`{json.dumps(setting['default'])}`" if "default" in setting else ""
            about = setting.get("description", "")
            yield f"| `{key}` | {_cell(_kind(setting))} | {_cell(default)} | {_cell(about)} |"
        yield ""


def _kind(setting: dict[str, Any]) -> str:
    """What a value may be: `number, 0 to 100`, `one of a, b`, a link to a group."""
    if "$ref" in setting:
        name = setting["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in setting:
        return f"`{setting['const']}`"
    if "enum" in setting:
        return "one of " + ", ".join(f"`{value}`" for value in setting["enum"])
    for several in ("anyOf", "oneOf"):
        if several in setting:
            return " or ".join(dict.fromkeys(_kind(each) for each in setting[several]))
    if setting.get("type") == "array":
        return f"list of: {_kind(setting.get('items', {}))}"
    low, high = setting.get("minimum"), setting.get("maximum")
    bounds = f", {low} to {high}" if high is not None else f", {low} or more" if low is not None else ""
    return setting.get("type", "any value").replace("string", "text") + bounds


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;" if "`" not in text else "<")
