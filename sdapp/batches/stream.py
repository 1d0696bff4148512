"""Lines of a pipe or terminal, painted as they come."""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from threading import Thread
from typing import BinaryIO

from sdapp.batches.executors import Executor
from sdapp.batches.items import Asked, Item
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.run import WINDOW, Batch, Survey, Wait
from sdapp.prompts.lines import PromptFileError
from sdapp.records import OnStep, Result

OnLines = Callable[[Survey, list[Item], PromptFileError], object]
BURST = 0.05  # seconds in which lines that come together are taken together


def arriving_lines(stream: BinaryIO, rest: Callable[[], object]) -> Iterator[bytes]:
    """Yield the lines that have come, as soon as there is one; call `rest` to wait for it."""
    lines: Queue[bytes] = Queue(WINDOW)

    def read() -> None:
        for line in iter(stream.readline, b""):
            lines.put(line)
        lines.put(b"")

    Thread(target=read, daemon=True).start()  # a read from a pipe cannot be interrupted otherwise
    is_open = True
    while is_open:
        while lines.empty():
            rest()
        time.sleep(BURST)
        found: list[bytes] = []
        try:
            while len(found) < WINDOW:
                found.append(lines.get_nowait())
        except Empty:
            pass
        is_open = b"" not in found
        yield b"".join(found)


@dataclass
class Arriving:
    """Paints lines as they come, with the folder, ledger and seeds of `run`."""

    prompts: PromptFile
    run: Batch
    asked: Asked = field(default_factory=Asked)  # by all lines up to now

    def paint(
        self,
        texts: Iterator[bytes],
        executor: Executor,
        on_lines: OnLines,
        on_step: OnStep | None,
        wait: Wait,
    ) -> Generator[Result, None, None]:
        """Paint the lines of each text as soon as it is there.

        Before that, `on_lines` gets what was found, the images, and the errors of lines that are left out.
        """
        lines = images = 0
        for text in texts:
            # Empty lines take the place of earlier ones, so that the numbers of lines go on.
            # Errors are told at once, with --skip-invalid or without.
            here = replace(self.prompts, path=b"\n" * lines + text, first_index=images, skip_invalid=False)
            items, errors = list[Item](), PromptFileError()
            try:
                for item in here.items():
                    items.append(item)
            except PromptFileError as exc:
                errors = exc
            lines, images = lines + text.count(b"\n"), images + len(items)
            self.run.given_items = items.copy
            found = self.run.survey()
            for item in items:
                self.asked.add(item.job.id, item.line)
            on_lines(found, items, errors)
            yield from self.run.paint_left(executor, found, on_step, wait)
        self.run.tidy(self.asked)
