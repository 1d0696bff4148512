"""The commands of `sdapp config`: show, check, schema."""

from pathlib import Path
from typing import Annotated

import typer

from sdapp.commands.config_text import json_schema, show_settings
from sdapp.commands.options import ConfigFiles, Overrides, file_layers
from sdapp.commands.terminal import Commands, print_note
from sdapp.config import validate
from sdapp.errors import SdappError, gathered
from sdapp.settings.files import parse_override, read_config_file
from sdapp.settings.layers import combine, merge

config_app = typer.Typer(cls=Commands, help="Show, check and describe configs.", no_args_is_help=True)


@config_app.command("show")
def config_show(config: ConfigFiles = None, overrides: Overrides = None) -> None:
    """Print the settings that a run would have, and where each comes from."""
    merged = merge([*file_layers(config), combine([parse_override(text) for text in overrides or []])])
    for note in merged.notes:
        print_note(note)
    typer.echo(show_settings(validate(merged), merged))


@config_app.command("check")
def config_check(
    files: Annotated[list[Path], typer.Argument(help="YAML configs.", show_default=False)],
) -> None:
    """Check configs; print every error with its place."""
    errors: list[SdappError] = []
    for file in files:
        try:
            validate(merge(read_config_file(file)))
            typer.echo(f"{file}: good")
        except SdappError as exc:
            errors.append(exc)
    if errors:
        raise gathered(errors)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of a config."""
    typer.echo(json_schema(), nl=False)
