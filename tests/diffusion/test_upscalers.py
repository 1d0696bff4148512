"""Upscalers such as ESRGAN. Those that load one need spandrel and torchvision: pip install 'sdapp[upscale]'."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from safetensors.torch import save_file

from headers import checkpoint, save_header
from sdapp.metadata.record import read_header

Command = Callable[..., Any]
LOADS = pytest.mark.skipif(
    not (find_spec("spandrel") and find_spec("torchvision")),
    reason="spandrel or torchvision is not installed",
)


def save_esrgan(path: Path, scale: int = 4, blocks: int = 1, width: int = 16) -> Path:
    """An ESRGAN (RRDBNet, in the layout of Real-ESRGAN) of random weights."""
    torch.manual_seed(0)
    shapes = {
        "conv_first": (width, 3),
        "conv_body": (width, width),
        "conv_hr": (width, width),
        "conv_last": (3, width),
    }
    shapes |= {f"conv_up{n}": (width, width) for n in range(1, {2: 2, 4: 3}[scale])}
    if scale == 2:
        shapes["conv_first"] = (width, 12)
        shapes["conv_up2"] = (width, width)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for n in range(1, 6):
                outputs = 32 if n < 5 else width
                shapes[f"body.{block}.rdb{dense}.conv{n}"] = (outputs, width + 32 * (n - 1))
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (inputs * 9)) ** 0.5
        tensors[f"{name}.bias"] = torch.rand(outputs) * 0.1
    tensors["conv_last.bias"] += 0.5
    save_file(tensors, path)
    return path


def apart(one: Image.Image, other: Image.Image) -> float:
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@LOADS
@pytest.mark.parametrize(("scale", "asked"), [(4, 4), (4, 1.5), (2, 2)])
def test_images_become_as_large_as_asked_in_tiles_too(
    scale: int, asked: float, sdapp: Command, house: Path
) -> None:
    save_esrgan(Path("up.safetensors"), scale)
    shared = ("upscale", house, "--method", "model", "--upscaler", "up.safetensors", "--scale", asked)
    result = sdapp(*shared, "--out", "whole")
    assert result.exit_code == 0, result.output
    whole = Path(result.stdout.strip())
    tiled = Path(sdapp(*shared, "--tile", 128, "--out", "tiled").stdout.strip())
    with Image.open(whole) as one, Image.open(tiled) as other:
        assert one.size == other.size == (64 * asked, 64 * asked)
        assert apart(one, other) < 8  # of 255; random weights see far beyond the edge of a tile
    content = read_header(whole)
    assert content["job"]["upscale"]["model"].endswith("../up.safetensors")
    assert content["record"]["unet_calls"] == 0
    assert json.loads(sdapp("replay", whole, "--verify", "--json").stdout)["largest_difference"] == 0


@LOADS
def test_it_enlarges_before_a_second_pass(sdapp: Command, tiny: Callable[..., Path]) -> None:
    save_esrgan(Path("up.safetensors"))
    upscale = "upscale={scale: 2, enlarge: model, model: up.safetensors}"
    result = sdapp("generate", "a", "--model", tiny(), "--steps", 5, "--seed", 1, "--set", upscale)
    assert result.exit_code == 0, result.output
    path = Path(result.stdout.strip())
    assert read_header(path)["record"]["unet_calls"] == 5 + 2
    with Image.open(path) as image:
        assert image.size == (128, 128)
        assert "Hires upscaler: up, " in image.info["parameters"]
    before = read_header(path)["record"]["job_id"]
    shutil.move("up.safetensors", "other-name.safetensors")
    again = sdapp(
        "replay", path, "--set", "upscale.model=other-name.safetensors", "--model", tiny(), "--json"
    )
    assert json.loads(again.stdout)["record"]["job_id"] == before


@LOADS
def test_an_unknown_architecture_fails_by_name(sdapp: Command, house: Path) -> None:
    save_file(
        {"layer.weight": torch.zeros(3, 3), "layer.bias": torch.zeros(3), "deep.a.b.c": torch.zeros(1)},
        "odd.safetensors",
    )
    result = sdapp("upscale", house, "--method", "model", "--upscaler", "odd.safetensors")
    assert result.exit_code == 3
    assert "odd.safetensors is of an architecture that spandrel does not know" in result.stderr


@pytest.mark.parametrize(
    ("name", "make", "code", "message"),
    [
        ("none.safetensors", None, 66, "upscale.model: none.safetensors: no such file"),
        ("x4.pth", lambda path: path.write_bytes(b"\x80"), 69, "x4.pth is not safetensors; a pickled checkpoint can run"),
        ("sd.safetensors", lambda path: save_header(path, checkpoint()), 69, "is a Stable Diffusion; give an upscaler"),
        ("clip.safetensors", lambda path: save_header(path, {"text_model.embeddings.position_embedding.weight": (77, 768)}), 69, "is a text encoder alone; give an upscaler"),
        ("lora.safetensors", lambda path: save_header(path, {"lora_unet_a.lora_up.weight": (8, 4)}), 69, "is a LoRA"),
    ],
)  # fmt: skip
def test_what_is_no_upscaler_is_refused_before_loading(
    name: str, make: Callable[[Path], object] | None, code: int, message: str, sdapp: Command, house: Path
) -> None:
    if make:
        make(Path(name))
    result = sdapp("upscale", house, "--method", "model", "--upscaler", name)
    assert result.exit_code == code
    assert message in result.stderr


def test_settings_that_do_not_fit_together(sdapp: Command, house: Path) -> None:
    assert "--upscaler: is missing" in sdapp("upscale", house, "--method", "model").stderr.replace(
        "upscale.model", "--upscaler"
    )
    assert (
        "is not used; add upscale.method: model"
        in sdapp("upscale", house, "--upscaler", "x.safetensors").stderr
    )


@pytest.mark.skipif(find_spec("spandrel") is not None, reason="spandrel is installed")
def test_without_the_packages_the_error_says_what_to_install(sdapp: Command, house: Path) -> None:
    save_esrgan(Path("up.safetensors"))
    result = sdapp("upscale", house, "--method", "model", "--upscaler", "up.safetensors")
    assert result.exit_code == 69
    assert "spandrel" in result.stderr
    assert "pip install 'sdapp[upscale]'" in result.stderr
