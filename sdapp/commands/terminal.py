"""What is said: paths and JSON lines on stdout, notes and the progress bar on stderr, schedulers in words."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from typer.core import TyperGroup

from sdapp import schedulers
from sdapp.errors import InterruptedRunError, SdappError
from sdapp.outputs.files import Result
from sdapp.scheduler_table import TABLE


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


def announce(result: Result, as_json: bool) -> None:
    """Print the path of a finished picture, or its JSON line, and what the user should know about it."""
    for note in result.record.notes if result.record else ():
        tell(note)
    if as_json:
        facts: dict[str, object] = {"path": result.path and str(result.path), "seed": result.job.seed, "error": result.error}
        facts |= {"job": result.job.model_dump(mode="json"), "record": result.record and asdict(result.record)}
        typer.echo(json.dumps(facts, ensure_ascii=False))
    elif result.path:
        typer.echo(result.path)


def tell(message: str) -> None:
    """A note on stderr."""
    typer.echo(f"note: {message}", err=True)


@contextmanager
def interruptible(told: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Let the first SIGINT or SIGTERM end the run at the next step, with what `told` says; a second one at once.

    Yields the function to call at each step, which raises InterruptedRunError. Until its first call, while a model is loaded,
    nothing is under way: then the first signal ends the run at once.
    """
    caught: list[int] = []
    under_way = False

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        if not under_way:
            typer.echo(f"stopped: {told()}", err=True)
        if len(caught) > 1 or not under_way:
            sys.stdout.flush()
            os._exit(128 + number)

    def check() -> None:
        nonlocal under_way
        under_way = True
        if caught:
            raise InterruptedRunError(told(), caught[0])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(pictures: int, model: str) -> Iterator[Callable[[int, int, int, int], None]]:
    """A bar of steps, pictures and time left on stderr, if that is a terminal; yields the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[steps]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=sys.stdout.isatty()) as bar:  # fmt: skip
        task = bar.add_task(f"loading {model}", total=None, steps="")

        def on_step(first: int, together: int, step: int, of: int) -> None:
            which = f"picture {first + 1}" if together == 1 else f"pictures {first + 1} to {first + together}"
            bar.update(
                task,
                total=pictures,
                completed=first + together * step / of,
                description=f"{which} of {pictures}",
                steps=f"step {step}/{of}",
            )

        yield on_step


def scheduler_table() -> str:
    """What is known of every scheduler, as lines of text."""
    lines = [f"{'name':<18}{'order':>5}{'calls':>7}  {'noise':<15}{'needs':<10}class; sigmas; also known as"]
    for row in TABLE:
        noise = "stochastic" if row.stochastic else "deterministic"
        more = "; ".join(filter(None, (row.class_name, "/".join(row.sigmas), ", ".join(row.aliases))))
        calls = schedulers.resolve(row.name).unet_calls(20)
        lines.append(f"{row.name:<18}{row.order:>5}{calls:>7}  {noise:<15}{row.needs or '':<10}{more}")
    return "\n".join(
        [*lines, "", "calls: UNet calls for 20 steps. Add -karras, -exponential, -beta or -lu for sigmas that it has."]
    )


def explain_scheduler(name: str) -> str:
    """How a name is resolved, and every option that the scheduler will be built with."""
    resolved = schedulers.resolve(name)
    row = resolved.scheduler
    noise = "stochastic" if row.stochastic else "deterministic"
    calls = f"{resolved.unet_calls(20)} UNet calls for 20 steps"
    lines = [f"{name} is {resolved.name}: {row.class_name}, order {row.order}, {noise}, {calls}"]
    for option, default in schedulers.constructor_options(row.class_name).items():
        if option in schedulers.MODEL_KEYS:
            said = "from the model"
        elif repr(resolved.options.get(option, default)) in (default, repr(default)):
            said = default
        else:
            said = f"{resolved.options[option]!r}, where the class has {default}"
        lines.append(f"  {option}: {said}")
    needs = f"Needs {row.needs}: pip install {row.needs}" if row.needs else ""
    return "\n".join([*lines, *filter(None, (row.note, needs, *resolved.told))])
