"""What every command that paints does: say what should be known, load the model, paint, save, print."""

import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from sdapp.batches.run import Batch, Survey
from sdapp.commands.estimates import History
from sdapp.commands.terminal import print_note
from sdapp.config import RunConfig
from sdapp.diffusion.startup import importing
from sdapp.errors import InterruptedRunError
from sdapp.jobs import Job, LoadKey
from sdapp.models.locate import Model
from sdapp.profiling import timed
from sdapp.records import Result

if TYPE_CHECKING:
    from sdapp.pipelines import Painter
    from sdapp.records import OnStep

KEPT_MESSAGE = "finished images are kept"


@dataclass(frozen=True)
class Load:
    """What one load of a model paints."""

    model: Model
    config: RunConfig
    jobs: Sequence[Job]


def paint_loads(
    loads: Sequence[Load], verbose: bool, keep_going: bool = False, told: str = KEPT_MESSAGE
) -> Generator[Result, None, None]:
    """Paint the jobs of one load after the other, with a bar; the indices of the results count through them all.

    A signal ends it at the next step with InterruptedRunError. Close it when done, which takes the bar away.
    """
    painted = 0
    with (
        interruptible(lambda: told) as check,
        progress(sum(len(load.jobs) for load in loads), loads[0].model.name) as on_step,
    ):

        def step(first: int, *rest: int) -> None:
            check()
            on_step(painted + first, *rest)

        for load in loads:
            if painted:
                gc.collect()  # or two models are held at a time
            for result in _paint_load(load, verbose, step, check, keep_going):
                yield replace(result, index=painted + result.index)
            painted += len(load.jobs)


def _paint_load(
    load: Load, verbose: bool, step: "OnStep", check: Callable[[], None], keep_going: bool
) -> Iterator[Result]:
    painter = load_painter(load.model, load.config, verbose, sum(job.unet_calls for job in load.jobs))
    check()
    yield from painter.paint(load.jobs, load.config.batch_size, step, keep_going)


def paint_batch(
    batch: Batch,
    model: Model,
    verbose: bool,
    found: Survey,
    prepare: Callable[["Painter"], None] | None = None,
) -> Generator[Result, None, None]:
    """Paint what is left of a batch, with a bar, and remember how long it took; a signal ends it between two steps.

    `prepare` sees the painter before the first image.
    """
    before, waited, history = len(batch.past.done), "", History(batch.config.device)

    def over() -> int:
        """Painted here, and by other runs since this one began."""
        return max(batch.painted, len(batch.past.done) - before)

    def told() -> str:
        return f"{over()} done, {found.left - over()} left; run the same command again to go on"

    with interruptible(told) as check, progress(found.left, model.name) as on_step:
        painter = load_painter(model, batch.config, verbose, found.unet_calls)
        check()

        def step(_first: int, together: int, number: int, of: int) -> None:
            check()
            on_step(over(), together, number, of)

        def wait(who: str) -> None:
            nonlocal waited
            check()
            if who != waited:
                print_note(who)
            waited = who
            time.sleep(0.5)

        try:
            if prepare:
                prepare(painter)
            for result in batch.paint(painter, step, wait):
                history.add(result)
                yield result
        finally:
            history.save()


def load_painter(model: Model, config: RunConfig, verbose: bool, unet_calls: int = 0) -> "Painter":
    """Load the weights; torch and diffusers are imported here and not before."""
    os.environ.setdefault(
        "TRANSFORMERS_VERBOSITY", "info" if verbose else "error"
    )  # read while it is imported
    if not verbose:
        warnings.simplefilter("ignore")  # upstream's own
    with timed("import"), importing(model, ours=True):
        from sdapp.diffusion.loading import quiet
        from sdapp.pipelines import load

    quiet(verbose)
    with timed("load"):
        painter = load(LoadKey.of(config, model), model, unet_calls=unet_calls, batch_size=config.batch_size)
    from sdapp.diffusion.devices import lacks_bfloat16

    if painter.device.type == "cpu" and config.dtype == "bfloat16" and lacks_bfloat16():
        print_note("this CPU has no bfloat16 of its own: --dtype float32 is many times as fast")
    return painter


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
def progress(images: int, model: str) -> Iterator[Callable[[int, int, int, int], None]]:
    """A bar of steps, images and time left on stderr, if that is a terminal; yields the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=sys.stdout.isatty()) as bar:  # fmt: skip
        task = bar.add_task(f"loading {model}", total=None, steps="")

        def on_step(first: int, together: int, step: int, of: int) -> None:
            which = f"image {first + 1}" if together == 1 else f"images {first + 1} to {first + together}"
            bar.update(
                task,
                total=images,
                completed=first + together * step / of,
                description=f"{which} of {images}",
                steps=f"step {step}/{of}",
            )

        yield on_step
