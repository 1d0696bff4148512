"""The command `sdapp doctor`: what this machine has, what is wrong with it, and how to fix it."""

import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import psutil
import typer

from sdapp.commands.terminal import count
from sdapp.errors import UnavailableError
from sdapp.models.files import BUILT_IN
from sdapp.models.locate import locate

PACKAGES = {
    "torch": "", "diffusers": "", "transformers": "", "accelerate": "", "safetensors": "", "pillow": "",
    "pydantic": "", "typer": "", "scipy": "", "torchsde": "only the dpm++sde scheduler needs it",
}  # fmt: skip
LOW_DISK = 5 * 2**30
LOOK = 0.3  # seconds
BFLOAT16 = {
    True: "; with bfloat16 instructions",
    False: "; no bfloat16 instructions, float32 is far faster",
    None: "",
}
Facts = list[tuple[str, str]]


AsOneObject = Annotated[bool, typer.Option("--json", help="Print one JSON object: facts and problems.")]


def doctor(as_json: AsOneObject = False) -> None:
    """Print what is installed, which devices there are, what is wrong and how to fix it."""
    facts, problems = examine()
    if as_json:
        named: dict[str, list[str]] = {}
        for name, value in facts:
            named.setdefault(name or list(named)[-1], []).append(value)
        typer.echo(json.dumps({"facts": named, "problems": problems}, indent=2, ensure_ascii=False))
        return
    for name, value in facts:
        typer.echo(f"{name:<24}{value}")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    typer.echo("nothing is wrong" if not problems else f"{len(problems)} to fix")


def examine() -> tuple[Facts, list[str]]:
    """Look at this machine: names with their values, and one line for each problem with its fix."""
    problems: list[str] = []
    facts: Facts = [("python", sys.version.split()[0])]
    for package, use in PACKAGES.items():
        try:
            facts.append((package, version(package)))
        except PackageNotFoundError:
            facts.append((package, f"not installed; {use or 'sdapp needs it'}: pip install {package}"))
            problems += [] if use else [f"{package} is not installed; fix: pip install {package}"]
    facts += _devices(problems) + _room(problems) + _model_cache(problems)
    try:
        locate(BUILT_IN)
    except UnavailableError as exc:
        problems.append(f"the built-in {exc}; fix: pip install --force-reinstall sdapp")
    return facts, problems


def _devices(problems: list[str]) -> Facts:
    try:
        import torch
    except (ImportError, OSError) as exc:
        problems.append(f"torch cannot be imported: {exc}; reinstall it")
        return []
    from sdapp.diffusion.devices import has_bfloat16

    cores, threads = os.cpu_count() or 1, count(torch.get_num_threads(), "thread")
    facts: Facts = [
        ("cpu", f"{count(cores, 'core')}, torch uses {threads}{BFLOAT16[has_bfloat16()]}"),
        ("", f"other programs keep {cores * psutil.cpu_percent(LOOK) / 100:.1f} cores busy"),
    ]
    for index in range(torch.cuda.device_count()):
        try:
            free, total = map(_gib, torch.cuda.mem_get_info(index))
            facts.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {free} of {total} free"))
        except RuntimeError as exc:
            reason = str(exc).splitlines()[0]
            problems.append(f"cuda:{index} does not answer: {reason}; nvidia-smi shows what uses it")
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without it"
        facts.append(("cuda", f"none (this torch is built {built})"))
        if shutil.which("nvidia-smi"):
            way = "install torch for CUDA (pytorch.org)"
            problems.append(f"there is an NVIDIA driver, but torch finds no GPU; {way}")
    if torch.backends.mps.is_available():
        facts.append(("mps", "available"))
    return facts


def _room(problems: list[str]) -> Facts:
    facts: Facts = []
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        facts.append(("memory", f"{_gib(os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))} free"))
    free = shutil.disk_usage(".").free
    facts.append(("disk", f"{_gib(free)} free here"))
    if free < LOW_DISK:
        problems.append(f"only {_gib(free)} of disk are free here; a checkpoint takes 2 to 7 GiB")
    return facts


def _model_cache(problems: list[str]) -> Facts:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return [("model cache", f"{HF_HUB_CACHE} (empty)")]
    except (OSError, ValueError) as exc:
        problems.append(f"the model cache cannot be read: {exc}; set HF_HUB_CACHE to a folder")
        return []
    total = _gib(sum(repo.size_on_disk for repo in repos))
    models = sorted(f"{repo.repo_id}, {_gib(repo.size_on_disk)}" for repo in repos)
    return [("model cache", f"{HF_HUB_CACHE}, {total}"), *(("", model) for model in models)]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
