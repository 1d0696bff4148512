"""Leases: of several runs on one folder, only the one that holds the lease of an image paints it."""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from sdapp.outputs.files import claim_name, disk_errors, this_host, unfinished

BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0  # without a heartbeat; a run of this host is dead as soon as its process is gone
LEASES = ".sdapp-*.lease"


class Leases:
    """The leases that this run holds in a folder; they are released at the end of the `with`.

    A lease is the file `.sdapp-<job id>.lease` with the host and process of its holder; its modification time
    is the heartbeat. Where the disk has hard links, all leases of a run are links to one file. Other runs
    take over the leases of a run that died.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        process = {"process": os.getpid(), "started": _started(os.getpid())}
        self._mark = json.dumps({"host": this_host(), **process, "run": secrets.token_hex(4)}).encode()
        self.own = unfinished(folder)  # what the leases are links to
        self._held: set[str] = set()  # ids of jobs
        self._has_inherited = False
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        for job_id in list(self._held):
            self.release(job_id)
        with suppress(OSError):
            self.own.unlink()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            for path in (self.own, *map(self._path, list(self._held))):
                # It fails if another run has taken the lease over, while this machine was suspended.
                with suppress(OSError):
                    os.utime(path)

    def claim(self, job_id: str) -> bool:
        """Take the lease of a job if it is free or its holder is dead. Raises OutputError."""
        lease = self._path(job_id)
        with disk_errors(lease):
            free = self._take(lease)
            if not free:
                os.utime(self.own)
                free = _remove_if_dead(lease, now=self.own.stat().st_mtime) and self._take(lease)
                self._has_inherited |= free
        if free:
            self._held.add(job_id)
        return free

    def take_inherited(self) -> bool:
        """Whether, since the last call, a lease came from a dead run, which may not have told its image."""
        found, self._has_inherited = self._has_inherited, False
        return found

    def _take(self, lease: Path) -> bool:
        """Make a lease, and return whether its name was free."""
        if not self.own.exists():  # yet; or there are no links here, and the last lease took it
            self.own.write_bytes(self._mark)
        return claim_name(self.own, lease)

    def release(self, job_id: str) -> None:
        """Give up the lease of a job, after its result was published."""
        self._held.discard(job_id)
        with suppress(OSError):  # it is gone
            if self.holds(job_id):  # else another run has taken it over
                self._path(job_id).unlink()

    def holds(self, job_id: str) -> bool:
        """Whether this run still holds the lease of a job."""
        lease = self._path(job_id)
        try:
            is_ours = self.own.exists() and lease.samefile(self.own)
            return is_ours or lease.read_bytes() == self._mark
        except OSError:
            return False

    def holder(self, job_id: str) -> str:
        """Who holds the lease of a job, as text."""
        try:
            holder = _parse_holder(self._path(job_id).read_bytes())
        except OSError:  # it was released
            return "another run"
        return f"process {holder.get('process', '?')} on {holder.get('host', '?')}"

    def _path(self, job_id: str) -> Path:
        return self.folder / f".sdapp-{job_id}.lease"


def in_use(folder: Path) -> bool:
    """Whether any run holds a lease in a folder."""
    return any(_own_files(folder, LEASES))


def sweep(folder: Path) -> None:
    """Remove what dead runs left in a folder: half-written files, and leases if no run is alive.

    A run that is alive takes them over when it comes to them, and looks then what became of the image.
    """
    probe = unfinished(folder)
    with disk_errors(probe):
        probe.touch()
        now = probe.stat().st_mtime  # by the clock of the disk, which may not be this machine's
        probe.unlink()
    leases = [*_own_files(folder, LEASES)]
    if all(_is_dead_or_gone(lease, now) for lease in leases):
        for lease in leases:
            _remove_if_dead(lease, now)
    for part in [*_own_files(folder, ".sdapp-*-[0-9]*-*.part")]:
        host, process, _ = part.stem.removeprefix(".sdapp-").rsplit("-", 2)
        with suppress(OSError):
            if _is_dead({"host": host, "process": int(process)}, part.stat().st_mtime, now):
                part.unlink()


def _own_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files by a pattern of names; `glob` would first make a list of all files, also of 100,000 images."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from (folder / entry.name for entry in entries if fnmatchcase(entry.name, pattern))


def _is_dead_or_gone(lease: Path, now: float) -> bool:
    try:
        return _is_dead(_parse_holder(lease.read_bytes()), lease.stat().st_mtime, now)
    except FileNotFoundError:
        return True


def _remove_if_dead(lease: Path, now: float) -> bool:
    """Remove the lease if its run is dead, and return whether it is gone; of two runs, one renames it."""
    try:
        holder, beat = lease.read_bytes(), lease.stat().st_mtime
        if not _is_dead(_parse_holder(holder), beat, now):
            return False
        aside = unfinished(lease.parent)
        lease.rename(aside)
    except FileNotFoundError:  # released, or another run was quicker
        return True
    try:
        if aside.read_bytes() == holder:
            return True
        claim_name(aside, lease)  # another run took it after it was read: put it back
        return False
    finally:
        aside.unlink(missing_ok=True)


def _parse_holder(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:  # on a disk without links, a lease is empty for a moment
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, Any], beat: float, now: float) -> bool:
    """Whether a run has ended: its heartbeat is old, or its process on this host is gone."""
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
