"""What `memory: auto` chooses, by arithmetic; what it does on a GPU is in test_gpu.py."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sdapp.arguments import as_layer
from sdapp.diffusion.placement import ADDED, DECODED, GIB, Plan, Sizes, plan_memory
from sdapp.errors import ConfigError
from sdapp.models.families import FAMILIES
from sdapp.models.files import POSTCARDS, tensor_shapes
from sdapp.models.locate import locate
from sdapp.models.mask_models import count_mask_weights
from sdapp.planning import plan
from sdapp.settings.hardware import Memory
from sdapp.settings.layers import Layer
from sdapp.validation import validate

SD15 = Sizes({"unet": 2 * 859_520_964, "vae": 2 * 83_653_863, "text_encoder": 2 * 123_060_480}, 130)
SDXL = Sizes(
    {
        "unet": 2 * 2_567_463_684, "vae": 4 * 83_653_863, "text_encoder": 2 * 123_060_480,
        "text_encoder_2": 2 * 694_659_840,
    },
    79, vae_number=4,
)  # fmt: skip
# What is free on cards of so many GB, on which a desktop and CUDA itself take some.
FREE = {24: 22.5, 16: 14.7, 12: 10.9, 8: 7.0, 6: 5.1, 4: 3.3, 3: 2.6, 2: 1.6}


def planned(sizes: Sizes, card: int, side: int, batch: int = 1, **asked: Any) -> Plan:
    return plan_memory(sizes, int(FREE[card] * GIB), side * side, batch, Memory(**asked))


@pytest.mark.parametrize(
    ("sizes", "card", "side", "offload", "tiling"),
    [
        (SDXL, 24, 1024, "none", False),
        (SDXL, 16, 1024, "none", False),
        (SDXL, 12, 1024, "model", False),
        (SDXL, 8, 1024, "model", False),
        (SDXL, 6, 1024, "group", False),
        (SDXL, 4, 1024, "group", True),
        (SDXL, 8, 1536, "model", True),
        (SD15, 8, 512, "none", False),
        (SD15, 4, 512, "none", False),
        (SD15, 4, 768, "model", False),
        (SD15, 3, 512, "model", False),
        (SD15, 2, 512, "group", False),
    ],
)
def test_a_card_gets_what_costs_the_least(
    sizes: Sizes, card: int, side: int, offload: str, tiling: bool
) -> None:
    assert planned(sizes, card, side) == Plan(offload, vae_slicing=False, vae_tiling=tiling, batch=1)


def test_a_batch_is_decoded_one_by_one_before_it_is_made_smaller() -> None:
    assert planned(SD15, 8, 512, batch=16) == Plan("none", vae_slicing=True, batch=16)
    assert planned(SD15, 24, 512, batch=8) == Plan("none", batch=8)
    assert planned(SDXL, 8, 1024, batch=4) == Plan("model", vae_slicing=True, batch=2)


def test_what_is_asked_for_wins() -> None:
    assert planned(SDXL, 4, 1024, offload="none") == Plan("none", vae_tiling=True, batch=1, fits=False)
    assert planned(SDXL, 24, 1024, offload="model", vae_tiling=True) == Plan(
        "model", vae_tiling=True, batch=1
    )
    assert planned(SDXL, 4, 1024, vae_tiling=False).fits is False
    assert planned(SD15, 8, 512, batch=8, vae_slicing=False).vae_slicing is False


def test_layers_are_not_offloaded_where_loras_are_merged() -> None:
    found = plan_memory(SDXL, int(FREE[6] * GIB), 1024 * 1024, ways=2)
    assert (found.offload, found.fits) == ("model", False)


# The weights of a ControlNet for each family (lllyasviel/control_v11p_sd15_canny, diffusers/controlnet-canny-sdxl-1.0).
CONTROL = {"sd15": 2 * 361_279_120, "sdxl": 2 * 1_251_014_160}


@pytest.mark.parametrize(
    ("name", "number", "card", "side", "alone", "steered"),
    [
        ("sdxl", 1, 16, 1024, "none", "none"),
        ("sdxl", 2, 16, 1024, "none", "model"),
        ("sdxl", 1, 12, 1024, "model", "model"),
        ("sdxl", 1, 8, 1024, "model", "group"),
        ("sd15", 1, 4, 512, "none", "model"),
        ("sd15", 2, 8, 512, "none", "none"),
    ],
)
def test_controlnets_are_counted(
    name: str, number: int, card: int, side: int, alone: str, steered: str
) -> None:
    sizes, free = {"sd15": SD15, "sdxl": SDXL}[name], int(FREE[card] * GIB)
    assert plan_memory(sizes, free, side * side).offload == alone
    assert plan_memory(sizes, free, side * side, control=number * CONTROL[name]).offload == steered


def test_mask_models_are_counted_where_they_stay() -> None:
    masks = 600_000_000  # bytes, about those of a CLIPSeg
    fits = next(gib for gib in range(100) if plan_memory(SD15, gib * GIB // 8, 512 * 512).offload == "none")
    free = fits * GIB // 8
    assert plan_memory(SD15, free, 512 * 512, masks=masks).offload == "model"
    assert plan_memory(SD15, free + 2 * masks, 512 * 512, masks=masks).offload == "none"


def test_the_mask_models_of_a_job(house: Path) -> None:
    layer = as_layer({"prompt": "a house", "image": house, "mask_prompt": "house", "detail": ["cat", "ship"]})
    config = validate(layer)
    [job] = plan(config, locate(config.model))
    assert job.mask_models == {"postcards"}
    assert count_mask_weights("postcards") == sum(
        math.prod(shape) for shape in tensor_shapes(POSTCARDS / "mask_model" / "model.safetensors").values()
    )


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_what_a_controlnet_has_and_adds(name: str) -> None:
    from diffusers import ControlNetModel

    from models import SHAPES, build

    unet = build(SHAPES[name], "meta").unet
    with torch.device("meta"):
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        text, more = torch.zeros(1, 77, net.config.cross_attention_dim), {}
        if name == "sdxl":
            more = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}}
        latents, hint = torch.zeros(1, 4, 64, 64), torch.zeros(1, 3, 512, 512)
        down, middle = net(latents, torch.zeros(1), text, hint, return_dict=False, **more)
    assert 2 * sum(weight.numel() for weight in net.parameters()) == CONTROL[name]
    assert sum(each.numel() for each in (*down, middle)) / 512**2 == pytest.approx(ADDED, rel=0.02)


def test_where_offloading_frees_no_memory_the_vae_is_tiled() -> None:
    found = plan_memory(SDXL, int(FREE[12] * GIB), 1024 * 1024, ways=1)
    assert found == Plan("none", vae_tiling=True, batch=1)


def test_more_memory_never_gives_more_offloading() -> None:
    order = ("none", "model", "group")
    for side in (512, 1024, 2048):
        found = [plan_memory(SDXL, gib * GIB // 4, side * side, 4) for gib in range(4, 120)]
        ranks = [(one.vae_tiling, order.index(one.offload)) for one in found]
        assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize(("name", "sizes"), [("sd15", SD15), ("sdxl", SDXL)])
def test_the_tensors_that_a_plan_counts_are_those_that_live_at_the_same_time(name: str, sizes: Sizes) -> None:
    from activations import measure
    from models import SHAPES, build

    unet, decode, encode = measure(build(SHAPES[name], "meta"), torch.float16, 512, rows=2)
    assert unet == pytest.approx(2 * sizes.unet_values * 512**2 * sizes.number, rel=0.03)
    assert decode == pytest.approx(DECODED * 512**2 * sizes.vae_number, rel=0.03)
    assert encode < decode
    assert sizes.unet_values == FAMILIES[2 if name == "sdxl" else 0].unet_values


@pytest.mark.parametrize(
    ("memory", "same"),
    [
        ("auto", True),
        ({"offload": "model"}, True),
        ({"vae_slicing": True}, True),
        ({"offload": "none", "vae_slicing": False, "vae_tiling": False}, True),  # as older records say
        ({"vae_tiling": True}, False),
    ],
)
def test_only_tiling_that_is_asked_for_changes_the_id(memory: Any, same: bool) -> None:
    asked = {"prompt": "a cat", "seed": 1}
    ids = [
        plan(validate(Layer(each)), locate("postcards"))[0].id for each in (asked, asked | {"memory": memory})
    ]
    assert (ids[0] == ids[1]) == same


def test_memory_is_auto_or_a_group() -> None:
    assert validate(Layer({"memory": "auto"})).memory == Memory()
    with pytest.raises(ConfigError, match="memory"):
        validate(Layer({"memory": "none"}))
