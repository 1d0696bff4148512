"""Where work is painted: in this process, or wherever another Executor sends it."""

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sdapp.batches.items import Item
from sdapp.diffusion.startup import importing
from sdapp.jobs import LoadKey, Work
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.outputs.films import write_film
from sdapp.profiling import timed
from sdapp.records import OnStep, Result
from sdapp.settings.output import Output

if TYPE_CHECKING:
    from PIL import Image

    from sdapp.diffusion.watch import Watcher
    from sdapp.pipelines import Painter


Loader = Callable[[Work, Model], "Painter"]


@dataclass(frozen=True)
class Pack:
    """Work whose jobs are those of `items`, in the same order: one piece for an executor."""

    work: Work
    items: tuple[Item, ...]
    output: Output | None = None  # what an executor that paints elsewhere may encode the images for


class Executor(Protocol):
    """Paints work, in this process or elsewhere."""

    def together(self, work: Work) -> int:
        """How many jobs at the beginning of the work should be in one pack; all of them have one `pack`."""

    def paint(self, work: Work, on_step: OnStep | None = None) -> Iterator[Result]:
        """Paint jobs in order; yield a result for each. Raises SdappError if one cannot be painted, except
        with `work.keep_going`.
        """

    def paint_packs(
        self, packs: Iterable[Pack], on_step: OnStep | None = None
    ) -> Iterator[tuple[Item, Result]]:
        """Paint packs, each taken when it can begin soon; yield results as they finish, in any order."""


def load_painter(work: Work, model: Model, set_up: Callable[[], None] | None = None) -> "Painter":
    """Load a model. Raises UnavailableError, ConfigError.

    `set_up` is called between import and load, if the process is our own; without it, no setting of the
    process is changed.
    """
    with timed("import"), importing(model, ours=set_up is not None):
        from sdapp.pipelines import load
    if set_up:
        set_up()
    with timed("load"):
        return load(work.load, model, unet_calls=work.unet_calls, batch_size=work.batch_size)


def _new_watcher() -> "Watcher":
    from sdapp.diffusion.watch import Watcher  # imports torch

    return Watcher()


class LocalExecutor:
    """Paints in this process; keeps a model until work needs another one.

    Threads may share it: one batch is painted at a time.
    """

    def __init__(self, models: Mapping[LoadKey, Model] | None = None, loader: Loader = load_painter) -> None:
        """`models` are already located; others are located when they are needed."""
        self._models, self._loader = dict(models or {}), loader
        self._lock = threading.RLock()
        self._load: LoadKey | None = None
        self._painter: Painter | None = None

    def know(self, models: Mapping[LoadKey, Model]) -> None:
        """Keep where models are, so that they are not looked for again."""
        self._models |= models

    def together(self, work: Work) -> int:
        with self._lock:
            return self.painter(work).together(work.jobs[0], work.batch_size)

    def paint(self, work: Work, on_step: OnStep | None = None) -> Iterator[Result]:
        with self._lock:
            painter = self.painter(work)
            watcher = _new_watcher() if work.film else None
            results = painter.paint(
                work.jobs, work.batch_size, on_step, work.keep_going, work.preview, watcher
            )
        image: Image.Image | None = None
        while True:
            with self._lock:  # not while the caller has a result, so that other threads can paint
                result = next(results, None)
            if result is None:
                break
            yield result
            image = result.image
        if watcher and work.film and image:  # the image is on the disk by now
            with self._lock, timed("decode"):
                frames = painter.pictures(call.read for call in watcher.calls)
                write_film(Path(work.film), frames, len(watcher.calls), image)

    def paint_packs(
        self, packs: Iterable[Pack], on_step: OnStep | None = None
    ) -> Iterator[tuple[Item, Result]]:
        for pack in packs:
            for result in self.paint(pack.work, on_step):
                yield pack.items[result.index], result

    def painter(self, work: Work) -> "Painter":
        """The painter with the model of the work; frees another model before it loads this one."""
        key = work.load
        if self._painter is None or self._load != key:
            if self._painter is not None:
                self._painter = None
                gc.collect()  # otherwise two models are in memory at a time
            model = self._models.get(key) or locate_model(key.model, key.revision, key.vae, key.base)
            self._painter, self._load = self._loader(work, model), key
        return self._painter
