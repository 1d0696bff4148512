"""What is printed: paths and JSON lines on stdout, notes and errors on stderr."""

import codecs
import errno
import json
import os
import sys
from dataclasses import asdict
from typing import Any

import typer
from typer.core import TyperGroup

from sdapp.errors import DiskFullError, InterruptedRunError, SdappError
from sdapp.outputs.files import FULL
from sdapp.records import Result


class Commands(TyperGroup):
    """A group of commands; turns the errors of sdapp into `error:` lines and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SdappError as exc:
            word = "stopped" if isinstance(exc, InterruptedRunError) else "error"
            for line in str(exc).splitlines():
                say(f"{word}: {line}")
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
    say(f"note: {message}")


def say(text: str) -> None:
    """Print on stderr; where that fails, the text is lost and the command goes on."""
    try:
        typer.echo(text, err=True)
    except OSError:
        _discard(2)


def open_streams() -> None:
    """Let a process run with closed streams, and print what the encoding of stdout lacks.

    Letters that it lacks are printed as JSON escapes, so that JSON lines stay JSON.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; else the first file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    codecs.register_error("json", _escape)
    sys.stdout.reconfigure(errors="json")  # type: ignore[union-attr]


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def end_without_stdout(error: OSError) -> int:
    """Say that stdout can take no more, and return the exit code. Raises any other error again."""
    if error.filename is not None or error.errno not in (errno.EPIPE, *FULL):
        raise error
    _discard(1)
    if error.errno == errno.EPIPE:
        say("stopped: nothing reads the output of this command any more; finished images are kept")
        return 128 + 13  # of SIGPIPE, as other programs
    say(f"error: cannot write to standard output: {error.strerror}; finished images are safe")
    return DiskFullError.exit_code


def _discard(number: int) -> None:
    """Let what is still written to a broken stream go nowhere, so that the process can end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
