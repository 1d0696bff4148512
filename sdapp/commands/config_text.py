"""A config as text: its settings with where they come from, and the JSON Schema of them all."""

import json
import re

from sdapp.config import RunConfig
from sdapp.settings.layers import Layer

# What YAML readers refuse or take for a line break.
UNPRINTABLE = re.compile(
    r"[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def show_settings(config: RunConfig, merged: Layer) -> str:
    """The resolved settings as YAML, each line with where its value came from."""
    lines = []
    for key, value in config.model_dump(mode="json").items():
        grouped = isinstance(value, dict) and value
        lines += [f"{key}:"] if grouped else []
        for name, item in value.items() if grouped else [(key, value)]:
            line = f"{'  ' if grouped else ''}{name}: {_scalar(item)}"
            lines.append(f"{line:<44}  # {_origin_text(f'{key}.{name}' if grouped else key, merged)}")
    return "\n".join(lines)


def _scalar(value: object) -> str:
    """Plain where no reader could take it for anything but this text, else JSON, which is YAML too."""
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w+./-]*", value) is not None
    if is_plain and value not in ("null", "true", "false"):
        return str(value)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _origin_text(dotted: str, merged: Layer) -> str:
    if dotted in merged.origins:
        return merged.origins[dotted]
    parent = dotted.rpartition(".")[0]
    # `scheduler: ddim` says scheduler.name; a mapping says only the keys that stand in it.
    return merged.origins[parent] if parent in merged.origins and dotted == "scheduler.name" else "default"


def json_schema() -> str:
    """The JSON Schema of a config file, for editors and for `configs/sdapp.schema.json`."""
    schema = RunConfig.model_json_schema(mode="validation")
    schema["title"] = "sdapp config"
    schema["properties"] = {
        "extends": {
            "type": "string",
            "description": "Another config, relative to this one, that this one is laid over.",
        }
    } | schema["properties"]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
