"""The commands `sdapp models` and `sdapp pull`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from sdapp.commands.terminal import print_line, print_note
from sdapp.config import read_user_config
from sdapp.errors import ConfigError
from sdapp.models import hub
from sdapp.models.catalog import Found, list_models
from sdapp.models.files import NOT_READ
from sdapp.models.locate import pull_model
from sdapp.settings.layers import merge
from sdapp.validation import validate


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all facts.")] = False,
) -> None:
    """List the models on this machine: in the Hub's cache and in your folder of models.

    What sdapp cannot paint with is listed at the end, with what it is. `sdapp show FILE` says more of one.
    """
    folder = validate(merge(read_user_config())).folders.models
    found = list(list_models(folder))
    if as_json:
        for each in found:
            print_line(facts_json(each))
        return
    usable = [each for each in found if each.problem is None]
    others = [each for each in found if each.problem is not None]
    rows = [("MODEL", "FAMILY", "PIXELS", "PREDICTS", "SIZE", "REVISION OR HASH"), *map(_row, usable)]
    rows += [(each.name, f"no: {each.what}", "", "", _in_gb(each), _version(each)) for each in others]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print_line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if any(each.problem == NOT_READ for each in others):
        print_note(NOT_READ)
    if folder is None:
        print_note(
            "your own files are not listed: say where they are: sdapp config set folders.models FOLDER"
        )


def pull(
    model: Annotated[
        str, typer.Argument(metavar="ID[@REVISION]", help="A model of the Hub.", show_default=False)
    ],
) -> None:
    """Download a model of the Hub, or what of it is missing, and check every file's SHA-256.

    Prints the folder. Files that are damaged are downloaded again.

    Example:

    sdapp pull stabilityai/stable-diffusion-xl-base-1.0
    """
    name, _, revision = model.partition("@")
    if not hub.is_hub_id(name):
        raise ConfigError(f"ID: {model!r} is no id of the Hub, such as org/name or org/name@v1")
    print_line(pull_model(name, revision or None))


def facts_json(found: Found) -> str:
    """All facts as a line of JSON."""
    return json.dumps(asdict(found) | {"path": str(found.path)}, ensure_ascii=False)


def facts_in_short(found: Found) -> dict[str, object]:
    """The facts that are known, for reading."""
    facts = asdict(found) | {"path": str(found.path), "size": _in_gb(found)}
    facts["zero_snr"] = "yes" if found.zero_snr else None
    facts["model_hash"] = found.sha256[:10] if found.sha256 else None
    del facts["name"]
    return {key: value for key, value in facts.items() if value is not None}


def _row(found: Found) -> tuple[str, ...]:
    family = found.what + (", inpainting" if (found.channels or 4) > 4 else "")
    prediction = {"v_prediction": "v", "epsilon": "noise"}.get(found.prediction or "", found.prediction or "")
    predicts = f"{prediction}, zero SNR" if found.zero_snr else prediction
    return found.name, family, str(found.side), predicts, _in_gb(found), _version(found)


def _version(found: Found) -> str:
    return (found.revision or found.sha256 or "")[:10]


def _in_gb(found: Found) -> str:
    return f"{found.size / 1e9:.1f} GB" if found.size >= 1e9 else f"{found.size / 1e6:.0f} MB"
