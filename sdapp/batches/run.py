"""A batch: find which images of a prompt file are missing from its folder, and paint them."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path

from sdapp.batches.executors import Executor, Pack
from sdapp.batches.finished import Finished
from sdapp.batches.items import WHOLE_FILE, Item, Shard, unique_items
from sdapp.batches.leases import Leases, in_use, sweep
from sdapp.batches.ledger import LEDGER_FILE, Line, append_line, read_ledger
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
    lines: Mapping[int, int] = field(default_factory=dict, repr=False)  # of all shards: job id → prompt line

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
        counts, calls, lines = dict.fromkeys(("done", "failed", "left", "repeated"), 0), 0, dict[int, int]()
        for item in self.given_items():
            job_id, number = item.job.id, int(item.job.id, 16)  # a number takes a third of the memory
            state = "repeated" if number in lines else self.finished.state(job_id)
            lines.setdefault(number, item.line)
            if job_id in self.shard:
                counts[state] += 1
                if state == "left":
                    calls += item.job.unet_calls
                    look(item)
        return Survey(**counts, unet_calls=calls, lines=lines)

    def begin(self) -> None:
        """Make the folder, remove what dead runs left in it, and tell the ledger which lines are skipped.

        Raises OutputError.
        """
        check_folder(self.folder)
        sweep(self.folder)
        known = read_ledger(self.folder)[0] if self.skipped().count else []
        for line in self._skipped_lines():
            if line not in known:
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
            self.tidy(found)

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

    def tidy(self, found: Survey) -> None:
        """Rewrite the ledger in the order of the prompt file, unless another run is adding to it.

        It gets a line for each image, and keeps the failures, also those of other prompt files. Raises
        OutputError, and InputError for an image that cannot be read any more.
        """
        if in_use(self.folder):
            return
        ledger, end = read_ledger(self.folder)
        lines = {line.id: line for line in ledger}
        images = self.finished.images()
        kept: list[Line] = []
        for number, prompt_line in found.lines.items():
            job_id = f"{number:012x}"
            path, line = images.pop(job_id, None), lines.pop(job_id, None)
            if path is not None and (line is None or line.file != path.name):
                line = replace(Line.from_image(path), prompt_files=line.prompt_files if line else ())
            if line is not None and (path is not None or line.status != "done"):
                files = tuple(dict.fromkeys((*line.prompt_files, *self.prompt_files)))
                kept.append(replace(line, prompt_line=prompt_line, prompt_files=files))
        kept = sorted([*kept, *self._skipped_lines()], key=lambda line: line.prompt_line)
        for line in lines.values():
            is_other = set(line.prompt_files) - set(self.prompt_files)
            kept += [line] if line.id in images or (line.status != "done" and is_other) else []

        def is_unchanged() -> bool:  # a run that adds a line holds a lease until it is there
            return not in_use(self.folder) and read_ledger(self.folder, end)[1] == end

        overwrite(self.folder / LEDGER_FILE, (line.encode() for line in kept), is_unchanged)

    def failures(self) -> int:
        """How many images of this shard have failed."""
        failed = self.finished.failed
        return sum(item.job.id in failed for item in self.items()) if failed else 0


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
