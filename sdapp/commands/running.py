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

from sdapp.batches.cluster import RayExecutor
from sdapp.batches.executors import Executor, LocalExecutor, load_painter
from sdapp.commands.estimates import History
from sdapp.commands.terminal import bar, erase_line, print_note, say_at_once
from sdapp.errors import InterruptedRunError
from sdapp.jobs import LoadKey, Work
from sdapp.models.model import Model
from sdapp.notes import Notes
from sdapp.records import Result
from sdapp.settings.hardware import ExecutorChoice

if TYPE_CHECKING:
    from sdapp.pipelines import Painter

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CONTINUE = "; run the same command again to continue"  # where finished images are not painted again


class Session:
    """A `with` around the painting of a command. `executor` and `on_step` are for the functions that paint.

    It shows a bar on stderr if that is a terminal, and keeps the timings of `history` at the end. The first
    SIGINT or SIGTERM ends the run at the next step, with InterruptedRunError; a second one, or one while the
    model is loaded, ends it at once. Both say how many images are done, and what `hint` says.
    """

    def __init__(self, verbose: bool, hint: str = "", is_shell: bool = False) -> None:
        """In a shell, a signal never ends the process: a second one raises KeyboardInterrupt."""
        self.images = 0  # how many there are to paint
        self.executor: Executor = LocalExecutor(loader=self._load)
        self.notes = Notes(print_note)
        self._history: History | None = None
        self._verbose, self._hint = verbose, hint
        self._caught, self._begun, self._told = 0, False, 0
        self._done: Callable[[], int] = lambda: self._told
        self._is_resting, self._is_shell = False, is_shell
        self._before: dict[int, Any] = {}

    def begin(
        self,
        models: dict[LoadKey, Model],
        images: int,
        history: History | None = None,
        done: Callable[[], int] | None = None,
        where: ExecutorChoice | None = None,
    ) -> Self:
        """Say what will be painted and where, before the `with`. `done` counts also what other runs paint."""
        is_here = where is None or where.kind == "local"
        self.images, self._history, self._told = images, history if is_here else None, 0
        self._done = done or (lambda: self._told)
        if where and not is_here and not isinstance(self.executor, RayExecutor):
            self.executor = RayExecutor(where, next(iter(models)).device, look=self._look)
            dashboard = f"; dashboard: http://{self.executor.dashboard}" if self.executor.dashboard else ""
            print_note(f"painting on a Ray cluster{dashboard}")
        elif isinstance(self.executor, LocalExecutor):
            self.executor.know(models)
        return self

    def __enter__(self) -> Self:
        self._caught, self._begun = 0, False
        self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        bar.hide()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._history:
            self._history.save()
        if self._caught and kind in (None, InterruptedRunError):
            raise InterruptedRunError(self._stopped(), self._caught)

    def on_step(self, first: int, together: int, step: int, of: int) -> None:
        """Move the bar. Raises InterruptedRunError after a signal."""
        self._check()
        which = f"image {first + 1}" if together == 1 else f"images {first + 1}-{first + together}"
        done = first + together * step / of
        bar.show(f"{which} of {self.images}", done, self.images, f"step {step}/{of}")

    def _look(self, cluster: RayExecutor) -> None:
        """Show what the workers of a cluster do. Raises InterruptedRunError after a signal."""
        self._check()
        done = self._done()
        bar.show(f"{done} of {self.images} images", done, self.images, cluster.in_words())

    def tell_result(self, result: Result) -> None:
        """Print the notes of a result and remember its time. Call it before its path is printed."""
        self._told += 1
        self.notes.tell(result.record.notes if result.record else ())
        if self._history:
            self._history.add(result)

    def wait(self, who: str) -> None:
        """Tell who is painting the images that are missing, and wait.

        Raises InterruptedRunError after a signal.
        """
        self._check()
        self.notes.wait(who)

    def rest(self, seconds: float = 0.1) -> None:
        """Wait for more to paint. Raises InterruptedRunError after a signal, at once."""
        self._check()
        bar.hide()
        self._is_resting = True
        try:
            time.sleep(seconds)
        finally:
            self._is_resting = False

    def _stopped(self) -> str:
        return f"{self._done()} done, {self.images - self._done()} left{self._hint}"

    def _check(self) -> None:
        self._begun = True
        if self._caught:
            raise InterruptedRunError(self._stopped(), self._caught)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        is_first, self._caught = not self._caught, self._caught or number
        if self._is_resting:
            erase_line()
            raise InterruptedRunError(self._stopped(), number)
        if self._begun and is_first:
            say_at_once("note: stopping after this step; press Ctrl-C again to stop now")
            return
        if self._is_shell:
            if self._begun:
                raise KeyboardInterrupt
            say_at_once("note: stopping when the model is loaded")
            return
        say_at_once(f"stopped: {self._stopped()}")
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(128 + number)

    def _load(self, work: Work, model: Model) -> "Painter":
        """Load a model in a process of our own: hide upstream's messages, and tune garbage collection."""
        # Read when transformers is imported.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if self._verbose else "error")
        if not self._verbose:
            warnings.simplefilter("ignore")  # upstream's
        bar.show(f"loading {model.name}")
        painter = load_painter(work, model, self._set_up)
        from sdapp.diffusion.devices import has_bfloat16

        is_slow = work.load.dtype == "bfloat16" and has_bfloat16() is False
        if is_slow and painter.model.device.type == "cpu":
            self.notes.tell(["this CPU has no bfloat16 instructions: --dtype float32 is many times as fast"])
        self._check()
        return painter

    def _set_up(self) -> None:
        from sdapp.diffusion.loading import quiet

        quiet(self._verbose)
