"""Where work is painted: on this machine, with one model loaded at a time, or wherever another Executor sends it."""

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from sdapp.diffusion.startup import importing
from sdapp.jobs import LoadKey, Work
from sdapp.models.vae import locate_model
from sdapp.profiling import timed
from sdapp.records import OnStep, Result

if TYPE_CHECKING:
    from sdapp.pipelines import Painter


class Executor(Protocol):
    """Paints work and gives a result for each of its jobs, in their order."""

    def together(self, work: Work) -> int:
        """How many of the first jobs of some work will be painted together, at the most."""

    def paint(self, work: Work, on_step: OnStep | None = None) -> Iterator[Result]:
        """Paint the jobs in order. Raises SdappError for work that cannot be done, unless it says `keep_going`."""


def load_painter(work: Work) -> "Painter":
    """Import torch and diffusers, which takes seconds, and load the model of some work. Raises UnavailableError, ConfigError."""
    model = locate_model(work.load.model, work.load.revision, work.load.vae)
    with timed("import"), importing(model):
        from sdapp.pipelines import load
    with timed("load"):
        return load(work.load, model, unet_calls=work.unet_calls, batch_size=work.batch_size)


class LocalExecutor:
    """Paints in this process. A model is loaded when it is first needed and kept until other work needs another one."""

    def __init__(self, loader: Callable[[Work], "Painter"] = load_painter) -> None:
        self._loader = loader
        self._key: LoadKey | None = None
        self._painter: Painter | None = None

    def together(self, work: Work) -> int:
        """How many of the first jobs of some work will be painted together, at the most."""
        return self.painter(work).together(work.jobs[0], work.batch_size)

    def paint(self, work: Work, on_step: OnStep | None = None) -> Iterator[Result]:
        """Paint the jobs in order. Raises SdappError for work that cannot be done, unless it says `keep_going`."""
        return self.painter(work).paint(work.jobs, work.batch_size, on_step, work.keep_going)

    def painter(self, work: Work) -> "Painter":
        """The painter that has the model of some work loaded; the one before is given up first."""
        if self._painter is None or self._key != work.load:
            if self._painter is not None:
                self._painter = None
                gc.collect()  # otherwise two models are in memory at a time
            self._painter, self._key = self._loader(work), work.load
        return self._painter
