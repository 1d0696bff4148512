"""Write results to files in background threads, while the next ones are painted."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sdapp.errors import JobsFailedError, SdappError
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import publish
from sdapp.outputs.naming import file_stem
from sdapp.profiling import timed
from sdapp.records import Result
from sdapp.settings.output import Output

ENCODERS = min(4, os.cpu_count() or 1)


def write_results(
    results: Iterable[Result], encode: Callable[[Result], Result], publish: Callable[[Result], Result]
) -> Iterator[Result]:
    """Encode and publish results in order; yield what `publish` returns, once it is on disk.

    At most one batch is written while the next is painted. An image that is painted alone is waited for, so
    a kill costs at most one image. What `encode` or `publish` raise is raised at the next turn. If `results`
    end with an SdappError, all results before it are published and yielded, then it is raised.
    """
    waiting = deque[Future[Result]]()
    source = _Source(iter(results))
    # Encoding releases the GIL. One writer, so that names and ledger follow the order of the results.
    with ThreadPoolExecutor(ENCODERS) as encoders, ThreadPoolExecutor(1) as writer:
        for result in source:
            encoding = encoders.submit(encode, result)
            waiting.append(writer.submit(lambda done: publish(done.result()), encoding))
            together = result.record.batch_size if result.record else 1
            while waiting and (waiting[0].done() or len(waiting) > (together if together > 1 else 0)):
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    if source.error:
        raise source.error


@dataclass
class _Source:
    """Results up to the first SdappError, which is kept."""

    results: Iterator[Result]
    error: SdappError | None = None

    def __iter__(self) -> Iterator[Result]:
        try:
            yield from self.results
        except SdappError as exc:
            self.error = exc


def _next(waiting: deque[Future[Result]]) -> Result:
    with timed("waiting"):
        return waiting.popleft().result()


def save_result(result: Result, output: Output) -> Result:
    """Write the image of a result, if it has one, and return the result with its path. Raises OutputError."""
    return replace(result, path=save(result, output) if result.image else None, file=None)


def save(result: Result, output: Output) -> Path:
    """Write the image with job and record inside to a new file, and return its path.

    No file is ever overwritten. Raises JobsFailedError if the result has no image, ConfigError if its record
    does not fit into the format, OutputError if the folder cannot be written to.
    """
    file = result.file or encode(result, output).file
    if file is None:
        raise JobsFailedError(f"seed {result.job.seed}: {result.error}")
    stem = file_stem(output.name, result.job, result.index, result.number, result.labels)
    with timed("save"):
        return publish(file, Path(output.dir), stem, SUFFIXES[output.format])
