"""Weights as people have them: variants, shards, files that lack tensors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sdapp as api
from sdapp.errors import UnavailableError
from sdapp.records import Result

UNET, VAE, TEXT = (
    "unet/diffusion_pytorch_model",
    "vae/diffusion_pytorch_model",
    "text_encoder/model",
)  # fmt: skip
Tiny = Callable[..., Path]


def paint(model: Path, **changes: Any) -> Result:
    asked = {"prompt": "a red house", "seed": 7, "steps": 1, "width": 64, "height": 64, "device": "cpu"}
    return api.generate(model=model, **asked | changes)


def pixels(result: Result) -> np.ndarray:
    assert result.image is not None, result.error
    return np.asarray(result.image).astype(int)


@pytest.fixture
def halves(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder whose weights are all float16, in files of the variant fp16."""
    folder = shutil.copytree(tiny(), tmp_path / "halves")
    for name in (UNET, VAE, TEXT):
        tensors = {key: value.half() for key, value in load_file(folder / f"{name}.safetensors").items()}
        save_file(tensors, folder / f"{name}.fp16.safetensors", metadata={"format": "pt"})
        (folder / f"{name}.safetensors").unlink()
    return folder


def shard(folder: Path, part: str, variant: str | None, old_names: bool = False) -> None:
    """Split a part's weights into several files with an index, as save_pretrained does for large ones."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    cls = UNet2DConditionModel if part == "unet" else CLIPTextModel
    module = cls.from_pretrained(folder / part, variant=variant)
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    module.save_pretrained(folder / part, variant=variant, max_shard_size="100KB")
    assert len(list((folder / part).glob("*.safetensors"))) > 2
    for file in [*(folder / part).glob("*-of-*")] if old_names else []:
        stem, _, number = file.name.removesuffix(".safetensors").partition("-")
        file.rename(file.with_name(f"{stem.removesuffix('.fp16')}-{number}.fp16.safetensors"))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_shards_paint_what_one_file_paints(part: str, halves: Path) -> None:
    whole = paint(halves)
    shard(halves, part, "fp16")
    parts = paint(halves)
    assert (pixels(whole) == pixels(parts)).all()
    assert parts.record is not None
    assert parts.record.notes == ()


def test_full_shards_are_loaded_and_not_the_fp16_file_beside_them(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(), tmp_path / "model")
    shard(folder, "unet", None)
    save_file({"wrong": torch.zeros(1)}, folder / f"{UNET}.fp16.safetensors")
    assert (pixels(paint(folder)) == pixels(paint(tiny()))).all()


@pytest.mark.parametrize("half", [UNET, VAE, TEXT])
@pytest.mark.parametrize("is_also_full", [False, True])
def test_each_part_is_loaded_in_the_variant_that_there_is(
    half: str, is_also_full: bool, tiny: Tiny, halves: Path, tmp_path: Path
) -> None:
    folder, part = shutil.copytree(tiny(), tmp_path / "mixed"), half.split("/")[0]
    shutil.copy(halves / f"{half}.fp16.safetensors", folder / f"{half}.fp16.safetensors")
    if not is_also_full:
        (folder / f"{half}.safetensors").unlink()
    (folder / part / "LICENSE").write_text("a file without a suffix")
    result = paint(folder)
    assert result.record is not None
    told = f"the weights of {folder} are of different variants: " in " ".join(result.record.notes)
    assert told != is_also_full
    assert (f"{part} fp16" in " ".join(result.record.notes)) != is_also_full
    if is_also_full:
        assert (pixels(result) == pixels(paint(tiny()))).all()


def test_an_autoencoder_from_elsewhere_needs_no_weights_in_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(), tmp_path / "model")
    (folder / f"{VAE}.safetensors").unlink()
    with pytest.raises(UnavailableError, match=r"vae has no .safetensors file"):
        paint(folder)
    assert (pixels(paint(folder, vae=str(tiny() / "vae"))) == pixels(paint(tiny()))).all()


# --- tensors that are missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [UNET, VAE, TEXT])
@pytest.mark.parametrize("count", [1, 5])
def test_a_folder_that_lacks_tensors_is_refused_with_their_names(
    name: str, count: int, tiny: Tiny, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny(), tmp_path / "model")
    names = lose(folder / f"{name}.safetensors", lambda names: names[3 : 3 + count])
    with pytest.raises(UnavailableError, match=f"lacks {count} of its tensors: ") as refusal:
        paint(folder)
    assert str(folder / name.split("/")[0]) in str(refusal.value)
    assert any(name.removeprefix("text_model.") in str(refusal.value) for name in names)


def test_a_folder_that_lacks_a_shard_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(), tmp_path / "model")
    shard(folder, "unet", None)
    sorted((folder / "unet").glob("*.safetensors"))[1].unlink()
    with pytest.raises(UnavailableError, match=r": unet has \d+ of the \d+ files of its weights"):
        paint(folder)


def test_a_link_to_weights_that_are_gone_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(), tmp_path / "model")
    (folder / f"{UNET}.safetensors").unlink()
    (folder / f"{UNET}.safetensors").symlink_to(folder / "gone")
    with pytest.raises(UnavailableError, match=f"{UNET}.safetensors cannot be read: .* No such file"):
        paint(folder)


def test_a_folder_whose_index_lacks_a_part_is_not_said_to_lack_tensors(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(), tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    with pytest.raises(UnavailableError, match=r"model cannot be loaded: "):
        paint(folder)


def test_an_autoencoder_from_elsewhere_that_lacks_tensors_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    vae = shutil.copytree(tiny() / "vae", tmp_path / "vae")
    lose(vae / "diffusion_pytorch_model.safetensors", lambda names: names[:2])
    with pytest.raises(UnavailableError, match=f"vae: {vae} lacks 2 of its tensors: "):
        paint(tiny(), vae=str(vae))


def lose(file: Path, choose: Callable[[list[str]], list[str]]) -> list[str]:
    """Remove tensors from a file; return their names."""
    tensors = load_file(file)
    lost = choose(sorted(tensors))
    save_file(
        {name: value for name, value in tensors.items() if name not in lost}, file, metadata={"format": "pt"}
    )
    return lost
