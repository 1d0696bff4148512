"""Another autoencoder in the place of the model's own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import POSTCARDS, random_pipeline
from original_layout import vae_tensors
from sdapp.errors import SdappError
from sdapp.jobs import LoadKey
from sdapp.metadata.read import read_settings
from sdapp.metadata.record import read_header
from sdapp.models.vae import WEIGHTS, locate_model
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.records import Result
from sdapp.settings.layers import Layer
from sdapp.validation import validate

HEADER = {"decoder.conv_in.weight": (8, 4, 3, 3), "encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder of 8 pixels a latent, with random weights."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**widths, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).save_pretrained(
        folder
    )
    return folder


def paint(model: Path | str, vae: Path | str | None, **changes: Any) -> list[Result]:
    asked = {"model": str(model), "prompt": "a red house", "seed": 7, "steps": 2, "device": "cpu"}
    config = validate(Layer(asked | {"vae": None if vae is None else str(vae)} | changes))
    found = locate_model(config.model, config.revision, config.vae)
    return list(load(LoadKey.of(config, found)).paint(plan(config, found), config.batch_size))


def pixels(result: Result) -> np.ndarray:
    assert result.image is not None, result.error
    return np.asarray(result.image).astype(int)


def test_one_that_is_the_models_own_paints_the_same_image(tiny: Callable[..., Path], tmp_path: Path) -> None:
    save_file(vae_tensors(random_pipeline(4, "epsilon").vae), tmp_path / "own.safetensors")
    [plain] = paint(tiny(), None)
    for own in (tiny() / "vae", tmp_path / "own.safetensors"):
        [same] = paint(tiny(), own)
        digest = hashlib.sha256(own.read_bytes()).hexdigest() if own.is_file() else None
        assert (same.record and same.record.vae_sha256) == digest
        assert (pixels(plain) == pixels(same)).all()
        assert plain.job.id != same.job.id


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("txt2img", {}),
        ("img2img", {}),
        ("inpaint", {}),
        ("img2img", {"memory": {"vae_slicing": True, "vae_tiling": True}}),
        ("inpaint", {"dtype": "bfloat16"}),
    ],
)
def test_a_tiny_one_encodes_and_decodes(
    kind: str, change: dict[str, Any], tiny: Callable[..., Path], small: Path, house: Path, mask: Path
) -> None:
    task = (
        {"kind": kind}
        | ({"image": str(house)} if kind != "txt2img" else {})
        | ({"mask": str(mask)} if kind == "inpaint" else {})
    )
    [plain], results = (
        paint(tiny(), None, task=task, **change), paint(tiny(), small, task=task, count=2, batch_size=2, **change),
    )  # fmt: skip
    for result in results:
        assert pixels(result).shape == (64, 64, 3)
        assert (pixels(result) != pixels(plain)).any()


def test_an_image_says_which_and_finds_it_again(
    sdapp: Callable[..., Any], tiny: Callable[..., Path], small: Path, tmp_path: Path
) -> None:
    shutil.copytree(small, "taesd")
    Path("deep").mkdir()
    (tmp_path / "deep" / "vae.yaml").write_text("vae: ./../taesd\n")
    flags = ("--model", tiny(), "--steps", 2, "--seed", 7, "--config", "deep/vae.yaml")
    run = sdapp("generate", "a cat", *flags, "--out", "pictures")
    assert run.exit_code == 0, run.stderr
    path = Path(run.stdout.strip())
    assert read_header(path)["job"]["vae"] == "./../taesd"
    assert "VAE: taesd" in Image.open(path).info["parameters"]
    assert Path(read_settings(path).values["vae"]).resolve() == (tmp_path / "taesd").resolve()
    assert sdapp("replay", path, "--verify").exit_code == 0
    assert sdapp("generate", "--config", path, "--set", "vae=null", "--out", "plain").exit_code == 0


def test_one_of_the_hub_is_recorded_with_its_commit_and_painted_again_with_it(
    tiny: Callable[..., Path], small: Path, tmp_path: Path
) -> None:
    repo, commits = tmp_path / "hub" / "models--madebyollin--taesd", ("a" * 40, "b" * 40)
    for commit in commits:
        shutil.copytree(small, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "OMP_NUM_THREADS": "1",
    }

    def sdapp(*arguments: object) -> str:
        command = [sys.executable, "-m", "sdapp.cli", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    (repo / "refs" / "main").write_text(commits[0])
    first = tmp_path / sdapp(
        "generate", "a cat", "--model", tiny(), "--steps", 1, "--seed", 7, "--set", "vae=madebyollin/taesd"
    )  # fmt: skip
    (repo / "refs" / "main").write_text(commits[1])  # the Hub has another one now
    again = tmp_path / sdapp("generate", "--config", first)
    assert read_header(first)["job"] == read_header(again)["job"]
    assert read_header(again)["job"]["vae"] == f"madebyollin/taesd@{commits[0]}"
    assert "VAE: taesd," in Image.open(again).info["parameters"]


def saying(folder: Path, **facts: Any) -> Path:
    """An autoencoder whose config says something else."""
    config = json.loads((folder / "config.json").read_text()) | facts
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_file(folder: Path, file: str, text: str | None) -> Path:
    """An autoencoder with another text in a file, or without the file."""
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    return folder


def file_of(path: Path, **shapes: tuple[int, ...]) -> Path:
    """A file of so many tensors, with nothing in them."""
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda _: POSTCARDS / "vae", "it has 4 pixels per latent along one side, the model has 8"),
        (
            lambda place: saying(place / "small", latent_channels=16),
            "it has 16 latent channels, the model has 4",
        ),
        (
            lambda place: saying(place / "model" / "vae", scaling_factor=0.13025),
            "it has 0.13025 as its scaling factor",
        ),
        (
            lambda place: saying(place / "small", _class_name="VQModel"),
            "is a VQModel; allowed: AutoencoderKL, AutoencoderTiny",
        ),
        (
            lambda place: saying(place / "small", block_out_channels=7),
            "its config.json is not that of an autoencoder",
        ),
        (
            lambda place: with_file(place / "small", "config.json", "[]"),
            "its config.json is not that of an autoencoder",
        ),
        (lambda place: with_file(place / "small", "config.json", "{"), "config.json cannot be read"),
        (lambda place: with_file(place / "small", WEIGHTS, None), f"{WEIGHTS} is missing"),
        (lambda place: with_file(place / "small", WEIGHTS, "damaged"), f"{WEIGHTS} is no safetensors file"),
        (lambda place: place / "model", "give the autoencoder inside: "),
        (
            lambda place: with_file(place, "vae.ckpt", "pickle") / "vae.ckpt",
            "a pickled checkpoint can run code",
        ),
        (
            lambda place: file_of(place / "flat.safetensors", **HEADER),
            "it has 1 pixels per latent along one side",
        ),
        (
            lambda place: file_of(place / "other.safetensors", x=(1,)),
            "has no AutoencoderKL in the layout of the original",
        ),
        (lambda place: place / "nothing", "no folder or file"),
    ],
)
def test_one_that_does_not_fit_is_refused(
    build: Callable[[Path], Path], message: str, tiny: Callable[..., Path], small: Path, tmp_path: Path
) -> None:
    shutil.copytree(small, tmp_path / "small")
    shutil.copytree(tiny(), tmp_path / "model")
    with pytest.raises(SdappError) as refusal:
        paint(tiny(), build(tmp_path))
    assert str(refusal.value).startswith("vae: ")
    assert message in str(refusal.value)


def test_one_of_the_hub_that_is_not_in_the_cache_is_told(sdapp: Callable[..., Any]) -> None:
    run = sdapp("generate", "a cat", "--set", "vae=madebyollin/taesd")
    assert run.exit_code == 69
    assert run.stderr.startswith("error: vae: madebyollin/taesd is not in the cache")
