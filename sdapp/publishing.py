"""Results are published by a thread of their own while the next ones are painted."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from sdapp.config import Output
from sdapp.errors import SdappError
from sdapp.outputs import Result
from sdapp.stopwatch import timed


def published(results: Iterable[Result], publish: Callable[[Result], Result]) -> Iterator[Result]:
    """What `publish` makes of each result, in their order, each only when it is published.

    One batch at most waits for its publishing while the next is painted. A picture painted alone is waited for, so that a kill
    costs one picture at the most. What `publish` raises is raised at the next turn. However it ends, what was painted is
    published; where the painting was stopped by an SdappError, it is given out, too, before that is raised.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as writer:  # one, so that names and ledger follow the order; encoding lets other threads run
        try:
            for result in results:
                waiting.append(writer.submit(publish, result))
                together = result.record.batch_size if result.record else 1
                while waiting and (waiting[0].done() or len(waiting) > (together if together > 1 else 0)):
                    yield _next(waiting)
        except SdappError:
            yield from _rest(waiting)
            raise
        yield from _rest(waiting)


def saved(result: Result, output: Output) -> Result:
    """A result with the path where its picture is now, if it has one. Raises OutputError."""
    return replace(result, path=result.save(output) if result.picture else None)


def _rest(waiting: deque[Future[Result]]) -> Iterator[Result]:
    while waiting:
        yield _next(waiting)


def _next(waiting: deque[Future[Result]]) -> Result:
    with timed("waiting"):
        return waiting.popleft().result()
