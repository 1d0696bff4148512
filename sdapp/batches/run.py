"""A batch: which of the images that are asked for are missing from their folder, and painting them."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from sdapp.batches.executors import Executor
from sdapp.batches.finished import Finished
from sdapp.batches.items import WHOLE_FILE, Item, Shard, is_new, unique_items
from sdapp.batches.leases import Leases, in_use, sweep
from sdapp.batches.ledger import Line, append_line, ledger_size, read_ledger, rewrite_ledger
from sdapp.batches.prompt_file import PromptFile
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.jobs import LoadKey, Work
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save, write_results
from sdapp.records import OnStep, Result

WINDOW = 512  # images planned ahead, so that those that can share UNet calls meet
Wait = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """How many images a batch asks for, and how many of them are missing."""

    images: int
    done: int
    failed: int  # in an earlier run, and not to be tried again
    repeated: int  # asked for by several lines, and painted once
    unet_calls: int  # of those that are left

    @property
    def left(self) -> int:
        return self.images - self.done - self.failed


class Batch:
    """Images that are asked for, and their folder, which other runs may fill at the same time."""

    def __init__(
        self,
        items: Callable[[], Iterable[Item]],
        config: RunConfig,
        load: LoadKey,
        *,
        shard: Shard = WHOLE_FILE,
        retry_failed: bool = False,
        keep: Callable[[Result], None] | None = None,
    ) -> None:
        """`items` is called for each pass over the images.

        `keep` is given each result before it is published.
        """
        self._items, self._keep, self.config, self.load, self.shard = items, keep, config, load, shard
        self.prompt_files: tuple[str, ...] = ()
        self.folder = Path(config.output.dir)
        self.finished = Finished(self.folder, SUFFIXES[config.output.format], retry_failed)
        self._finished_before = len(self.finished.done)
        self._painted = 0

    @classmethod
    def of(cls, prompts: PromptFile, shard: Shard = WHOLE_FILE, retry_failed: bool = False) -> "Batch":
        """The batch of a prompt file."""
        batch = cls(prompts.items, prompts.config, prompts.load, shard=shard, retry_failed=retry_failed)
        batch.prompt_files = (prompts.name,)
        return batch

    def items(self) -> Iterator[Item]:
        """The images of this shard, each once. Raises what the prompt file raises."""
        return unique_items(self._of_shard())

    def all_items(self) -> Iterator[Item]:
        """The images of all shards, each once. Raises what the prompt file raises."""
        return unique_items(self._items())

    def _of_shard(self) -> Iterator[Item]:
        return (item for item in self._items() if item.job.id in self.shard)

    @property
    def progress(self) -> int:
        """How many images were finished since this run began, by this run and by others."""
        return max(self._painted, len(self.finished.done) - self._finished_before)

    def survey(self, look: Callable[[Item], None] = lambda _: None) -> Survey:
        """Count the images and call `look` for each that is left. Raises what the prompt file raises."""
        images = done = failed = calls = repeated = 0
        seen: set[int] = set()
        for item in self._of_shard():
            if not is_new(item, seen):
                repeated += 1
                continue
            images += 1
            if item.job.id in self.finished.done:
                done += 1
            elif item.job.id in self.finished.failed:
                failed += 1
            else:
                calls += item.job.unet_calls
                look(item)
        return Survey(images, done, failed, repeated, calls)

    def begin(self) -> None:
        """Make the folder, and remove what dead runs left in it. Raises OutputError."""
        check_folder(self.folder)
        sweep(self.folder)

    def paint(
        self,
        executor: Executor,
        found: Survey,
        on_step: OnStep | None = None,
        wait: Wait = lambda _: time.sleep(0.5),
    ) -> Generator[Result, None, None]:
        """Paint what is left; publish each image, add it to the ledger, and yield it with its path.

        Images that another run is painting are left to it. At the end `wait` is called with a text that says
        who paints how many, again and again, until they are finished, or their run is dead and they are taken
        over.
        """
        if found.left:
            with Leases(self.folder) as leases:
                painted = _Painting(self, executor, found.unet_calls, leases, on_step).results(wait)
                yield from write_results(painted, self._encode, lambda result: self._publish(result, leases))
                self.finished.refresh()
            sweep(self.folder)  # after runs that died meanwhile
        with suppress(ConfigError, InputError):  # the prompt file was deleted or edited meanwhile
            self.tidy()

    def take(self, result: Result, item: Item) -> Result:
        """A result of this run as that of its item, before it is published."""
        self._painted += 1
        result = replace(result, index=item.index, choices=item.choices, line=item.line)
        if self._keep:
            self._keep(result)
        return result

    def _encode(self, result: Result) -> Result:
        try:
            return encode(result, self.config.output)
        except ConfigError as exc:  # its format has no room for its record
            return replace(result, image=None, error=str(exc))

    def _publish(self, result: Result, leases: Leases) -> Result:
        path = save(result, self.config.output) if result.image else None
        append_line(self.folder, Line.of(result, path, self.prompt_files))
        leases.release(result.job.id)
        return replace(result, path=path, file=None)

    def tidy(self) -> None:
        """Rewrite the ledger in the order of the prompt file, unless another run is adding to it.

        It gets a line for each image, and keeps the failures of this and of other prompt files. Raises
        OutputError and what the prompt file raises.
        """
        if in_use(self.folder):
            return
        size = ledger_size(self.folder)
        lines = {line.id: line for line in read_ledger(self.folder)}
        images = Finished(self.folder, self.finished.suffix).done
        kept: list[Line] = []
        for item in self.all_items():
            path, line = images.pop(item.job.id, None), lines.pop(item.job.id, None)
            if path is not None and (line is None or line.file != path.name):
                line = replace(Line.from_image(path), prompt_files=line.prompt_files if line else ())
            if line is not None and (path is not None or line.status == "failed"):
                files = tuple(dict.fromkeys((*line.prompt_files, *self.prompt_files)))
                kept.append(replace(line, prompt_line=item.line, prompt_files=files))
        kept += [
            line
            for line in lines.values()
            if line.id in images
            or (line.status == "failed" and set(line.prompt_files) - set(self.prompt_files))
        ]
        if not in_use(self.folder) and ledger_size(self.folder) == size:
            rewrite_ledger(self.folder, kept)

    def failures(self) -> int:
        """How many images of this shard have failed."""
        return (
            sum(item.job.id in self.finished.failed for item in self.items()) if self.finished.failed else 0
        )


@dataclass
class _Painting:
    """One run of a batch over its images: it paints those that it can lease, and waits for the others."""

    batch: Batch
    executor: Executor
    unet_calls: int
    leases: Leases
    on_step: OnStep | None
    elsewhere: list[Item] = field(default_factory=list)  # leased by another run

    def results(self, wait: Wait) -> Iterator[Result]:
        yield from self._paint(self.batch.items())
        while waiting := [item for item in self.elsewhere if item.job.id not in self.batch.finished]:
            wait(f"{len(waiting)} are being painted by {self.leases.holder(waiting[0].job.id)}")
            self.batch.finished.refresh()
            self.elsewhere = []
            yield from self._paint(waiting)

    def _paint(self, items: Iterable[Item]) -> Iterator[Result]:
        finished = self.batch.finished
        for pack in _packs(item for item in items if item.job.id not in finished):
            queue = iter(pack)
            while leased := list(islice(self._lease(queue), self.executor.together(self._work(pack[:1])))):
                finished.refresh()  # a run that held one of these has published it before releasing it
                for item in leased:
                    if item.job.id in finished:
                        self.leases.release(item.job.id)
                yield from self._paint_together([item for item in leased if item.job.id not in finished])

    def _lease(self, queue: Iterator[Item]) -> Iterator[Item]:
        for item in queue:
            if item.job.id in self.batch.finished:
                continue
            if self.leases.claim(item.job.id):
                yield item
            else:
                self.elsewhere.append(item)

    def _paint_together(self, items: Sequence[Item]) -> Iterator[Result]:
        step = None if self.on_step is None else self._step
        for result in self.executor.paint(self._work(items), step) if items else ():
            item = items[result.index]
            # A machine that was suspended has lost its lease: another run may have painted the image, or be
            # at it.
            if self.leases.holds(item.job.id) or (self.leases.claim(item.job.id) and not self._is_done(item)):
                yield self.batch.take(result, item)
            else:
                self.elsewhere.append(item)
                self.leases.release(item.job.id)

    def _work(self, items: Sequence[Item]) -> Work:
        config, jobs = self.batch.config, [item.job for item in items]
        return Work(self.batch.load, jobs, config.batch_size, keep_going=True, unet_calls=self.unet_calls)

    def _step(self, _first: int, *step: int) -> None:
        assert self.on_step is not None
        self.on_step(self.batch.progress, *step)

    def _is_done(self, item: Item) -> bool:
        self.batch.finished.refresh()
        return item.job.id in self.batch.finished.done


def _packs(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Put jobs that can share UNet calls next to each other, within a window of the file."""
    items = iter(items)
    while window := list(islice(items, WINDOW)):
        packs: dict[str, list[Item]] = {}
        for item in window:
            packs.setdefault(item.job.pack, []).append(item)
        yield from packs.values()
