"""Where the time of a run went; nothing is measured unless `profiled` was asked to."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PARTS = ("import", "load", "encode", "UNet", "decode", "convert", "save", "waiting")
Seconds = dict[str, float]
_lock = threading.Lock()
_spent: dict[bool, Seconds] = {}  # by whether it was the main thread; empty while nothing is measured


@contextmanager
def profiled(say: Callable[[str], object]) -> Iterator[None]:
    """Measure the parts of what runs inside, and `say` in the end what they took."""
    _spent.update({True: dict.fromkeys(PARTS, 0.0), False: dict.fromkeys(PARTS, 0.0)})
    started = time.perf_counter()
    try:
        yield
    finally:
        said = _format(time.perf_counter() - started, _spent[True], _spent[False])
        _spent.clear()
        say(said)


@contextmanager
def timed(part: str, settle: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Add the time of what runs inside to a part; `settle` waits until the device has done what it was given."""
    if not _spent:
        yield
        return
    seconds = _spent[threading.current_thread() is threading.main_thread()]
    settle()
    started = time.perf_counter()
    try:
        yield
        settle()
    finally:
        with _lock:
            seconds[part] += time.perf_counter() - started


def _format(total: float, main: Seconds, beside: Seconds) -> str:
    rest = {"the rest": total - sum(main.values()), "in all": total}
    lines = [f"{part:<10}{seconds:8.3f} s {seconds / total:6.1%}" for part, seconds in (main | rest).items()]
    lines += [
        f"{part:<10}{seconds:8.3f} s, beside the painting" for part, seconds in beside.items() if seconds
    ]
    return "\n".join(lines)
