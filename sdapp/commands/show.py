"""The command `sdapp show`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.config import RunConfig
from sdapp.metadata.record import read_image

ALWAYS = ("scheduler", "steps", "guidance_scale", "seed", "width", "height")
APART = ("prompt", "negative_prompt", "model", "revision", "inputs")


def show(
    image: Annotated[Path, typer.Argument(help="An image painted by sdapp.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="Everything: the job, and what happened.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Print the settings inside an image."""
    import yaml

    content = read_image(image)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        shown = content if full else _in_short(content["job"], content.get("record"))
        typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000).rstrip())


def _in_short(job: dict[str, Any], record: Any) -> dict[str, str]:
    """Prompts, settings (of most only those that are not the defaults), model and versions, a line each."""
    usual = RunConfig().model_dump(mode="json")
    settings = [
        f"{key} {_unquoted(value)}"
        for key, value in job.items()
        if key in ALWAYS or (key not in APART and value != usual.get(key))
    ]
    summary = {key: job.get(key) for key in ("prompt", "negative_prompt")}
    summary |= {"settings": ", ".join(settings), "model": job.get("model"), "revision": job.get("revision")}
    summary["versions"] = _unquoted(record.get("versions", "")) if isinstance(record, dict) else ""
    return {key: value for key, value in summary.items() if value}


def _unquoted(value: Any) -> str:
    """A value as text without quotes; of a scheduler without options only its name."""
    if isinstance(value, dict) and value.get("options") == {}:
        value = value.get("name")
    return json.dumps(value, ensure_ascii=False).replace('"', "").strip("{}")
