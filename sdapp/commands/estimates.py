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
    """Seconds for a UNet call and bytes of a file, by load of the model, size and shortcuts; kept between
    runs.
    """

    def __init__(self, load: LoadKey, path: Path | None = None) -> None:
        self.load, self.path = load, path or user_cache_path("sdapp") / "history.json"
        self._known: dict[str, Any] = {}
        self._is_changed = False
        with suppress(OSError, ValueError):  # none yet, or broken: then there is no estimate
            known = json.loads(self.path.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def _kind(self, job: Job) -> str:
        guided = "guided" if job.guidance_scale > 1 else "unguided"
        shortcuts = "".join(f" {key} {value}" for key, value in job.shortcuts.items())
        return f"{self.load.model_dump_json()} {job.width}x{job.height} {guided}{shortcuts}"

    def add(self, result: Result) -> None:
        """Take in an image that was published. `save` keeps the figures."""
        if result.record is None or result.path is None:
            return
        kind = self._known.setdefault(self._kind(result.job), {"seconds": [], "bytes": []})
        self._is_changed = True
        pace = result.record.seconds / max(1, result.record.unet_calls)
        with suppress(OSError, KeyError, TypeError, AttributeError):  # moved away; of another version
            for name, figure in (("seconds", pace), ("bytes", result.path.stat().st_size)):
                kind[name] = [*kind[name], figure][-MAX_FIGURES:]

    def save(self) -> None:
        """Keep the figures, if there are new ones; where they cannot be written, they are dropped."""
        if not self._is_changed:
            return
        with suppress(OSError, OutputError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            overwrite(self.path, [json.dumps(self._known).encode()])

    def seconds(self, job: Job) -> float | None:
        """The seconds that an image will take, by the median of earlier ones;

        None if there were none of its kind.
        """
        pace = self._median(job, "seconds")
        return None if pace is None else pace * job.unet_calls

    def bytes(self, job: Job) -> float | None:
        """The size of its file, in the same way."""
        return self._median(job, "bytes")

    def _median(self, job: Job, name: str) -> float | None:
        try:
            return float(median(self._known[self._kind(job)][name]))
        except (KeyError, TypeError, ValueError):
            return None


class Estimate:
    """Time and disk for images that are added one by one; unknown as soon as those of one image are."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.seconds: float | None = 0.0
        self.bytes: float | None = 0.0

    def add(self, job: Job, times: int = 1) -> None:
        """Add an image that is painted so many times and kept once."""
        seconds, size = self._history.seconds(job), self._history.bytes(job)
        self.seconds = None if self.seconds is None or seconds is None else self.seconds + times * seconds
        self.bytes = None if self.bytes is None or size is None else self.bytes + size

    def in_words(self, folder: Path) -> str:
        """The estimate in words, with the disk space that there is for the folder."""
        if self.seconds is None or self.bytes is None:
            return "time and disk unknown: nothing like it was painted on this machine before"
        places = (folder.resolve(), *folder.resolve().parents)
        free = shutil.disk_usage(next(place for place in places if place.exists())).free
        short = "; THAT IS MORE THAN THERE IS" if self.bytes > free else ""
        return f"about {duration(self.seconds)}, {_bytes_text(self.bytes)} of {_bytes_text(free)} free{short}"


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
