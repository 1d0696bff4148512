"""LoRA files of every kind against weights that are merged by hand."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conftest import random_pipeline
from sdapp.diffusion.loras import Loras
from sdapp.errors import InputError, UnavailableError
from sdapp.models.lora_files import _adapter_config, examine_lora
from sdapp.settings.additions import Lora

LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"  # 64 → 64
OLD = LINEAR.replace("attn1", "attn1.processor")
NORM = "down_blocks.1.attentions.0.transformer_blocks.0.norm1"
CONV = "down_blocks.0.resnets.0.conv1"  # 32 → 32, 3 × 3
TEXT = "encoder.layers.1.mlp.fc1"  # 32 → 64
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return random_pipeline(4, "epsilon")


@pytest.fixture(scope="module")
def xl() -> Any:
    return random_pipeline(4, "epsilon", is_xl=True)


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def kohya(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


def weight(pipe: Any, name: str, part: str = "unet") -> torch.Tensor:
    return getattr(pipe, part).get_submodule(name).weight.detach().clone()


def pair(name: str, outputs: int, inputs: int, rank: int, alpha: float) -> tuple[Tensors, torch.Tensor]:
    up, down = rand(outputs, rank), rand(rank, inputs)
    tensors = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(alpha),
    }
    return tensors, up @ down * (alpha / rank)


def turned(blocks: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weights times one large rotation: the Cayley transform of each block, on the diagonal."""
    one = torch.eye(blocks.shape[-1])
    turns = [torch.linalg.solve((one - (b - b.T)).T, (one + (b - b.T)).T).T for b in blocks]
    return (torch.block_diag(*turns).T @ weights.flatten(1)).reshape(weights.shape)


def kinds() -> Iterator[tuple[str, str, Tensors, Callable[[torch.Tensor], torch.Tensor]]]:
    """Kind of file, layer, tensors, and the weights that they make of those of the model."""
    tensors, change = pair(kohya(LINEAR), 64, 64, 4, 2.0)
    yield "LoRA", LINEAR, tensors, partial(add, change)
    up, down = rand(32, 2, 1, 1), rand(2, 32, 3, 3)
    by_hand = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    conv = {f"{kohya(CONV)}.lora_up.weight": up, f"{kohya(CONV)}.lora_down.weight": down}
    yield "LoCon", CONV, conv, partial(add, by_hand)
    up, down, mid = rand(32, 2, 1, 1), rand(3, 32, 1, 1), rand(2, 3, 3, 3)
    tucker = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    tensors = conv | {f"{kohya(CONV)}.lora_up.weight": up, f"{kohya(CONV)}.lora_down.weight": down}
    yield (
        "LoCon with a core",
        CONV,
        tensors | {f"{kohya(CONV)}.lora_mid.weight": mid},
        (lambda w, change=tucker: w + change),
    )
    one, two, three, four = rand(64, 2), rand(2, 64), rand(64, 2) + 1, rand(2, 64) - 1
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = {
        f"{kohya(LINEAR)}.{name}": each for name, each in zip(names, (one, two, three, four), strict=True)
    }
    tensors[f"{kohya(LINEAR)}.alpha"] = torch.tensor(1.0)
    yield "LoHa", LINEAR, tensors, partial(add, (one @ two) * (three @ four) / 2)
    one, two = rand(4, 8), rand(16, 8)
    tensors = {f"{kohya(LINEAR)}.lokr_w1": one, f"{kohya(LINEAR)}.lokr_w2": two}
    yield "LoKr", LINEAR, tensors, partial(add, torch.kron(one, two))
    a, b = rand(16, 2), rand(2, 8)
    tensors = {
        f"{kohya(LINEAR)}.lokr_w1": one,
        f"{kohya(LINEAR)}.lokr_w2_a": a,
        f"{kohya(LINEAR)}.lokr_w2_b": b,
    }
    tensors[f"{kohya(LINEAR)}.alpha"] = torch.tensor(1.0)
    yield "LoKr of a pair", LINEAR, tensors, partial(add, torch.kron(one, a @ b) / 2)
    tensors, change = pair(kohya(LINEAR), 64, 64, 4, 4.0)
    length = rand(64, 1).abs() + 0.5
    tensors[f"{kohya(LINEAR)}.dora_scale"] = length
    yield (
        "DoRA",
        LINEAR,
        tensors,
        (lambda w, c=change, m=length: (w + c) / (w + c).norm(dim=1, keepdim=True) * m),
    )
    by_input = {f"{kohya(LINEAR)}.dora_scale": length.T}
    yield (
        "DoRA by inputs",
        LINEAR,
        tensors | by_input,
        (lambda w, c=change, m=length.T: (w + c) / (w + c).norm(dim=0, keepdim=True) * m),
    )
    blocks, factors = rand(8, 8, 8) / 8, rand(64, 1).abs() + 0.5
    free = {f"{kohya(LINEAR)}.oft_blocks": blocks, f"{kohya(LINEAR)}.alpha": torch.tensor(0.0)}
    yield "OFT", LINEAR, free, partial(turned, blocks)
    bound = {f"{kohya(LINEAR)}.alpha": torch.tensor(0.01), f"{kohya(LINEAR)}.rescale": factors}
    length = (blocks - blocks.mT).norm()
    yield (
        "OFT with bounds and factors",
        LINEAR,
        free | bound,
        (lambda w, b=blocks * 0.64 / length, m=factors: turned(b, w) * m),
    )
    convolved = rand(4, 8, 8) / 8
    yield "OFT of a convolution", CONV, {f"{kohya(CONV)}.oft_blocks": convolved}, partial(turned, convolved)
    norm = rand(64)
    yield "norm", NORM, {f"{kohya(NORM)}.w_norm": norm}, partial(add, norm)
    whole = rand(64, 64)
    yield "difference", LINEAR, {f"{kohya(LINEAR)}.diff": whole}, partial(add, whole)
    up, down = rand(64, 4), rand(4, 64)
    for kind, first, second in (
        ("peft", f"unet.{LINEAR}.lora_A.weight", f"unet.{LINEAR}.lora_B.weight"),
        ("diffusers", f"unet.{LINEAR}.lora.down.weight", f"unet.{LINEAR}.lora.up.weight"),
        ("diffusers 0.14", f"unet.{OLD}_lora.down.weight", f"unet.{OLD}_lora.up.weight"),
    ):
        yield kind, LINEAR, {first: down, second: up}, partial(add, up @ down)


KINDS = list(kinds())


@pytest.mark.parametrize(("kind", "layer", "tensors", "merged"), KINDS, ids=[kind for kind, *_ in KINDS])
@pytest.mark.parametrize("strength", [1.0, -0.4])
def test_a_file_is_merged_as_by_hand_and_taken_out_to_the_last_bit(
    kind: str, layer: str, tensors: Tensors, merged: Any, strength: float, pipe: Any, tmp_path: Path
) -> None:
    save_file({name: each.contiguous() for name, each in tensors.items()}, tmp_path / "lora.safetensors")
    before, loras = weight(pipe, layer), Loras(pipe)
    loras.apply([Lora(file=str(tmp_path / "lora.safetensors"), weight=strength)])
    expected = before + strength * (merged(before) - before)
    assert torch.allclose(weight(pipe, layer), expected, atol=3e-5 * (expected - before).abs().max())
    assert not torch.equal(weight(pipe, layer), before)
    loras.apply([])
    assert torch.equal(weight(pipe, layer), before)


def test_several_files_add_up_and_a_hundred_exchanges_leave_no_trace(pipe: Any, tmp_path: Path) -> None:
    files = []
    for i in range(3):
        tensors, _ = pair(kohya(LINEAR), 64, 64, i + 1, 1.0)
        text, _ = pair("lora_te_text_model_" + TEXT.replace(".", "_"), 64, 32, 2, 1.0)
        save_file(tensors | text, tmp_path / f"{i}.safetensors")
        files.append(Lora(file=str(tmp_path / f"{i}.safetensors"), weight=0.5, text_encoder_weight=0.25))
    before = {name: each.clone() for name, each in pipe.unet.state_dict().items()}
    text_before = weight(pipe, TEXT, "text_encoder")
    loras = Loras(pipe)
    loras.apply(files[:1])
    one = weight(pipe, LINEAR) - before[f"{LINEAR}.weight"]
    assert not torch.equal(weight(pipe, TEXT, "text_encoder"), text_before)
    loras.apply(files[1:2])
    two = weight(pipe, LINEAR) - before[f"{LINEAR}.weight"]
    loras.apply(files[:2])
    assert torch.allclose(weight(pipe, LINEAR) - before[f"{LINEAR}.weight"], one + two, atol=1e-4)
    for i in range(100):
        loras.apply([files[i % 3]])
    loras.apply([])
    assert all(torch.equal(each, before[name]) for name, each in pipe.unet.state_dict().items())
    assert torch.equal(weight(pipe, TEXT, "text_encoder"), text_before)


def test_kohyas_names_of_sdxl_are_those_of_the_original_checkpoint(xl: Any, tmp_path: Path) -> None:
    """In the tiny UNet, down block 1 begins at input block 3, and its attention has the index 1."""
    tensors, change = pair("lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q", 64, 64, 4, 4.0)
    second, text_change = pair(f"lora_te2_text_model_{TEXT.replace('.', '_')}", 64, 48, 2, 2.0)
    save_file(tensors | second, tmp_path / "lora.safetensors")
    before, name = weight(xl, LINEAR), f"text_model.{TEXT}"
    text_before = weight(xl, name, "text_encoder_2")
    loras = Loras(xl)
    loras.apply([Lora(file=str(tmp_path / "lora.safetensors"))])
    assert torch.allclose(weight(xl, LINEAR), before + change, atol=1e-4)
    assert torch.allclose(weight(xl, name, "text_encoder_2"), text_before + text_change, atol=1e-4)
    loras.apply([])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"lora_unet_nowhere.lora_up.weight": rand(4, 4)},
            r"1 of its tensors have no place in it \(lora_unet_no",
        ),
        ({"lora_te2_encoder_layers_0_mlp_fc1.lora_up.weight": rand(4, 4)}, "have no place"),
        ({f"{kohya(LINEAR)}.lora_up.weight": rand(64, 4)}, "it has only up"),
        (pair(kohya(LINEAR), 128, 32, 4, 1.0)[0], "has other sizes"),
        ({f"{kohya(CONV)}.diff_b": rand(16)}, "has other sizes"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    tensors: Tensors, message: str, pipe: Any, tmp_path: Path
) -> None:
    good, _ = pair(kohya(LINEAR), 64, 64, 4, 1.0)
    save_file(good, tmp_path / "good.safetensors")
    save_file(tensors, tmp_path / "bad.safetensors")
    before = weight(pipe, LINEAR)
    with pytest.raises(UnavailableError, match=message):
        Loras(pipe).apply(
            [Lora(file=str(tmp_path / "good.safetensors")), Lora(file=str(tmp_path / "bad.safetensors"))]
        )
    assert torch.equal(weight(pipe, LINEAR), before)


def test_alphas_outside_of_the_tensors_are_found(pipe: Any, tmp_path: Path) -> None:
    """diffusers stores them in the header, peft in a file of its own."""
    up, down = rand(64, 4), rand(4, 64)
    tensors = {"lora_A.weight": down, "lora_B.weight": up}
    config = {"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 16}}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    save_file(
        {f"unet.{LINEAR}.{key}": each for key, each in tensors.items()}, tmp_path / "a.safetensors", header
    )
    (tmp_path / "raw").mkdir()
    raw = tmp_path / "raw" / "adapter_model.safetensors"
    save_file({f"base_model.model.{LINEAR}.{key}": each for key, each in tensors.items()}, raw)
    before, loras = weight(pipe, LINEAR), Loras(pipe)
    with pytest.raises(InputError, match=r"needs the adapter_config\.json"):
        loras.apply([Lora(file=str(raw))])
    (tmp_path / "raw" / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    loras.apply([Lora(file=str(tmp_path / "a.safetensors"))])
    assert torch.allclose(weight(pipe, LINEAR), before + up @ down * (16 / 4), atol=1e-4)
    loras_of_raw = Loras(pipe)
    loras.apply([])
    _adapter_config.cache_clear()
    loras_of_raw.apply([Lora(file=str(raw))])
    assert torch.allclose(weight(pipe, LINEAR), before + up @ down * (16 / 2), atol=1e-4)
    loras_of_raw.apply([])


def test_a_file_that_changes_after_it_was_planned_is_refused(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(pair(kohya(LINEAR), 64, 64, 4, 1.0)[0], file)
    planned = Lora(file=str(file), sha256=examine_lora(file)[0])
    save_file(pair(kohya(LINEAR), 64, 64, 4, 3.0)[0], file)
    os.utime(file, (0, 0))  # both may have been written within one tick of the clock
    with pytest.raises(UnavailableError, match="has changed since"):
        Loras(pipe).apply([planned])


def test_a_text_encoder_of_stable_diffusion_1_is_not_taken_for_one_of_sdxl(xl: Any, tmp_path: Path) -> None:
    tensors, _ = pair("lora_te_text_model_" + TEXT.replace(".", "_"), 64, 32, 2, 1.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(UnavailableError, match="have no place"):
        Loras(xl).apply([Lora(file=str(tmp_path / "lora.safetensors"))])
