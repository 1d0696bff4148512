"""Results are encoded and published by threads of their own while the next ones are painted."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sdapp.config import Output
from sdapp.errors import JobsFailedError, SdappError
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import publish
from sdapp.outputs.naming import file_stem
from sdapp.profiling import timed
from sdapp.records import Result

ENCODERS = min(4, os.cpu_count() or 1)


def write_results(
    results: Iterable[Result], encode: Callable[[Result], Result], publish: Callable[[Result], Result]
) -> Iterator[Result]:
    """What `publish` makes of each result that `encode` has made a file of, in their order, each only when it is published.

    One batch at most waits for its publishing while the next is painted. An image painted alone is waited for, so that a kill
    costs one image at the most. What either raises is raised at the next turn. However it ends, what was taken over is
    published; where the painting was stopped by an SdappError, it is given out, too, before that is raised.
    """
    waiting, stopped = deque[Future[Result]](), list[SdappError]()

    def painted() -> Iterator[Result]:
        try:
            yield from results
        except SdappError as exc:
            stopped.append(exc)

    # Encoding lets other threads run. One writer, so that names and ledger follow the order.
    with ThreadPoolExecutor(ENCODERS) as encoders, ThreadPoolExecutor(1) as writer:
        for result in painted():
            waiting.append(writer.submit(_publish, encoders.submit(encode, result), publish))
            together = result.record.batch_size if result.record else 1
            while waiting and (waiting[0].done() or len(waiting) > (together if together > 1 else 0)):
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    if stopped:
        raise stopped[0]


def _publish(encoding: Future[Result], publish: Callable[[Result], Result]) -> Result:
    return publish(encoding.result())


def _next(waiting: deque[Future[Result]]) -> Result:
    with timed("waiting"):
        return waiting.popleft().result()


def save_result(result: Result, output: Output) -> Result:
    """The result with the path where its image is now, if it has one. Raises OutputError."""
    return replace(result, path=save(result, output) if result.image else None, file=None)


def save(result: Result, output: Output) -> Path:
    """Write the image to a new file with job and record inside, and return its path; no file is ever overwritten.

    Raises JobsFailedError where there is no image, ConfigError where the format has no room for the record, OutputError
    where the folder cannot be written.
    """
    file = result.file or encode(result, output).file
    if file is None:
        raise JobsFailedError(f"seed {result.job.seed}: {result.error}")
    with timed("save"):
        return publish(
            file, Path(output.dir), file_stem(output.name, result.job, result.index), SUFFIXES[output.format]
        )
