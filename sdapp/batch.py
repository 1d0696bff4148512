"""Prompt files as batches: every picture that a file asks for, what is left of them, and their painting."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path

from sdapp import ledger
from sdapp.config import Output, RunConfig, validate
from sdapp.jobs import Job, plan
from sdapp.layers import Layer, merge
from sdapp.models import Model
from sdapp.outputs import Result
from sdapp.prompts import Entry, read_prompts
from sdapp.templates import choose
from sdapp.variants import Seeds, check, seed_of

WINDOW = 512  # pictures planned ahead, so that those that can share UNet calls meet
NAME = "{prompt}-{seed}-{id}"  # the id makes names independent of the order of painting
PaintJobs = Callable[[list[Job]], Iterator[Result]]


@dataclass(frozen=True)
class Order:
    """One picture that a prompt file asks for: its job, the line of the file, and its place among all pictures."""

    job: Job
    line: int
    index: int


@dataclass(frozen=True)
class PromptFile:
    """A prompt file (or the bytes of standard input), the settings below its lines, and how lines get their seeds."""

    path: Path | bytes
    base: Sequence[Layer]
    model: Model
    seeds: Seeds
    base_seed: int

    @property
    def folder(self) -> Path:
        return self.path.parent if isinstance(self.path, Path) else Path()

    def _read(self) -> Iterator[Entry]:
        return read_prompts(self.path) if isinstance(self.path, Path) else read_prompts(None, BytesIO(self.path))

    def orders(self) -> Iterator[Order]:
        """The pictures in the order of the file, each job once: lines that ask for the same picture are one.

        Raises ConfigError with every error of the file, after the pictures of its good lines; InputError for images.
        """
        seen: set[str] = set()
        position = 0
        for entry in check(self._read(), self.base, self.folder):
            for job in self._jobs(entry, position):
                if job.id not in seen:
                    seen.add(job.id)
                    yield Order(job, entry.line, position)
                position += 1

    def _jobs(self, entry: Entry, position: int) -> Iterator[Job]:
        config = validate(merge([*self.base, entry.layer]))
        for seed in self._seeds(entry, config, position):
            prompt, _ = choose(config.prompt or "", seed, self.folder)
            yield from plan(config.model_copy(update={"prompt": prompt}), self.model, [seed])

    def _seeds(self, entry: Entry, config: RunConfig, position: int) -> Sequence[int]:
        if entry.seeds is not None:
            return entry.seeds
        if "seed" in entry.layer.values and config.seed is not None:
            return range(config.seed, config.seed + config.count)
        return [
            seed_of(self.seeds, self.base_seed, position + copy, entry.content, copy) for copy in range(config.count)
        ]  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """How much a prompt file asks for and how much of it is left."""

    pictures: int
    done: int
    failed: int  # in an earlier run, and not to be tried again
    unet_calls: int  # of those that are left

    @property
    def left(self) -> int:
        return self.pictures - self.done - self.failed


def survey(asked: Iterable[Order], done: Collection[str], failed: Collection[str]) -> Survey:
    """Count without painting. Raises what `orders` raises: every error of the file."""
    pictures = finished = given_up = calls = 0
    for order in asked:
        pictures += 1
        if order.job.id in done:
            finished += 1
        elif order.job.id in failed:
            given_up += 1
        else:
            calls += order.job.scheduler.resolve().unet_calls(order.job.steps_to_run)
    return Survey(pictures, finished, given_up, calls)


def windows(asked: Iterable[Order], past: Collection[str]) -> Iterator[list[Order]]:
    """What is not done or given up, a window at a time, with jobs that can share UNet calls side by side."""
    left = (order for order in asked if order.job.id not in past)
    while window := list(islice(left, WINDOW)):
        packs: dict[str, list[Order]] = {}
        for order in window:
            packs.setdefault(order.job.pack, []).append(order)
        yield [order for pack in packs.values() for order in pack]


def paint_rest(
    asked: Iterable[Order], past: Collection[str], output: Output, paint: PaintJobs
) -> Iterator[tuple[Result, Path | None]]:
    """Paint what is left, publish each picture, note it in the ledger, and yield it with its path."""
    folder = Path(output.dir)
    for window in windows(asked, past):
        for result in paint([order.job for order in window]):
            order = window[result.index]
            path = replace(result, index=order.index).save(output) if result.picture else None
            ledger.append(folder, ledger.Line.of(result, order.line, path))
            yield result, path


def tidy(asked: Iterable[Order], folder: Path) -> None:
    """Write the ledger anew: one line for each picture that the file asks for and that is done or failed, in its order."""
    last: Mapping[str, ledger.Line] = {line.id: line for line in ledger.read(folder)}
    pictures = ledger.finished(folder)
    lines = []
    for order in asked:
        line = last.get(order.job.id)
        if order.job.id in pictures and (line is None or line.status != "done"):
            line = ledger.Line(order.job.id, "done", pictures[order.job.id].name, order.line, order.job.seed, None, None, None)
        if line is not None:
            lines.append(replace(line, prompt_line=order.line))
    ledger.rewrite(folder, lines)
