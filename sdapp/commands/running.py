"""What every command that paints has in common: the model, the progress bar, signals, estimates."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from sdapp.batches.executors import LocalExecutor, load_painter
from sdapp.commands.estimates import History
from sdapp.commands.terminal import print_note, say
from sdapp.errors import InterruptedRunError
from sdapp.jobs import LoadKey, Work
from sdapp.models.locate import Model
from sdapp.notes import Notes
from sdapp.records import Result

if TYPE_CHECKING:
    from rich.progress import Progress

    from sdapp.pipelines import Painter

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Session:
    """A `with` around the painting of a command. `executor` and `on_step` are for the functions that paint.

    It shows a bar on stderr if that is a terminal, and keeps the timings of `history` at the end. The first
    SIGINT or SIGTERM ends the run at the next step, with InterruptedRunError and the text of `stopped`; a
    second one, or one while the model is loaded, ends it at once.
    """

    def __init__(
        self, verbose: bool, stopped: Callable[[], str] = lambda: "finished images are kept"
    ) -> None:
        self.images = 0  # how many there are to paint, for the bar
        self.executor = LocalExecutor(loader=self._load)
        self.notes = Notes(print_note)
        self._history: History | None = None
        self._verbose, self._stopped = verbose, stopped
        self._caught, self._begun = 0, False
        self._before: dict[int, Any] = {}
        self._bar: Progress = _new_bar()

    def begin(self, models: dict[LoadKey, Model], images: int, history: History | None = None) -> Self:
        """Say what will be painted, before the `with`."""
        self.images, self._history = images, history
        self.executor = LocalExecutor(models, self._load)
        self._bar.add_task(f"loading {next(iter(models.values())).name}", total=None, steps="")
        return self

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        with suppress(OSError):  # the terminal is gone
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        with suppress(OSError):
            self._bar.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._history:
            self._history.save()
        if raised[0] is None:
            self._check()

    def on_step(self, first: int, together: int, step: int, of: int) -> None:
        """Move the bar. Raises InterruptedRunError after a signal."""
        self._check()
        which = f"image {first + 1}" if together == 1 else f"images {first + 1} to {first + together}"
        self._bar.update(
            self._bar.task_ids[0],
            total=self.images,
            completed=first + together * step / of,
            description=f"{which} of {self.images}",
            steps=f"step {step}/{of}",
        )

    def tell_result(self, result: Result) -> None:
        """Print the notes of a result and remember its time. Call it before its path is printed."""
        self.notes.tell(result.record.notes if result.record else ())
        if self._history:
            self._history.add(result)

    def wait(self, who: str) -> None:
        """Tell who is painting the images that are missing, and wait.

        Raises InterruptedRunError after a signal.
        """
        self._check()
        self.notes.tell([who])
        time.sleep(0.5)

    def _check(self) -> None:
        self._begun = True
        if self._caught:
            raise InterruptedRunError(self._stopped(), self._caught)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        again, self._caught = bool(self._caught), self._caught or number
        if self._begun and not again:
            return
        if not self._begun:
            say(f"stopped: {self._stopped()}")
        with suppress(OSError):
            sys.stdout.flush()
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # the bar has hidden the cursor
        os._exit(128 + number)

    def _load(self, work: Work, model: Model) -> "Painter":
        """Load a model in a process of our own: hide upstream's messages, and tune garbage collection."""
        # Read when transformers is imported.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if self._verbose else "error")
        if not self._verbose:
            warnings.simplefilter("ignore")  # upstream's
        painter = load_painter(work, model, self._set_up)
        from sdapp.diffusion.devices import lacks_bfloat16

        if painter.device.type == "cpu" and work.load.dtype == "bfloat16" and lacks_bfloat16():
            print_note("this CPU has no bfloat16 instructions: --dtype float32 is many times as fast")
        self._check()
        return painter

    def _set_up(self) -> None:
        from sdapp.diffusion.loading import quiet

        quiet(self._verbose)


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeRemainingColumn(),
    )
    is_shown, redirect = console.is_terminal, sys.stdout.isatty()
    return Progress(*columns, console=console, transient=True, disable=not is_shown, redirect_stdout=redirect)
