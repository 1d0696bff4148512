import gc
import os
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

SCRIPT = """
import sys
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32, safety_checker=None)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
pipe("a cat", num_inference_steps=1).images[0].save("script.png")
print(*sys.modules)
"""
COMMAND = """
import atexit, sys
from sdapp.cli import run
atexit.register(lambda: print(*sys.modules))
sys.argv = ["sdapp", "generate", "a cat", "--seed=7", "--steps=1"]
run()
"""
ENVIRONMENT = """
import atexit, os, sys
from sdapp.cli import run
atexit.register(lambda: print(os.environ.get("GOMP_SPINCOUNT")))
sys.argv = ["sdapp", "--version"]
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


def modules(folder: Path, code: str, *arguments: str) -> set[str]:
    """The modules that are imported at the end of a program, which prints them in its last line."""
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_an_image_imports_what_the_shortest_script_does_and_little_more(tmp_path: Path) -> None:
    """Pipelines share parts, so that of each other task is one small module; the rest is the command line."""
    more = modules(tmp_path, COMMAND) - modules(tmp_path, SCRIPT, str(locate("postcards").path))
    pipeline = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_"
    upstream = {name for name in more if name.startswith(("torch.", "diffusers.", "transformers.", "scipy."))}
    assert upstream == {f"{pipeline}img2img", f"{pipeline}inpaint"}
    packages = {name.partition(".")[0] for name in more if not name.startswith("_")}
    assert packages - {"diffusers", "PIL"} - sys.stdlib_module_names <= {
        "sdapp", "typer", "shellingham", "rich", "annotated_doc", "platformdirs", "psutil", "yaml",
        "pydantic", "pydantic_core", "annotated_types", "typing_inspection",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_of_the_command_wait_as_the_user_says(given: dict[str, str], spins: str) -> None:
    """GOMP_SPINCOUNT would win over OMP_WAIT_POLICY."""
    usual = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    run = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT], env=usual | given, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == spins
