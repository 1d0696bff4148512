"""Several runs on one folder: an image is painted by the run that holds its lease, a file that only one can make."""

import json
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sdapp.outputs.files import claim_name, disk_errors, this_host, unfinished

BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0  # without a heartbeat; a run of this host is dead as soon as its process is gone


class Leases:
    """What this run holds in a folder; every lease is given back at the end of the `with`.

    A lease is the file `.sdapp-<job id>.lease` with the host and the process of its holder; its modification time is the
    heartbeat. Of a run that died, the next run takes the leases over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        holder = {
            "host": this_host(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
            "run": secrets.token_hex(4),
        }
        self._mark = json.dumps(holder).encode()
        self._held: set[Path] = set()
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._heart.join()
        for lease in list(self._held):
            self._drop(lease)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            for lease in list(self._held):
                with suppress(
                    OSError
                ):  # taken over while this machine slept: publishing is exclusive, nothing is lost
                    os.utime(lease)

    def claim(self, job: str) -> bool:
        """Take the lease of a job, if it is free or its holder is dead. Raises OutputError where nothing can be written."""
        lease, ours = self._path(job), unfinished(self.folder)
        with disk_errors(lease):
            try:
                ours.write_bytes(self._mark)
                if claim_name(ours, lease) or (
                    _bury(lease, now=ours.stat().st_mtime) and claim_name(ours, lease)
                ):
                    self._held.add(lease)
                    return True
                return False
            finally:
                ours.unlink(missing_ok=True)

    def release(self, job: str) -> None:
        """Give a lease back; what became of its job is on the disk by now."""
        self._drop(self._path(job))

    def holds(self, job: str) -> bool:
        """Whether the lease of a job is still this run's."""
        try:
            return self._path(job).read_bytes() == self._mark
        except OSError:
            return False

    def holder(self, job: str) -> str:
        """Who holds the lease of a job, in words."""
        try:
            holder = _parse_holder(self._path(job).read_bytes())
        except OSError:  # given back by now
            return "another run"
        return f"process {holder.get('process', '?')} on {holder.get('host', '?')}"

    def is_alone(self) -> bool:
        """Whether nobody else holds anything in the folder."""
        return not set(self.folder.glob(".sdapp-*.lease")) - self._held

    def _path(self, job: str) -> Path:
        return self.folder / f".sdapp-{job}.lease"

    def _drop(self, lease: Path) -> None:
        self._held.discard(lease)
        with suppress(OSError):  # gone
            if lease.read_bytes() == self._mark:  # else somebody took it over
                lease.unlink()


def sweep(folder: Path) -> None:
    """Remove what dead runs left in a folder: half-written files and leases."""
    probe = unfinished(folder)
    with disk_errors(probe):
        probe.touch()
        now = probe.stat().st_mtime  # by the clock of the disk, which may not be this machine's
        probe.unlink()
    for lease in folder.glob(".sdapp-*.lease"):
        _bury(lease, now)
    for part in folder.glob(".sdapp-*-[0-9]*-*.part"):
        host, process, _ = part.stem.removeprefix(".sdapp-").rsplit("-", 2)
        with suppress(OSError):
            if _is_dead({"host": host, "process": int(process)}, part.stat().st_mtime, now):
                part.unlink()


def _bury(lease: Path, now: float) -> bool:
    """Remove the lease of a dead run; whether it is gone. Of two runs that try, one moves it aside."""
    try:
        holder, beat = lease.read_bytes(), lease.stat().st_mtime
        if not _is_dead(_parse_holder(holder), beat, now):
            return False
        aside = unfinished(lease.parent)
        lease.rename(aside)
    except FileNotFoundError:  # given back, or another was quicker
        return True
    try:
        if (
            aside.read_bytes() != holder
        ):  # between the two looks another buried it and took it: that one's it stays
            claim_name(aside, lease)
            return False
        return True
    finally:
        aside.unlink(missing_ok=True)


def _parse_holder(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:  # of a disk without links, where a lease is empty for a moment
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, Any], beat: float, now: float) -> bool:
    """Whether a run has ended: its heartbeat is old, or it is of this host and its process is gone or another's."""
    if now - beat > DEAD_SECONDS:
        return True
    process = holder.get("process")
    if holder.get("host") != this_host() or not isinstance(process, int):
        return False
    began = _started(process)
    return began is None or abs(began - holder.get("started", began)) > 10


def _started(process: int) -> float | None:
    """When a process of this host began, in seconds since the epoch; None if there is none."""
    import psutil

    try:
        return float(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None
