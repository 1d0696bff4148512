"""The commands of `sdapp config`: show, set, unset, check, schema."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sdapp.commands.options import OUTPUT, Command, all_layers, switch, with_options
from sdapp.commands.terminal import Commands, print_note
from sdapp.config import SETTINGS, RunConfig, read_config_file, read_override, read_user_config, user_config
from sdapp.errors import ConfigError, SdappError, did_you_mean, gathered
from sdapp.models.locate import find_path, locate
from sdapp.models.vae import refuse_missing
from sdapp.outputs.files import overwrite
from sdapp.settings.layers import Layer, merge
from sdapp.settings.types import Setting
from sdapp.validation import validate

# YAML readers refuse these or take them for a line break.
UNPRINTABLE = re.compile(
    r"[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
DEFAULT = "default"  # where a setting comes from that nobody gave
AS_JSON = switch("--json", help="Print them as one JSON object.", panel=OUTPUT)
config_app = typer.Typer(cls=Commands, help="Show, check and describe configs.", no_args_is_help=True)


Changed = Annotated[bool, typer.Option("--changed", help="Leave out the defaults.", rich_help_panel=OUTPUT)]


@config_app.command("show", cls=Command)
@with_options("profile", "verbose", own={"json": AS_JSON})
def config_show(options: dict[str, Any], changed: Changed = False) -> None:
    """Print the settings that a run would have, and where each comes from.

    Example:

    sdapp config show --config sd15 --steps 30 --changed
    """
    merged = merge(all_layers(options))
    shown = settings_with_origins(validate(merged), merged)
    kept = {key: pair for key, pair in shown.items() if not (changed and pair[1] == DEFAULT)}
    if options["json"]:
        facts = {key: {"value": value, "from": origin} for key, (value, origin) in kept.items()}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for line in as_yaml(kept).splitlines():
            typer.echo(typer.style(line, dim=True) if line.endswith(f"# {DEFAULT}") else line)


@config_app.command("set", cls=Command)
def config_set(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Such as model or folders.loras.", show_default=False)
    ],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As with --set.", show_default=False)],
) -> None:
    """Set a default in your own config, which all commands read; print its path.

    sdapp config set model ~/models/juggernaut-xl.safetensors

    sdapp config set folders.loras ~/loras
    """
    kind, there = SETTINGS.get(key, Setting()).kind, Path(value).expanduser()
    if kind == "file" or (kind == "model" and there.exists()):
        value = str(there.absolute())  # or it would be relative to the folder of the config
    changed = merge([Layer(merge(read_user_config()).values), read_override(f"{key}={value}", "")])
    config = validate(changed)
    if kind == "model" and (model := config.model_dump().get(key)):
        refuse_missing(model, key)
    if key.startswith("folders.") and not there.is_dir():
        print_note(f"there is no folder {there} yet")
    _write_user_config(changed.values)


@config_app.command("unset", cls=Command)
def config_unset(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as steps.", show_default=False)],
) -> None:
    """Take a default out of your own config; print its path."""
    values = merge(read_user_config()).values
    *groups, last = key.split(".")
    inside = values
    for group in groups:
        inside = inside.get(group, {}) if isinstance(inside, dict) else {}
    if not isinstance(inside, dict) or last not in inside:
        raise ConfigError(f"{key}: it is not set in {user_config()}{did_you_mean(key, _keys_of(values))}")
    del inside[last]
    _write_user_config(values)


def _keys_of(values: Mapping[str, Any]) -> list[str]:
    """All keys and groups that are set, dotted."""
    found = list(values)
    for key, value in values.items():
        found += [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
    return found


def _write_user_config(values: Mapping[str, Any]) -> None:
    kept = {key: value for key, value in values.items() if value != {}}
    overwrite(user_config(), [yaml.safe_dump(kept, allow_unicode=True, sort_keys=False).encode()])
    typer.echo(user_config())


@config_app.command("check", cls=Command)
def config_check(
    files: Annotated[list[Path], typer.Argument(help="YAML configs.", show_default=False)],
) -> None:
    """Check configs; print every error with its place."""
    errors: list[SdappError] = []
    for file in files:
        try:
            config = validate(merge(read_config_file(file)))
            # Models of the Hub are not downloaded.
            if find_path(config.model) and (config.base is None or Path(config.base).exists()):
                base = None if config.base is None else locate(config.base)
                locate(config.model, config.revision, Path(config.vae) if config.vae else None, base)
            typer.echo(f"{file}: good")
        except SdappError as exc:
            errors.append(exc)
    if errors:
        raise gathered(errors)


@config_app.command("schema", cls=Command)
def config_schema() -> None:
    """Print the JSON Schema of a config."""
    typer.echo(json_schema(), nl=False)


def settings_with_origins(config: RunConfig, merged: Layer) -> dict[str, tuple[Any, str]]:
    """Return each setting by its dotted key: its value, and where it comes from."""
    shown = {}
    for key, value in config.model_dump(mode="json").items():
        group = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {}
        for dotted, item in (group or {key: value}).items():
            shown[dotted] = (item, _origin_text(dotted, merged))
    return shown


def as_yaml(shown: dict[str, tuple[Any, str]]) -> str:
    """Return settings as YAML, each line with where its value comes from."""
    lines, above = [], ""
    for dotted, (value, origin) in shown.items():
        group, _, name = dotted.rpartition(".")
        lines += [f"{group}:"] if group and group != above else []
        above = group
        line = f"{'  ' if group else ''}{name}: {_scalar(value)}"
        lines.append(f"{line:<44}  # {origin}")
    return "\n".join(lines)


def _scalar(value: object) -> str:
    """Return a value as plain text if every YAML reader reads it as this text, else as JSON."""
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w+./-]*", value) is not None
    if is_plain and value not in ("null", "true", "false"):
        return str(value)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _origin_text(dotted: str, merged: Layer) -> str:
    if dotted in merged.origins:
        return merged.origins[dotted]
    parent = dotted.rpartition(".")[0]
    # `scheduler: ddim` gives scheduler.name; a mapping gives only the keys inside it.
    return merged.origins[parent] if parent in merged.origins and dotted == "scheduler.name" else DEFAULT


def json_schema() -> str:
    """Return the JSON Schema of a config file, for editors and for `configs/sdapp.schema.json`."""
    schema = RunConfig.model_json_schema(mode="validation")
    schema["title"] = "sdapp config"
    schema["properties"] = {
        "extends": {
            "type": "string",
            "description": "Another config, relative to this one, or a preset; the settings here win.",
        }
    } | schema["properties"]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
