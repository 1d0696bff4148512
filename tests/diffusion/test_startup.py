import gc
import subprocess
import sys
from pathlib import Path

import pytest

from sdapp.diffusion.startup import importing
from sdapp.models.locate import locate

IN_A_SHELL = """
import atexit, sys
from sdapp.cli import run
atexit.register(lambda: print("what was to be done in the end"))
sys.argv = ["sdapp", *sys.argv[1:]]
run()
"""


def in_a_shell(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IN_A_SHELL, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["generate", "a cat", "--seed", "7", "--set", "steps=1"], 0),
        (["generate", "a cat", "--set", "scheduler={name: unipc, options: {solver_type: other}}"], 2),
        (["generate", "a cat", "--steps", "0"], 2),
        (["--version"], 0),
    ],
    ids=["an image", "an error after torch", "an error before it", "without torch"],
)
def test_however_it_ends_the_exit_code_and_what_was_printed_are_kept(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    run = in_a_shell(tmp_path, *arguments)
    assert run.returncode == code, run.stderr
    assert run.stdout.endswith("what was to be done in the end\n")
    assert ("error: " in run.stderr) == (code != 0)
    assert len(list(tmp_path.glob("outputs/*.png"))) == (arguments[0] == "generate" and code == 0)


def test_a_script_finds_its_garbage_collection_as_it_was() -> None:
    frozen = gc.get_freeze_count()
    with importing(locate("postcards")):
        assert gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
    gc.disable()
    try:
        with importing(locate("postcards"), ours=True):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_script_sees_no_advice_of_upstream_and_keeps_its_logging(tmp_path: Path) -> None:
    script = (
        "import logging, sdapp; logger = logging.getLogger('transformers.utils.import_utils'); "
        "sdapp.generate('a cat', seed=7, steps=1); assert not (logger.filters or logger.level)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
