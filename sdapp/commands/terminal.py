"""What is said: paths and JSON lines on stdout, notes and the progress bar on stderr, schedulers in words."""

import json
from dataclasses import asdict
from typing import Any

import typer
from typer.core import TyperGroup

from sdapp.errors import InterruptedRunError, SdappError
from sdapp.records import Result


class Commands(TyperGroup):
    """Turns our errors into `error:` lines and an exit code, in this one place."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SdappError as exc:
            word = "stopped" if isinstance(exc, InterruptedRunError) else "error"
            for line in str(exc).splitlines():
                typer.echo(f"{word}: {line}", err=True)
            raise typer.Exit(exc.exit_code) from exc


def print_result(result: Result, as_json: bool) -> None:
    """Print the path of a finished image, or its JSON line, and what the user should know about it."""
    for note in result.record.notes if result.record else ():
        print_note(note)
    if as_json:
        facts: dict[str, object] = {
            "path": result.path and str(result.path),
            "seed": result.job.seed,
            "error": result.error,
        }
        facts |= {
            "job": result.job.to_data(),
            "record": result.record and asdict(result.record),
        }
        typer.echo(json.dumps(facts, ensure_ascii=False))
    elif result.path:
        typer.echo(result.path)


def print_note(message: str) -> None:
    """A note on stderr."""
    typer.echo(f"note: {message}", err=True)
