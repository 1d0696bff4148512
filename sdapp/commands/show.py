"""The command `sdapp show`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sdapp.metadata.record import read_image


def show(
    image: Annotated[Path, typer.Argument(help="An image painted by sdapp.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of YAML.")] = False,
) -> None:
    """Print the job and the record inside an image."""
    import yaml

    content = read_image(image)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())
