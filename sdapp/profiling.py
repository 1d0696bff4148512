"""Measure where the time of a run goes; nothing is measured outside `profiled`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PARTS = ("import", "load", "LoRA", "encode", "UNet", "upscale", "decode", "convert", "save", "waiting")
Seconds = dict[str, float]
_lock = threading.Lock()
_spent: dict[bool, Seconds] = {}  # keys: whether it was the main thread; empty unless something is measured


@contextmanager
def profiled(report: Callable[[str], object]) -> Iterator[None]:
    """Measure the parts of what runs inside, and give `report` a table of their seconds at the end."""
    _spent.update({True: dict.fromkeys(PARTS, 0.0), False: dict.fromkeys(PARTS, 0.0)})
    started = time.perf_counter()
    try:
        yield
    finally:
        table = _format(time.perf_counter() - started, _spent[True], _spent[False])
        _spent.clear()
        report(table)


@contextmanager
def timed(part: str, settle: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Add the seconds of what runs inside to a part of PARTS; `settle` waits until the device is idle."""
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
    lines += [f"{part} in the background{seconds:8.3f} s" for part, seconds in beside.items() if seconds]
    return "\n".join(lines)
