"""The command `sdapp show`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.commands.models import facts_in_short, facts_json
from sdapp.commands.terminal import print_line, print_note
from sdapp.config import folders_of, read_user_config
from sdapp.errors import InputError, MissingInputError, SdappError, gathered
from sdapp.images import decode_file
from sdapp.metadata.read import read_settings
from sdapp.metadata.record import read_image, record_text, settings_in_words
from sdapp.models.catalog import Found, describe
from sdapp.models.checksums import sha256_of
from sdapp.models.files import PICKLED


def show(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Images of sdapp or others, or models.", show_default=False),
    ],
    full: Annotated[bool, typer.Option("--full", help="Everything: the job, and what happened.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, one JSON object a line.")] = False,
) -> None:
    """Print the settings inside images, also of other programs, or what a model, LoRA or VAE file is."""
    import yaml

    errors: list[SdappError] = []
    for image in images:
        is_file = image.suffix.lower() in (".safetensors", *PICKLED)
        if is_file or (image / "model_index.json").is_file():
            found = _describe_model(image)
            print_line(
                facts_json(found)
                if as_json
                else yaml.safe_dump(facts_in_short(found), sort_keys=False, width=1000).rstrip()
            )
            continue
        try:
            content = _content_of(image)
        except SdappError as exc:
            errors.append(exc)
            continue
        if as_json:
            print_line(json.dumps({"path": str(image)} | content, ensure_ascii=False))
            continue
        shown = content if full else _in_short(content["job"], content.get("record"))
        if len(images) > 1:
            shown = {str(image): shown}
        print_line(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000).rstrip())
    if errors:
        raise gathered(errors)


def _describe_model(path: Path) -> Found:
    """What a model is, with the SHA-256 of a file."""
    if path.is_file():
        sha256_of(path)
    elif not path.is_dir():
        raise MissingInputError(f"FILE: there is no file {path}")
    return describe(path)


def _content_of(image: Path) -> dict[str, Any]:
    """The job and the record inside an image, or the settings of another program; tells their notes."""
    if image.is_dir():
        raise InputError(f"FILE: {image} is a folder; name its images, or see them all: sdapp report {image}")
    if record_text(decode_file(str(image))) is not None:
        return read_image(image)
    found = read_settings(image, folders_of(read_user_config()))
    for note in found.notes:
        print_note(note)
    return {"job": found.values | ({"model": found.named_model} if found.named_model else {})}


def _in_short(job: dict[str, Any], record: Any) -> dict[str, str]:
    """Prompts, settings (of most only those that are not the defaults), model and versions, a line each."""
    settings = settings_in_words(job)
    summary = {key: job.get(key) for key in ("prompt", "negative_prompt")}
    summary["settings"] = ", ".join(f"{key} {text}" for key, text in settings.items())
    summary |= {"model": job.get("model"), "revision": job.get("revision")}
    versions = record.get("versions") if isinstance(record, dict) else None
    summary["versions"] = ", ".join(f"{name} {text}" for name, text in versions.items()) if versions else ""
    return {key: value for key, value in summary.items() if value}
