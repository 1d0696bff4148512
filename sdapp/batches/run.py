"""A batch: find which images of a prompt file are missing from its folder, and paint them."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from heapq import merge
from itertools import groupby, islice
from pathlib import Path

from sdapp.batches.executors import Executor, Pack
from sdapp.batches.finished import Finished
from sdapp.batches.items import WHOLE_FILE, Asked, Item, Shard, unique_items
from sdapp.batches.leases import Leases, in_use, sweep
from sdapp.batches.ledger import LastLines, Ledger, Line, append_line, read_ledger
from sdapp.batches.prompt_file import PromptFile
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.jobs import LoadKey, Work
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder, overwrite
from sdapp.outputs.writer import save, write_results
from sdapp.prompts.lines import PromptFileError
from sdapp.records import OnStep, Result

WINDOW = 512  # images planned ahead, so that those that can share UNet calls meet
Wait = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """How many images a batch asks for, and how many of them are missing."""

    done: int
    failed: int  # in an earlier run, and not to be tried again
    left: int
    repeated: int  # asked for by a line before; not counted again
    unet_calls: int  # of the images that are left
    asked: Asked = field(default_factory=Asked, repr=False)  # by all shards

    @property
    def images(self) -> int:
        return self.done + self.failed + self.left


@dataclass
class Batch:
    """The images of a prompt file and their folder, which other runs may fill at the same time."""

    given_items: Callable[[], Iterable[Item]]  # called for each pass over the images
    config: RunConfig
    load: LoadKey
    shard: Shard = WHOLE_FILE
    prompt_files: tuple[str, ...] = ()
    retry_failed: InitVar[bool] = False
    keep: Callable[[Result], None] | None = None  # gets each result before it is published
    skipped: Callable[[], PromptFileError] = PromptFileError  # of the last pass over the images

    def __post_init__(self, retry_failed: bool) -> None:
        self.folder = Path(self.config.output.dir)
        wants_flagged = self.config.safety_checker == "off" or self.config.flagged == "write"
        suffix = SUFFIXES[self.config.output.format]
        self.finished = Finished(self.folder, suffix, retry_failed, wants_flagged)
        self._finished_before, self._painted = len(self.finished.done), 0

    @classmethod
    def of(cls, prompts: PromptFile, shard: Shard = WHOLE_FILE, retry_failed: bool = False) -> "Batch":
        names, skipped = (prompts.name,), lambda: prompts.skipped
        return cls(prompts.items, prompts.config, prompts.load, shard, names, retry_failed, skipped=skipped)

    def items(self) -> Iterator[Item]:
        """The images of this shard, each once. Raises what the prompt file raises."""
        return unique_items(self._of_shard())

    def all_items(self) -> Iterator[Item]:
        """The images of all shards, each once. Raises what the prompt file raises."""
        return unique_items(self.given_items())

    def _of_shard(self) -> Iterator[Item]:
        return (item for item in self.given_items() if item.job.id in self.shard)

    @property
    def progress(self) -> int:
        """How many images this run and others have finished since this run began."""
        return max(self._painted, len(self.finished.done) - self._finished_before)

    def survey(self, look: Callable[[Item], None] = lambda _: None) -> Survey:
        """Count the images and call `look` for each that is left. Raises what the prompt file raises."""
        counts, calls, asked = dict.fromkeys(("done", "failed", "left", "repeated"), 0), 0, Asked()
        for item in self.given_items():
            job_id = item.job.id
            state = self.finished.state(job_id) if asked.add(job_id, item.line) else "repeated"
            if job_id in self.shard:
                counts[state] += 1
                if state == "left":
                    calls += item.job.unet_calls
                    look(item)
        return Survey(**counts, unet_calls=calls, asked=asked)

    def begin(self) -> None:
        """Make the folder, remove what dead runs left in it, and tell the ledger which lines are skipped.

        Raises OutputError.
        """
        check_folder(self.folder)
        sweep(self.folder)
        rows = (line.encode() for line in read_ledger(self.folder) if line.status == "invalid")
        known = {*rows} if self.skipped().count else set()
        for line in self._skipped_lines():
            if line.encode() not in known:
                append_line(self.folder, line)

    def _skipped_lines(self) -> Iterator[Line]:
        rows = self.skipped().rows
        for number, group in groupby(rows, key=lambda row: row[0]):
            error = "\n".join(text for _, text in group)
            names = self.prompt_files
            yield Line(f"{names[0]}:{number}", "invalid", None, number, error=error, prompt_files=names)

    def paint(
        self,
        executor: Executor,
        found: Survey,
        on_step: OnStep | None = None,
        wait: Wait = lambda _: time.sleep(0.5),
    ) -> Generator[Result, None, None]:
        """Paint what is left; publish each image, add it to the ledger, and yield it with its path.

        Images that another run is painting are left to it. At the end `wait` is called, with a text that says
        who paints how many, until they are finished, or their run is dead and this run paints them.
        """
        yield from self.paint_left(executor, found, on_step, wait)
        with suppress(InputError):  # an image cannot be read any more
            self.tidy(found.asked)

    def paint_left(
        self, executor: Executor, found: Survey, on_step: OnStep | None, wait: Wait
    ) -> Generator[Result, None, None]:
        """Do as `paint`, but leave the ledger in the order in which images were finished."""
        counted = on_step and (lambda _first, *step: on_step(self.progress, *step))
        if found.left:
            with Leases(self.folder) as leases:
                painted = _LeasedImages(self, executor, found.unet_calls, leases, counted).results(wait)
                yield from write_results(painted, self._encode, lambda result: self._publish(result, leases))
                self.finished.refresh()
            sweep(self.folder)  # other runs may have died

    def take(self, result: Result, item: Item) -> Result:
        """Count a result, add what its item says, and give it to `keep`."""
        self._painted += 1
        result = item.label(result)
        if self.keep:
            self.keep(result)
        return result

    def _encode(self, result: Result) -> Result:
        try:
            return result if result.file or result.path else encode(result, self.config.output)
        except ConfigError as exc:  # its format has no room for its record
            return replace(result, image=None, error=str(exc))

    def _publish(self, result: Result, leases: Leases) -> Result:
        path = result.path or (save(result, self.config.output) if result.image else None)
        append_line(self.folder, Line.of(result, path, self.prompt_files))
        self.finished.add(result.job.id, path)
        leases.release(result.job.id)
        return replace(result, path=path, file=None)

    def tidy(self, asked: Asked) -> None:
        """Rewrite the ledger in the order of the prompt file, unless another run is adding to it.

        It gets a line for each image, and keeps the failures, also those of other prompt files. Raises
        OutputError, and InputError for an image that cannot be read any more.
        """
        if in_use(self.folder):
            return
        ledger = Ledger(self.folder)
        rows = (line.encode() for line in self._tidy_lines(asked, ledger))

        def is_unchanged() -> bool:  # a run that adds a line holds a lease until it is there
            return not in_use(self.folder) and not ledger.has_more()

        overwrite(ledger.path, rows, is_unchanged)

    def _tidy_lines(self, asked: Asked, ledger: Ledger) -> Iterator[Line]:
        """The lines of the ledger as they should be."""
        mine, done = set(self.prompt_files), self.finished.done
        with LastLines(ledger, asked.place, len(asked)) as old:
            self.finished.forget_removed()
            own = self._asked_lines(asked, old)
            yield from merge(own, self._skipped_lines(), key=lambda line: line.prompt_line)
            for line in old.others():
                if line.id in done or (line.status != "done" and set(line.prompt_files) - mine):
                    yield line

    def _asked_lines(self, asked: Asked, old: LastLines) -> Iterator[Line]:
        """The lines of images that this prompt file asks for, in its order."""
        for place, (job_id, prompt_line) in enumerate(zip(asked, asked.lines, strict=True)):
            name, line = self.finished.done.get(job_id), old.asked(place)
            if name is not None and (line is None or line.file != name):
                files = line.prompt_files if line else ()
                line = replace(Line.from_image(self.folder / name), prompt_files=files)
            if line is not None and (name is not None or line.status != "done"):
                files = tuple(dict.fromkeys((*line.prompt_files, *self.prompt_files)))
                yield replace(line, prompt_line=prompt_line, prompt_files=files)

    def failures(self, asked: Asked) -> tuple[int, int]:
        """How many images of this shard have failed, and how many there are."""
        own = [job_id for job_id in asked if job_id in self.shard]
        return len(self.finished.failed.intersection(own)), len(own)


@dataclass
class _LeasedImages:
    """Paints the images of a batch that it can lease, and waits for the others."""

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
        for item, result in self.executor.paint_packs(self._packs(items), self.on_step):
            # After this machine was suspended, another run may have taken the lease and painted the image.
            if self.leases.holds(item.job.id) or (self.leases.claim(item.job.id) and not self._is_done(item)):
                yield self.batch.take(result, item)
            else:
                self.elsewhere.append(item)
                self.leases.release(item.job.id)

    def _packs(self, items: Iterable[Item]) -> Iterator[Pack]:
        """Yield leased images that can share UNet calls, as many together as the executor paints at once."""
        finished = self.batch.finished
        for alike in _alike(item for item in items if item.job.id not in finished):
            queue = iter(alike)
            while leased := list(islice(self._lease(queue), self.executor.together(self._work(alike)))):
                # A run that held one of these has told it before releasing it, unless it died.
                finished.refresh() if self.leases.take_inherited() else finished.look()
                for item in leased:
                    if item.job.id in finished:
                        self.leases.release(item.job.id)
                if left := tuple(item for item in leased if item.job.id not in finished):
                    yield Pack(self._work(left), left, None if self.batch.keep else self.batch.config.output)

    def _lease(self, queue: Iterator[Item]) -> Iterator[Item]:
        for item in queue:
            if item.job.id in self.batch.finished:
                continue
            if self.leases.claim(item.job.id):
                yield item
            else:
                self.elsewhere.append(item)

    def _work(self, items: Sequence[Item]) -> Work:
        config, jobs = self.batch.config, [item.job for item in items]
        load, calls, preview = items[0].load or self.batch.load, self.unet_calls, config.preview_file
        return Work(load, jobs, config.batch_size, True, unet_calls=calls, preview=preview)

    def _is_done(self, item: Item) -> bool:
        self.batch.finished.refresh()
        return item.job.id in self.batch.finished.done


def _exchanged(pack: list[Item]) -> str:
    """What is exchanged between packs: sorted by it, seldom."""
    job = pack[0].job
    return f"{[each.model for each in job.control]} {job.loras}"


def _alike(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Put jobs that can share UNet calls together, within a window of the file; those of a load in a row."""
    items = iter(items)
    while window := list(islice(items, WINDOW)):
        packs: dict[tuple[LoadKey | None, str], list[Item]] = {}
        for item in window:
            packs.setdefault((item.load, item.job.pack), []).append(item)
        order = {load: number for number, load in enumerate(dict.fromkeys(item.load for item in window))}
        yield from sorted(packs.values(), key=lambda pack: (order[pack[0].load], _exchanged(pack)))
