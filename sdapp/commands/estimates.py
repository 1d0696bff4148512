"""Estimates of time and disk from what painting took on this machine before."""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from platformdirs import user_cache_path

from sdapp.commands.terminal import count
from sdapp.config import ModelSettings
from sdapp.errors import OutputError
from sdapp.jobs import Job, LoadKey
from sdapp.outputs.files import overwrite
from sdapp.records import Record, Result

RUNS = 6  # how many of the last runs count: the machine may have been busy in one of them
NEAR = 1.3  # ends of a range that are nearer than this are one figure
FEW_SECONDS = 10
WORKERS = (1, 8, 64)


@dataclass
class _Painted:
    """What the images of a run took that are alike."""

    images: int = 0
    unet_calls: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def add(self, record: Record, size: int) -> None:
        self.images += 1
        self.unet_calls += record.unet_calls
        self.seconds += record.seconds
        self.bytes += size


class History:
    """What UNet calls and files took in the last runs on this machine, by model, size and shortcuts.

    `load` is that of the images, or of one of them; the model of each is that of its job.
    """

    def __init__(self, load: LoadKey, path: Path | None = None) -> None:
        self._load, self._path = load, path
        self._known: dict[str, Any] = {}
        self._new: dict[str, _Painted] = {}
        with suppress(OSError, RuntimeError, ValueError):  # no home, no file yet, or a broken one
            self._path = path or user_cache_path("sdapp") / "history.json"
            known = json.loads(self._path.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def _kind(self, job: Job) -> str:
        guided = "guided" if job.guidance_scale > 1 else "unguided"
        shortcuts = "".join(f" {key} {value}" for key, value in job.shortcuts.items())
        size = f"{job.width}x{job.height}"
        if job.upscale:
            size += f" to {job.final_width}x{job.final_height} {job.upscale.method}"
        load = self._load.model_copy(update={key: getattr(job, key) for key in ModelSettings.model_fields})
        return f"{load.model_dump_json()} {size} {guided}{shortcuts}"

    def add(self, result: Result) -> None:
        """Take in an image that was published."""
        if result.record is None or result.path is None:
            return
        with suppress(OSError):  # moved away
            size = result.path.stat().st_size
            self._new.setdefault(self._kind(result.job), _Painted()).add(result.record, size)

    def save(self) -> None:
        """Keep the means of this run for later ones; drop them where they cannot be written."""
        for kind, new in self._new.items():
            before = self._known.get(kind)
            known = self._known[kind] = before if isinstance(before, dict) else {}
            means = {"seconds": new.seconds / max(1, new.unet_calls), "bytes": new.bytes / new.images}
            for name, figure in means.items():
                old = known.get(name)
                known[name] = [*(old if isinstance(old, list) else []), figure][-RUNS:]
        if self._new and self._path is not None and self._path.is_absolute():
            with suppress(OutputError):
                overwrite(self._path, [json.dumps(self._known).encode()])

    def expect(self, job: Job) -> tuple[float, float, float] | None:
        """Return an image's seconds in the fastest and in the slowest of the last runs, and its bytes.

        None if nothing like it was painted.
        """
        try:
            known = self._known[self._kind(job)]
            paces = [float(pace) for pace in known["seconds"][-RUNS:]]
            calls = max(1, job.unet_calls)
            return min(paces) * calls, max(paces) * calls, fmean(known["bytes"][-RUNS:])
        except (KeyError, TypeError, ValueError):
            return None


class Estimate:
    """Time and disk for images that are added one by one; unknown as soon as those of one image are."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._known: dict[str, tuple[float, float, float] | None] = {}  # of one image, by pack
        self._total: tuple[float, float, float] | None = (0.0, 0.0, 0.0)

    def add(self, job: Job, times: int = 1) -> None:
        """Add an image that is painted so many times and kept once."""
        if job.pack not in self._known:
            self._known[job.pack] = self._history.expect(job)
        total, image = self._total, self._known[job.pack]
        self._total = None
        if total and image:
            self._total = total[0] + times * image[0], total[1] + times * image[1], total[2] + image[2]

    def in_words(self, folder: Path) -> str:
        """Return the estimate as text, with the free space of the folder's disk."""
        if self._total is None:
            return "time and disk unknown: nothing like it was painted on this machine before"
        fast, slow, size = self._total
        text = f"{_span(fast, slow)}, {_bytes_text(size)}"
        with suppress(OSError):  # a folder that cannot be looked into
            places = (folder.resolve(), *folder.resolve().parents)
            free = shutil.disk_usage(next(place for place in places if place.exists())).free
            text += f" of {_bytes_text(free)} free"
            text += "; THAT IS MORE THAN THERE IS" if size > free else ""
        return text

    def on_workers(self) -> str:
        """Return the time that a cluster needs at this machine's pace, for several numbers of workers."""
        if self._total is None:
            return "time unknown"
        fast, slow, _ = self._total
        return "; ".join(f"{_span(fast / n, slow / n)} with {count(n, 'worker')}" for n in WORKERS)


def _span(fast: float, slow: float) -> str:
    """`a few seconds`, `about 2 min`, `40 s to 12 min`."""
    if slow < FEW_SECONDS:
        return "a few seconds"
    ends = dict.fromkeys((duration(fast), duration(slow)))
    return f"about {duration(slow)}" if slow < NEAR * fast or len(ends) == 1 else " to ".join(ends)


def duration(seconds: float) -> str:
    """`0.3 s`, `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _bytes_text(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
