"""Time other programs at the same work, each in an environment of its own (sdapp needs none of them):

python benchmarks/peers.py install    # stable-diffusion.cpp (compiled here), dgenerate, diffusers-workflow
python benchmarks/peers.py pace       # the shape of SD 1.5: stable-diffusion.cpp, sdapp, the plain pipeline
python benchmarks/peers.py commands   # whole commands: one image, a file of prompts, a grid of schedulers

`--only` takes a part of what is timed, or installed. What is not installed is not timed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from packaging.requirements import Requirement
from PIL import Image
from safetensors.torch import load_file, save_file

from models import CACHE, folder
from sdapp.models.files import POSTCARDS, read_json
from sides import Settings, Side, in_turns, prompts, report, rounds, tell_machine

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from original_layout import save_original

ENVIRONMENTS = CACHE / "peers"
PAINTERS = Path(__file__).with_name("painters.py")
SEED, GUIDANCE, SIZE, SERVER = 7, 7.5, 64, "http://127.0.0.1:8765"
SCHEDULERS = {  # the names of sdapp and of diffusers
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


# --- environments -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A package that is not installed beside sdapp."""

    package: str
    is_torch: bool = True  # it gets the torch that sdapp has, whatever it asks for
    any_version: bool = False  # of what it requires: it asks for versions that need a newer Python

    @property
    def name(self) -> str:
        return Requirement(self.package).name

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.name

    def installed(self) -> Distribution | None:
        found = distributions(
            name=self.name, path=[str(path) for path in self.folder.glob("lib/*/site-packages")]
        )
        return next(iter(found), None)


CPP, DGENERATE, WORKFLOW = (
    Peer("stable-diffusion-cpp-python==0.4.7", is_torch=False),
    Peer("dgenerate==5.0.0"),
    Peer("diffusers-workflow[server]==0.15.0", any_version=True),
)
PEERS = {peer.name: peer for peer in (CPP, DGENERATE, WORKFLOW)}


def install(peer: Peer) -> None:
    """Make the environment of a peer; compiles stable-diffusion.cpp for this processor."""
    venv.create(peer.folder, with_pip=True, clear=True)
    pip = partial(run, [str(peer.folder / "bin/python"), "-m", "pip", "install", "--quiet"])
    if not peer.is_torch:
        pip([peer.package], CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=ON")
        return
    torch_version = f"torch=={torch.__version__.split('+')[0]}"
    pip([torch_version, "torchvision"])
    pip(["--no-deps", peer.package])
    pip([torch_version, *required(peer)])
    if not torch.version.cuda:  # what PyPI has of these is made for CUDA, and cannot be imported without it
        run([str(peer.folder / "bin/python"), "-m", "pip", "uninstall", "--yes", "torchaudio"])
        [vision] = peer.folder.glob("lib/*/site-packages/torchvision")
        (vision / "_meta_registrations.py").write_text("")


def required(peer: Peer) -> list[str]:
    """What a peer requires, without torch and torchvision."""
    found = peer.installed()
    extras = Requirement(peer.package).extras or {""}
    wanted = [Requirement(line) for line in (found and found.requires) or ()]
    return [
        each.name if peer.any_version else f"{each.name}{each.specifier}"
        for each in wanted
        if each.name not in ("torch", "torchvision")
        and (each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras))
    ]


def run(command: Sequence[str], more: Sequence[str] = (), cwd: Path | None = None, **environ: str) -> None:
    """Run a command offline for models. Raises RuntimeError with what it printed if it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | environ
    done = subprocess.run([*command, *more], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join([*command, *more])}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


# --- seconds a step -----------------------------------------------------------------------------------------


def single_file(folder: Path, dtype: torch.dtype) -> Path:
    """A folder of Stable Diffusion 1.x as one file in the layout of the original checkpoints, made once."""
    path = folder.with_name(f"{folder.name}-{str(dtype).removeprefix('torch.')}.safetensors")
    if not path.exists():
        pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype)
        half = path.with_suffix(".part")  # so that one that was stopped is not taken for whole
        save_original(pipe, half)
        half.rename(path)
    return path


def painters(asked: argparse.Namespace) -> dict[str, Settings]:
    """What each side loads, of the same weights, and in which precision it computes."""
    made = folder("sd15", torch.float32)
    whole, small = single_file(made, torch.float32), single_file(made, torch.float16)
    sides: dict[str, Settings] = {
        "sdapp float32": {"model": str(whole), "dtype": "float32"},
        "sdapp bfloat16": {"model": str(small), "dtype": "bfloat16"},
        "diffusers float32": {"model": str(made), "dtype": "float32"},
        "diffusers bfloat16": {"model": str(made), "dtype": "bfloat16"},
    }
    if CPP.installed():
        sides |= {
            "stable-diffusion.cpp f32": {"model": str(whole), "dtype": "f32"},
            "stable-diffusion.cpp f16": {"model": str(small), "dtype": "f16"},
            "stable-diffusion.cpp q8_0": {"model": str(small), "dtype": "q8_0"},
        }
    return {name: side for name, side in sides.items() if asked.only is None or name in asked.only}


def pace(asked: argparse.Namespace) -> None:
    """Print what a step, an image, loading and memory cost each side, each in a process of its own."""
    same = {"prompt": prompts(1)[0], "seed": SEED, "guidance_scale": GUIDANCE}
    same |= {"size": asked.size, "steps": asked.steps, "threads": torch.get_num_threads()}
    sides: dict[str, Side] = {
        name: partial(paint, same | side | {"program": name.split()[0]})
        for name, side in painters(asked).items()
    }
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        report(in_turns(sides, asked.rounds, root))
        print_pace({name: root / name for name in sides})


def paint(settings: Settings, where: Path) -> None:
    """Paint an image with one program, in its environment."""
    python = CPP.folder / "bin/python" if ".cpp" in settings["program"] else Path(sys.executable)
    run([str(python), str(PAINTERS), json.dumps(settings)], cwd=where)


def print_pace(folders: Mapping[str, Path]) -> None:
    """Print the medians of what each side wrote, and how far its image is from that of the first side."""
    first = None
    print(f"{'':26}{'a step':>10}{'an image':>10}{'loading':>10}{'memory':>10}{'apart from the first':>22}")
    for name, where in folders.items():
        rounds = sorted(where.iterdir(), key=lambda each: int(each.name))
        times = [read_json(each / "times.json") for each in rounds[1:] or rounds]
        step = statistics.median(second for each in times for second in each["steps"])
        image, load, memory = (
            statistics.median(each[key] for each in times) for key in ("image", "load", "memory")
        )
        pixels = np.asarray(Image.open(rounds[-1] / "image.png").convert("RGB")).astype(float)
        first = pixels if first is None else first
        apart = f"{np.abs(pixels - first).mean():.2f} of 255"
        print(f"{name:26}{step:8.2f} s{image:8.2f} s{load:8.2f} s{memory:7.1f} GB{apart:>22}")


# --- whole commands -----------------------------------------------------------------------------------------


def older_layout(made: Path) -> Path:
    """A copy of postcards that older versions of transformers read too, as they read published models."""
    shutil.copytree(POSTCARDS, made, ignore=shutil.ignore_patterns("mask_model", "*.md"))
    weights = made / "text_encoder/model.safetensors"
    save_file(
        {f"text_model.{key}": value for key, value in load_file(weights).items()}, weights, {"format": "pt"}
    )
    words = read_json(made / "tokenizer/tokenizer.json")["model"]
    (made / "tokenizer/vocab.json").write_text(json.dumps(words["vocab"]))
    merges = "".join(f"{first} {second}\n" for first, second in words["merges"])
    (made / "tokenizer/merges.txt").write_text(f"#version: 0.2\n{merges}")
    return made


@dataclass(frozen=True)
class Task:
    """What every program paints: each prompt with each scheduler."""

    model: Path
    steps: int
    prompts: list[str]
    schedulers: list[str]

    def sides(self, only: Sequence[str] | None) -> dict[str, Side]:
        """The programs that are installed, or those of them that are named."""
        sides: dict[str, Side] = {"sdapp": self.sdapp}
        sides |= {"dgenerate": self.dgenerate} if DGENERATE.installed() else {}
        sides |= {"diffusers-workflow": self.diffusers_workflow} if WORKFLOW.installed() else {}
        return {name: side for name, side in sides.items() if only is None or name in only}

    def sdapp(self, where: Path) -> None:
        same = [f"--model={self.model}", f"--size={SIZE}x{SIZE}", f"--steps={self.steps}"]
        same += [f"--seed={SEED}", f"--guidance-scale={GUIDANCE}", "--device=cpu", "--dtype=float32"]
        [first, *more] = self.schedulers
        if more:
            command = ["grid", self.prompts[0], f"--x=scheduler={','.join(self.schedulers)}", "--out=images"]
        elif len(self.prompts) > 1:
            (where / "prompts.txt").write_text("\n".join(self.prompts))
            command = ["batch", "prompts.txt", f"--scheduler={first}", "--out=images"]
        else:
            command = ["generate", self.prompts[0], f"--scheduler={first}", "--out=images"]
        run([sys.executable, "-m", "sdapp.cli", *command, *same], cwd=where)

    def dgenerate(self, where: Path) -> None:
        command = [str(self.model), "--seeds", str(SEED), "--output-path", "images"]
        command += ["--prompts", *self.prompts]
        command += ["--inference-steps", str(self.steps), "--output-size", f"{SIZE}x{SIZE}"]
        command += ["--guidance-scales", str(GUIDANCE), "--schedulers"]
        command += [SCHEDULERS[name] for name in self.schedulers]
        command += ["--device", "cpu", "--dtype", "float32", "--offline-mode", "--no-stdin"]
        run([str(DGENERATE.folder / "bin/dgenerate"), *command], cwd=where)

    def diffusers_workflow(self, where: Path) -> None:
        """Its command needs its server, which is started and stopped with it."""
        workflow = where / "workflow.json"
        workflow.write_text(json.dumps(self.workflow()))
        programs = WORKFLOW.folder / "bin"
        server = subprocess.Popen(
            [programs / "dw-serve", "--trust-workflows", "--workspace", where],  # the model is elsewhere
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=(where / "server.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        try:
            while not answers(SERVER):
                if server.poll() is not None:
                    raise RuntimeError("dw-serve has stopped; start it by hand to see why")
                time.sleep(0.05)
            run([str(programs / "dw-run"), str(workflow)], cwd=where)
        finally:
            server.terminate()
            server.wait()

    def workflow(self) -> dict[str, Any]:
        """A step for each scheduler, which is run once for each prompt."""
        arguments = {"prompt": "item:prompt", "num_inference_steps": self.steps, "guidance_scale": GUIDANCE}
        load = {"model_name": str(self.model), "torch_dtype": "torch.float32"}
        steps = [
            {
                "name": name,
                "for_each": "variable:prompts",
                "pipeline": {
                    "configuration": {"component_type": "StableDiffusionPipeline"},
                    "scheduler": {"configuration": {"scheduler_type": SCHEDULERS[name]}},
                    "from_pretrained_arguments": load,
                    "arguments": arguments | {"width": SIZE, "height": SIZE},
                },
                "result": {"content_type": "image/png"},
            }
            for name in self.schedulers
        ]
        items = [{"prompt": prompt} for prompt in self.prompts]
        return {"id": "task", "seed": SEED, "variables": {"prompts": items}, "steps": steps}


def answers(address: str) -> bool:
    """Whether a server answers."""
    try:
        with urllib.request.urlopen(f"{address}/api/health"):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def commands(asked: argparse.Namespace) -> None:
    """Time each task as whole commands, from a fresh start."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        task = partial(Task, older_layout(root / "model"), asked.steps)
        tasks = {
            "one image": task(prompts(1), ["euler"]),
            f"{asked.prompts} prompts": task(prompts(asked.prompts), ["euler"]),
            f"{len(SCHEDULERS)} schedulers": task(prompts(1), [*SCHEDULERS]),
        }
        for name, each in tasks.items():
            print(f"{name}:")
            sides = each.sides(asked.only)
            report(in_turns(sides, asked.rounds, root / name))
            for side in sides:
                images = len(list((root / name / side / str(asked.rounds)).rglob("*.png")))
                wanted = len(each.prompts) * len(each.schedulers)
                assert images >= wanted, f"{side} painted {images} images of {wanted}"


def main(asked: argparse.Namespace) -> None:
    if asked.what == "install":
        for name in asked.only or PEERS:
            install(PEERS[name])
        return
    {"pace": pace, "commands": commands}[asked.what](asked)
    print(", ".join(f"{name} {found.version}" for name, peer in PEERS.items() if (found := peer.installed())))
    tell_machine(
        {"device": "cpu", "steps": asked.steps, "size": asked.size if asked.what == "pace" else SIZE}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("install", "pace", "commands"))
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=512, help="of the images of pace")
    parser.add_argument("--prompts", type=int, default=16, help="of the file of prompts")
    rounds(parser)
    main(parser.parse_args())
