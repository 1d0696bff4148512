"""Real checkpoints' forms: a Hub model in the cache, and a single file. Each in a process whose cache is its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
NAME = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def cache(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A Hub cache that holds the tiny model under the name of Stable Diffusion 1.5."""
    repo = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(tiny(), repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def generate(
    cache: Path, *arguments: object, environment: Mapping[str, str] = OFFLINE
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "sdapp.cli",
        "generate",
        "a cat",
        "--steps",
        "2",
        "--seed",
        "7",
        *map(str, arguments),
    ]
    return subprocess.run(
        command,
        cwd=cache.parent,
        env=os.environ | {"HF_HUB_CACHE": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def pixels(run: subprocess.CompletedProcess[str], cache: Path) -> np.ndarray:
    assert run.returncode == 0, run.stderr
    return np.asarray(Image.open(cache.parent / run.stdout.strip())).astype(int)


def test_a_hub_model_in_the_cache_needs_no_network_and_its_commit_is_kept(cache: Path) -> None:
    run = generate(cache, "--model", NAME, "--json")
    assert run.returncode == 0, run.stderr
    path = cache.parent / json.loads(run.stdout)["path"]
    assert json.loads(Image.open(path).info["sdapp"])["job"]["revision"] == COMMIT


def test_a_full_commit_in_the_cache_needs_no_network(cache: Path) -> None:
    """The Hub is allowed here, at an address where nothing answers."""
    environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    run = generate(cache, "--model", NAME, "--set", f"revision={COMMIT}", environment=environment)
    assert run.returncode == 0, run.stderr


def test_an_autoencoder_of_the_hub_in_the_cache_needs_no_network(cache: Path) -> None:
    repo = cache / "models--stabilityai--sd-vae-ft-mse"
    shutil.copytree(
        cache / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT / "vae",
        repo / "snapshots" / COMMIT,
    )
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    own, same = (
        pixels(generate(cache, "--model", NAME, *more), cache)
        for more in ((), ("--set", "vae=stabilityai/sd-vae-ft-mse"))
    )
    assert (own == same).all()
