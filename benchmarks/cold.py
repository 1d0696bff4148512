"""Time whole commands, and the same with diffusers alone: python benchmarks/cold.py words, image or imports

words: help, schedulers and the check of a config, compared with `diffusers-cli --help`. image: one image,
compared with the shortest diffusers script. imports: what an image must import, compared with torch alone.
"""

import argparse
import compileall
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import sdapp
from sdapp.models.files import read_json
from sides import Settings, Side, flags, in_turns, report, rounds, settings, tell_machine

SCRIPT = """
import torch
from diffusers import DPMSolverMultistepScheduler, {pipeline}
pipe = {pipeline}.from_pretrained({model!r}, dtype=torch.{dtype}, safety_checker=None)
pipe.to({device!r})
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
size, generator = {{"width": {width}, "height": {height}}}, torch.Generator("cpu").manual_seed(7)
image = pipe("a red house on a beach", num_inference_steps={steps}, generator=generator, **size).images[0]
image.save("script.png")
"""
IMPORTS = {
    "torch": "import torch",
    "and torch._dynamo": "import torch._dynamo",
    "and scipy.stats": "import torch._dynamo, scipy.stats",
    "and CLIP": "import torch._dynamo, scipy.stats; from transformers import CLIPTextModel",
    "the pipeline": "from diffusers import StableDiffusionPipeline",
    "the pipeline by sdapp": "import sdapp.pipelines",
    "sdapp without it": "import sdapp.cli",
}
SDAPP, DIFFUSERS = "sdapp.cli", "diffusers.commands.diffusers_cli"
SD15 = Path(__file__).parents[1] / "configs" / "sd15.yaml"


def process(arguments: list[str], folder: Path) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=folder)


def words(_: Settings) -> dict[str, Side]:
    """What paints nothing."""
    commands = {
        "diffusers-cli --help": [DIFFUSERS, "--help"],
        "sdapp --help": [SDAPP, "--help"],
        "sdapp schedulers": [SDAPP, "schedulers"],
        "sdapp config check": [SDAPP, "config", "check", str(SD15)],
    }
    return {name: partial(process, ["-m", *command]) for name, command in commands.items()}


def image(both: Settings) -> dict[str, Side]:
    """One image, by a script and by sdapp."""
    keys = [f"--{key}={both[key]}" for key in ("model", "device", "dtype", "steps")]
    ours = [
        SDAPP,
        "generate",
        "a red house on a beach",
        "--seed=7",
        f"--size={both['width']}x{both['height']}",
        *keys,
    ]
    pipeline = read_json(Path(both["model"]) / "model_index.json")["_class_name"]
    return {
        "script": partial(process, ["-c", SCRIPT.format(**both, pipeline=pipeline)]),
        "sdapp generate": partial(process, ["-m", *ours]),
    }


def imports(_: Settings) -> dict[str, Side]:
    """Imports, without the garbage collection that sdapp leaves out, and without the end of the process."""
    around = "import gc, os; gc.disable(); {}; os._exit(0)"
    return {name: partial(process, ["-c", around.format(code)]) for name, code in IMPORTS.items()}


WHAT = {"words": words, "image": image, "imports": imports}


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"steps": asked.steps}
    compileall.compile_dir(Path(sdapp.__file__).parent, quiet=1)  # as when it is installed
    with tempfile.TemporaryDirectory() as temporary:
        report(in_turns(WHAT[asked.what](both), asked.rounds, Path(temporary)))
    tell_machine(both)


if __name__ == "__main__":
    parser = flags(__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--steps", type=int, default=20)
    rounds(parser, default=5)
    main(parser.parse_args())
