"""Estimates of time and disk from what painting took on this machine before."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from platformdirs import user_cache_path

from sdapp.errors import OutputError
from sdapp.jobs import Job, LoadKey
from sdapp.outputs.files import overwrite
from sdapp.records import Result

MAX_FIGURES = 64  # figures of a kind


class History:
    """What UNet calls and files took on this machine, by load of the model, size and shortcuts."""

    def __init__(self, load: LoadKey, path: Path | None = None) -> None:
        self._load, self._path = load, path
        self._known: dict[str, Any] = {}
        self._is_changed = False
        with suppress(OSError, RuntimeError, ValueError):  # no home, no file yet, or a broken one
            self._path = path or user_cache_path("sdapp") / "history.json"
            known = json.loads(self._path.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def _kind(self, job: Job) -> str:
        guided = "guided" if job.guidance_scale > 1 else "unguided"
        shortcuts = "".join(f" {key} {value}" for key, value in job.shortcuts.items())
        return f"{self._load.model_dump_json()} {job.width}x{job.height} {guided}{shortcuts}"

    def add(self, result: Result) -> None:
        """Take in an image that was published."""
        if result.record is None or result.path is None:
            return
        kind = self._known.setdefault(self._kind(result.job), {"seconds": [], "bytes": []})
        self._is_changed = True
        pace = result.record.seconds / max(1, result.record.unet_calls)
        with suppress(OSError, KeyError, TypeError, AttributeError):  # moved away; of another version
            for name, figure in (("seconds", pace), ("bytes", result.path.stat().st_size)):
                kind[name] = [*kind[name], figure][-MAX_FIGURES:]

    def save(self) -> None:
        """Keep new figures for later runs; drop them where they cannot be written."""
        if self._is_changed and self._path is not None and self._path.is_absolute():
            with suppress(OutputError):
                overwrite(self._path, [json.dumps(self._known).encode()])

    def expect(self, job: Job) -> tuple[float, float] | None:
        """Return the seconds and bytes of an image by the medians of its kind; None if there are none."""
        try:
            known = self._known[self._kind(job)]
            return float(median(known["seconds"])) * job.unet_calls, float(median(known["bytes"]))
        except (KeyError, TypeError, ValueError):
            return None


class Estimate:
    """Time and disk for images that are added one by one; unknown as soon as those of one image are."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._total: tuple[float, float] | None = (0.0, 0.0)

    def add(self, job: Job, times: int = 1) -> None:
        """Add an image that is painted so many times and kept once."""
        image = self._history.expect(job)
        if self._total and image:
            self._total = (self._total[0] + times * image[0], self._total[1] + image[1])
        else:
            self._total = None

    def in_words(self, folder: Path) -> str:
        """Return the estimate as text, with the free space of the folder's disk."""
        if self._total is None:
            return "time and disk unknown: nothing like it was painted on this machine before"
        seconds, size = self._total
        text = f"about {duration(seconds)}, {_bytes_text(size)}"
        with suppress(OSError):  # a folder that cannot be looked into
            places = (folder.resolve(), *folder.resolve().parents)
            free = shutil.disk_usage(next(place for place in places if place.exists())).free
            text += f" of {_bytes_text(free)} free"
            text += "; THAT IS MORE THAN THERE IS" if size > free else ""
        return text


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _bytes_text(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
