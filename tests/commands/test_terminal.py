"""The command line as a process of its own, with streams and folders that are closed, full or missing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EMOJI = Path(__file__).parents[1] / "cases" / "13-cp1252-stdout" / "emoji.txt"
NOBODY = (
    "import pwd; pwd.getpwuid = {}.__getitem__; from sdapp.cli import run; run()"  # a uid without an entry
)
FAST = ("--steps", "1", "--seed", "7", "--out", "out")
Shell = Callable[..., subprocess.CompletedProcess[str]]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run sdapp as a process; `redirect` is what a shell does to its streams, such as `2>&-`."""

    def run(*arguments: str, redirect: str = "", code: str = "", **variables: str | None) -> Any:
        given: dict[str, str | None] = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
        environment = {name: value for name, value in given.items() if value is not None}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        process = [sys.executable, *(["-c", code] if code else ["-m", "sdapp.cli"]), *arguments]
        script = ["bash", "-o", "pipefail", "-c", f'"$@" {redirect}', "bash", *process]
        return subprocess.run(
            script, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
        )

    return run


@pytest.mark.model
def test_an_image_needs_neither_streams_nor_a_home(shell: Shell, tmp_path: Path) -> None:
    nowhere = {"HOME": None, "XDG_CACHE_HOME": None}
    result = shell("generate", "a cat", *FAST, redirect="<&- >&- 2>&-", code=NOBODY, **nowhere)
    assert result.returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-cat-7.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no folder named ~


@pytest.mark.model
@needs_full
def test_a_full_stdout_is_one_error_and_loses_no_image(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a red house\na cat\n", encoding="utf-8")
    result = shell("batch", "two.txt", *FAST, redirect=">/dev/full", HOME="/dev/null", XDG_CACHE_HOME=None)
    note, error = result.stderr.splitlines()
    assert note.startswith("note: 2 images: ")
    assert error == (
        "error: cannot write to standard output: No space left on device; finished images are safe"
    )
    assert result.returncode == 74
    assert list((tmp_path / "out").glob("*.png"))


@needs_full
@pytest.mark.parametrize(
    "arguments", ["--help", "batch --help", "schedulers", "config schema", "config show"]
)
def test_a_full_stdout_is_told_by_every_command(arguments: str, shell: Shell) -> None:
    result = shell(*arguments.split(), redirect=">/dev/full")
    assert (result.returncode, result.stderr.count("\n")) == (74, 1)


@needs_full
def test_notes_and_errors_that_cannot_be_printed_change_nothing(shell: Shell) -> None:
    result = shell("batch", str(EMOJI), "--dry-run", *FAST, redirect="2>/dev/full")
    assert (result.returncode, result.stdout.count("\n")) == (0, 2)
    assert shell("schedulers", "foo", redirect="2>/dev/full").returncode == 2


@pytest.mark.parametrize("arguments", ["--help", "schedulers"])
def test_a_closed_pipe_ends_a_command_with_a_word_and_not_as_a_bug(arguments: str, shell: Shell) -> None:
    result = shell(*arguments.split(), redirect="| true")
    assert (result.returncode, result.stdout) == (141, "")
    assert result.stderr == (
        "stopped: nothing reads the output of this command any more; finished images are kept\n"
    )


def test_letters_that_stdout_lacks_are_escaped(shell: Shell) -> None:
    result = shell("batch", str(EMOJI), "--dry-run", *FAST, PYTHONIOENCODING="cp1252")
    prompts = [line.rpartition("\t")[2] for line in result.stdout.splitlines()]
    assert result.returncode == 0
    assert prompts == [r"a red house \ud83c\udfe0 \u65e5\u672c", "a cat"]


def test_a_closed_stdin_gives_no_prompts(shell: Shell) -> None:
    result = shell("batch", "-", "--dry-run", *FAST, redirect="<&-")
    assert (result.returncode, result.stdout) == (66, "")
    assert result.stderr == ("error: -: standard input is closed; pipe the prompts into it, or give a file\n")


def test_a_folder_that_was_deleted_is_told(shell: Shell) -> None:
    leave = 'import os; os.mkdir("gone"); os.chdir("gone"); os.rmdir(os.getcwd());'
    result = shell("config", "show", code=f"{leave} from sdapp.cli import run; run()")
    assert (result.returncode, result.stdout) == (66, "")
    assert result.stderr == "error: the folder of this shell was deleted; change to another one (cd)\n"


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("link", "link is a link to nowhere, which does not exist"),
        ("link/out", "link is a link to nowhere, which does not exist"),
        ("file", "file is a file, not a folder"),
        ("file/out", "file is a file, not a folder"),
    ],
)
def test_what_keeps_out_from_being_a_folder_is_told(out: str, reason: str, sdapp: Callable[..., Any]) -> None:
    Path("link").symlink_to("nowhere")
    Path("file").touch()
    result = sdapp("generate", "a cat", "--out", out)
    assert result.exit_code == 73
    assert result.stderr == f"error: output.dir: cannot write to {out}: {reason}; choose another with --out\n"
