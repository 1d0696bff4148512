"""What is printed: paths and JSON lines on stdout, notes and errors on stderr."""

import json
from dataclasses import asdict
from typing import Any

import typer
from typer.core import TyperGroup

from sdapp.errors import InterruptedRunError, SdappError
from sdapp.records import Result


class Commands(TyperGroup):
    """A group of commands; turns the errors of sdapp into `error:` lines and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SdappError as exc:
            word = "stopped" if isinstance(exc, InterruptedRunError) else "error"
            for line in str(exc).splitlines():
                typer.echo(f"{word}: {line}", err=True)
            raise typer.Exit(exc.exit_code) from exc


def print_result(result: Result, as_json: bool) -> None:
    """Print the path of an image or, with `as_json`, its job and record as one line."""
    if as_json:
        facts: dict[str, object] = {
            "path": result.path and str(result.path),
            "seed": result.job.seed,
            "error": result.error,
            "job": result.job.to_data(),
            "record": result.record and asdict(result.record),
        }
        typer.echo(json.dumps(facts, ensure_ascii=False))
    elif result.path:
        typer.echo(result.path)


def print_note(message: str) -> None:
    """Print a note on stderr."""
    typer.echo(f"note: {message}", err=True)


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
