"""Images that were ordered and the folder that they go to: what is left to paint, and its painting."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from sdapp.batches import ledger
from sdapp.batches.finished import Finished
from sdapp.batches.items import WHOLE_FILE, Item, Shard, is_new, unique_items
from sdapp.batches.leases import Leases, sweep
from sdapp.batches.ledger import Line
from sdapp.config import BatchSize, RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.jobs import Job
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save, write_results
from sdapp.records import OnStep, Result

WINDOW = 512  # images planned ahead, so that those that can share UNet calls meet
Orders = Callable[[], Iterable[Item]]
Keep = Callable[[Result], None]


@dataclass(frozen=True)
class Survey:
    """How much a prompt file asks for and how much of it is left."""

    images: int
    done: int
    failed: int  # in an earlier run, and not to be tried again
    repeated: int  # asked for by several lines, and painted once
    unet_calls: int  # of those that are left

    @property
    def left(self) -> int:
        return self.images - self.done - self.failed


class Paints(Protocol):
    """What paints: a Painter, or whatever stands in for one."""

    def together(self, job: Job, batch_size: BatchSize) -> int: ...
    def paint(
        self, jobs: Sequence[Job], batch_size: BatchSize, on_step: OnStep | None, keep_going: bool
    ) -> Iterator[Result]: ...


class Batch:
    """What was ordered and the folder of its images, which other runs may be filling at the same time."""

    def __init__(
        self,
        asked: Orders,
        config: RunConfig,
        shard: Shard = WHOLE_FILE,
        retry_failed: bool = False,
        keep: Keep | None = None,
    ) -> None:
        """`asked` gives the orders, each time it is called; `keep` is shown each result before it is published."""
        self._asked, self._keep, self.shard = asked, keep, shard
        self.config, self.folder = config, Path(config.output.dir)
        self.past = Finished(self.folder, SUFFIXES[config.output.format], retry_failed)
        self.painted = 0  # in this run: published, or about to be

    def orders(self) -> Iterator[Item]:
        """What this shard has to see to, each image once. Raises what `asked` raises."""
        return unique_items(self._mine())

    def _mine(self) -> Iterator[Item]:
        return (order for order in self._asked() if order.job.id in self.shard)

    def survey(self, look: Callable[[Item], None] = lambda _: None) -> Survey:
        """Count without painting, and `look` at each image that is left. Raises what `asked` raises."""
        images = done = failed = calls = repeated = 0
        seen: set[int] = set()
        for order in self._mine():
            if not is_new(order, seen):
                repeated += 1
                continue
            images += 1
            if order.job.id in self.past.done:
                done += 1
            elif order.job.id in self.past.failed:
                failed += 1
            else:
                calls += order.job.unet_calls
                look(order)
        return Survey(images, done, failed, repeated, calls)

    def begin(self) -> None:
        """Make the folder, and remove what dead runs left in it. Raises OutputError."""
        check_folder(self.folder)
        sweep(self.folder)

    def paint(
        self,
        painter: Paints,
        on_step: OnStep | None = None,
        wait: Callable[[str], None] = lambda _: time.sleep(0.5),
    ) -> Iterator[Result]:
        """Paint what is left, publish each image, note it in the ledger, and yield it with its path.

        What another run holds is left to it. In the end `wait` is called, with who holds how many, until they are done, or dead
        and taken over. Job ids that came to be done meanwhile are in `past`.
        """
        with Leases(self.folder) as leases:
            painted = self._paint_all(leases, painter, on_step, wait)
            yield from write_results(painted, self._encode, lambda result: self._publish(result, leases))
            self.past.refresh()
            sweep(self.folder)  # after those that died meanwhile
            if leases.is_alone():
                with suppress(
                    ConfigError, InputError
                ):  # the prompt file is gone by now: all is painted even so
                    self.tidy()

    def _paint_all(
        self, leases: Leases, painter: Paints, on_step: OnStep | None, wait: Callable[[str], None]
    ) -> Iterator[Result]:
        held: list[Item] = []
        for pack in _packs(self.orders(), self.past):
            yield from self._paint_pack(pack, leases, painter, on_step, held)
        while held := [order for order in held if order.job.id not in self.past]:
            wait(f"{len(held)} are being painted by {leases.holder(held[0].job.id)}")
            self.past.refresh()
            again, held = held, []
            for pack in _packs(again, self.past):
                yield from self._paint_pack(pack, leases, painter, on_step, held)

    def _paint_pack(
        self, pack: Sequence[Item], leases: Leases, painter: Paints, on_step: OnStep | None, held: list[Item]
    ) -> Iterator[Result]:
        """Paint the jobs of one pack that are nobody else's; those that are go to `held`."""
        queue = iter(pack)
        while True:
            size = painter.together(pack[0].job, self.config.batch_size)
            ours = list(islice(self._claimed(queue, leases, held), size))
            self.past.refresh()  # whoever had one of these before has published it before giving it back
            batch = [order for order in ours if order.job.id not in self.past]
            for order in ours:
                if order.job.id in self.past:
                    leases.release(order.job.id)
            for result in painter.paint(
                [order.job for order in batch], self.config.batch_size, on_step, keep_going=True
            ):
                job = result.job.id
                # A machine that slept has lost its lease: who took it over may have painted the image, or be at it.
                if leases.holds(job) or (leases.claim(job) and not self._is_done(job)):
                    yield self._handed_over(result, batch[result.index])
                else:
                    held.append(batch[result.index])
                    leases.release(job)
            if not ours:
                return

    def _claimed(self, queue: Iterator[Item], leases: Leases, held: list[Item]) -> Iterator[Item]:
        for order in queue:
            if order.job.id in self.past:
                continue
            if leases.claim(order.job.id):
                yield order
            else:
                held.append(order)

    def _is_done(self, job: str) -> bool:
        self.past.refresh()
        return job in self.past.done

    def _handed_over(self, result: Result, order: Item) -> Result:
        self.painted += 1
        result = replace(result, index=order.index, choices=order.choices, line=order.line)
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
        ledger.append_line(self.folder, Line.of(result, path))
        leases.release(result.job.id)
        return replace(result, path=path, file=None)

    def tidy(self) -> None:
        """Write the ledger anew: a line for each image that is there or failed, in the order of the prompt file."""
        last = {line.id: line for line in ledger.read_ledger(self.folder)}
        images = Finished(self.folder, self.past.suffix).done
        lines = []
        for order in unique_items(self._asked()):
            path, line = images.pop(order.job.id, None), last.get(order.job.id)
            if path is not None and (line is None or line.file != path.name):
                line = Line.found(path, order.line)
            if line is not None and (path is not None or line.status == "failed"):
                lines.append(replace(line, prompt_line=order.line))
        others = [last[job] for job in images if job in last]  # painted for another prompt file
        ledger.rewrite_ledger(self.folder, [*lines, *others])

    def strays(self) -> list[Path]:
        """The images of sdapp in the folder that nobody ordered. Raises what `asked` raises, ConfigError if it gives none."""
        asked = {order.job.id for order in self._asked()}
        if not asked:
            raise ConfigError(
                "--prune: the prompt file asks for no image, so all would go; is it the right one?"
            )
        pasts = [Finished(self.folder, suffix) for suffix in SUFFIXES.values()]
        return sorted(path for past in pasts for job, path in past.done.items() if job not in asked)

    def failures(self) -> int:
        """How many images of this shard failed."""
        return sum(order.job.id in self.past.failed for order in self.orders()) if self.past.failed else 0


def _packs(orders: Iterable[Item], past: Finished) -> Iterator[list[Item]]:
    """What is not over, with jobs that can share UNet calls side by side; a window of the file is looked at at a time."""
    left = (order for order in orders if order.job.id not in past)
    while window := list(islice(left, WINDOW)):
        packs: dict[str, list[Item]] = {}
        for order in window:
            packs.setdefault(order.job.pack, []).append(order)
        yield from packs.values()
