import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdapp.batches.leases import DEAD_SECONDS, Leases, in_use, sweep
from sdapp.outputs.files import this_host, unfinished


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def lease(folder: Path, content: object, age: float = 0) -> Path:
    path = folder / ".sdapp-abc.lease"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture(params=["with links", "without links"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and one without, such as exFAT."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "without links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("disk")
def test_of_two_runs_one_gets_a_lease_and_the_other_when_it_is_given_back(tmp_path: Path) -> None:
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.claim("abc")
        assert not other.claim("abc")
        assert (one.holds("abc"), other.holds("abc")) == (True, False)
        assert in_use(tmp_path)
        assert other.holder("abc") == f"process {os.getpid()} on {this_host()}"
        other.release("abc")  # which is not its own
        assert one.holds("abc")
        one.release("abc")
        assert other.claim("abc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("disk")
def test_a_run_holds_many_leases_and_gives_each_back_alone(tmp_path: Path) -> None:
    with Leases(tmp_path) as leases:
        assert all(leases.claim(job_id) for job_id in ("a", "b", "c"))
        leases.release("b")
        assert [leases.holds(job_id) for job_id in ("a", "b", "c")] == [True, False, True]
        assert leases.claim("b")
    assert list(tmp_path.iterdir()) == []


def test_leases_go_on_after_another_run_has_swept_away_what_they_are_links_to(tmp_path: Path) -> None:
    """So it may be after this machine was suspended."""
    with Leases(tmp_path) as leases:
        assert leases.claim("a")
        for part in tmp_path.glob("*.part"):
            part.unlink()
        assert leases.claim("b")
        assert leases.holds("a")
        assert leases.holds("b")


def test_the_lease_of_a_dead_run_is_taken_over(dead: int, tmp_path: Path) -> None:
    lease(tmp_path, {"host": this_host(), "process": dead, "started": 1.0})
    with Leases(tmp_path) as leases:
        assert leases.claim("abc")


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    lease(tmp_path, {"host": this_host(), "process": os.getpid(), "started": 1.0})
    with Leases(tmp_path) as leases:
        assert leases.claim("abc")


@pytest.mark.parametrize("content", [{"host": "elsewhere", "process": 1, "started": 1.0}, "", "[1]", "{}"])
@pytest.mark.parametrize(("age", "free"), [(0, False), (DEAD_SECONDS * 2, True)])
def test_of_runs_elsewhere_the_heartbeat_decides(
    content: object, age: float, free: bool, tmp_path: Path
) -> None:
    lease(tmp_path, content, age)
    with Leases(tmp_path) as leases:
        assert leases.claim("abc") is free


def test_a_run_that_lost_its_lease_leaves_the_new_one_alone(tmp_path: Path) -> None:
    with Leases(tmp_path) as sleeper:
        assert sleeper.claim("abc")
        os.utime(tmp_path / ".sdapp-abc.lease", (0, 0))
        with Leases(tmp_path) as other:
            assert other.claim("abc")
            assert not sleeper.holds("abc")
            sleeper.release("abc")
            assert other.holds("abc")


def test_only_what_no_living_run_uses_is_swept_away(dead: int, tmp_path: Path) -> None:
    ours, theirs = unfinished(tmp_path), tmp_path / ".sdapp-elsewhere-1-ab.part"
    gone, old = tmp_path / f".sdapp-{this_host()}-{dead}-ab.part", tmp_path / ".sdapp-elsewhere-2-ab.part"
    for part in (ours, theirs, gone, old):
        part.touch()
    os.utime(old, (0, 0))
    orphan = lease(tmp_path, {"host": this_host(), "process": dead, "started": 1.0})
    with Leases(tmp_path) as leases:
        assert leases.claim("def")
        sweep(tmp_path)
        kept = [leases.own, ours, theirs, tmp_path / ".sdapp-def.lease", orphan]
        assert sorted(tmp_path.iterdir()) == sorted(kept)
        assert not leases.take_inherited()
        assert leases.claim("abc")
        assert (leases.take_inherited(), leases.take_inherited()) == (True, False)
    lease(tmp_path, {"host": this_host(), "process": dead, "started": 1.0})
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, theirs])


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="containers are Linux")
def test_a_container_with_the_name_of_its_host_is_another_host() -> None:
    say = [sys.executable, "-c", "from sdapp.outputs.files import this_host; print(this_host())"]
    inside = subprocess.run(
        ["unshare", "--user", "--pid", "--fork", *say], capture_output=True, text=True, check=False
    )
    if inside.returncode:
        pytest.skip(f"no containers here: {inside.stderr}")
    assert inside.stdout.strip() != this_host()
    assert (
        len({subprocess.run(say, capture_output=True, text=True, check=True).stdout.strip(), this_host()})
        == 1
    )
