"""What is printed: paths and JSON lines on stdout; notes, errors and the progress bar on stderr."""

import codecs
import errno
import json
import os
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from sdapp.errors import ConfigError, DiskFullError, InterruptedRunError, SdappError, did_you_mean
from sdapp.outputs.files import FULL
from sdapp.records import Result

if TYPE_CHECKING:
    from rich.progress import Progress

MARGIN = 4  # columns that the bar leaves free, so that the ^C of a terminal does not begin a line


OTHER_COMMANDS = {  # names that other programs have → what sdapp has instead
    "txt2img": "generate", "paint": "generate", "hires": "upscale", "xyz": "grid", "info": "show",
    "download": "pull", "list": "models",
}  # fmt: skip


class Commands(TyperGroup):
    """A group of commands; turns the errors of sdapp into `error:` lines and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `sdapp help generate` for `sdapp generate --help`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; say what to write for the name of one of another program, or for a prompt."""
        name = args[0]
        if name in self.commands or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        way = f"; to paint it: sdapp generate {shlex.quote(name)}" if " " in name else ""
        way = way or did_you_mean(name, self.commands, f"; {ctx.command_path} --help lists them")
        if (other := OTHER_COMMANDS.get(name)) in self.commands:
            way = f"; use sdapp {other}"
        raise ConfigError(f"{name}: no such command{way}")

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_parameters(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:  # while nothing is painted
            say_at_once("stopped: finished images are kept")
            raise typer.Exit(130) from exc
        except SdappError as exc:
            word = "stopped" if isinstance(exc, InterruptedRunError) else "error"
            for line in str(exc).splitlines():
                say(f"{word}: {line}")
            raise typer.Exit(exc.exit_code) from exc


def plain_parameters(parameters: list[Any]) -> list[Any]:
    """Let --help show no type of Python, such as `<bool>`, behind a flag or an argument."""
    panel = next((one.rich_help_panel for one in reversed(parameters) if one.rich_help_panel), None)
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda **_: None
        elif parameter.is_flag:
            parameter.metavar = ""
        if parameter.name == "help":
            parameter.rich_help_panel = panel
    return parameters


class Bar:
    """The progress bar below all lines, if stderr is a terminal. The process has one, `bar`."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def show(self, text: str, done: float = 0, total: float | None = None, steps: str = "") -> None:
        """Show the bar, or change what it shows."""
        if self._progress is None and sys.stderr.isatty():
            self._progress = _new_progress()
        if self._progress:
            [task] = self._progress.task_ids
            self._progress.update(
                task, description=text, completed=done, total=total, steps=steps, visible=True
            )
            with suppress(OSError):  # the terminal is gone
                self._progress.start()

    def hide(self) -> None:
        """Remove the bar from the terminal until it is shown again. Its line and the cursor are free."""
        if self._progress:
            with suppress(OSError):
                self._progress.stop()

    def blank(self) -> None:
        """Let the bar be drawn as nothing; from a signal handler, where it may be half drawn."""
        if self._progress:
            self._progress.update(self._progress.task_ids[0], visible=False)


bar = Bar()


def _new_progress() -> "Progress | None":
    """A bar of rich with one task; None on a terminal that cannot move its cursor."""
    from rich.console import Console, RenderableType
    from rich.constrain import Constrain
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_interactive:
        return None

    class Narrow(Progress):
        def get_renderable(self) -> RenderableType:
            return Constrain(super().get_renderable(), console.width - MARGIN)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeRemainingColumn(compact=True),
    )
    progress = Narrow(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
    progress.add_task("", steps="")
    return progress


def print_line(text: object) -> None:
    """Print a line on stdout, above the bar."""
    bar.hide()
    typer.echo(text)


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
        print_line(json.dumps(facts, ensure_ascii=False))
    elif result.path:
        print_line(result.path)


def print_note(message: str) -> None:
    """Print a note on stderr."""
    say(f"note: {message}")


def say(text: str) -> None:
    """Print on stderr, above the bar; where that fails, the text is lost and the command goes on."""
    bar.hide()
    try:
        typer.echo(text, err=True)
    except OSError:
        _discard(2)


def say_at_once(text: str) -> None:
    """Print a line on stderr from a signal handler, in place of the bar and of the ^C of a terminal."""
    erase_line()
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def erase_line() -> None:
    """Remove the bar and the ^C of a terminal, from a signal handler."""
    with suppress(OSError):
        if sys.stderr.isatty():
            bar.blank()
            time.sleep(0.02)  # a terminal shows ^C after the signal, and drops what is written until then
            os.write(2, b"\r\x1b[2K\x1b[?25h")  # remove the line, show the cursor


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
