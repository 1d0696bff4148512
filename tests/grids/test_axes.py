"""Axes of grids: from text or Python values to settings, and what is refused."""

from typing import Any

import pytest

from sdapp.errors import ConfigError
from sdapp.grids.axes import Axis, AxisGiven, read_axes
from sdapp.settings.layers import Layer


def axis(given: AxisGiven) -> Axis:
    [found] = read_axes({"x": given, "y": None})
    return found


def applied(given: AxisGiven, index: int = 0, **settings: Any) -> dict[str, Any]:
    return axis(given).apply(Layer(settings), index).values


@pytest.mark.parametrize(
    ("given", "name", "values", "labels"),
    [
        ("guidance_scale=1-4", "guidance_scale", (1, 2, 3, 4), ("1", "2", "3", "4")),
        ("cfg_scale=3,7.5,10-20:5", "guidance_scale", (3, 7.5, 10, 15, 20), ("3", "7.5", "10", "15", "20")),
        ("CFG Scale=1-10[4]", "guidance_scale", (1, 4, 7, 10), ("1", "4", "7", "10")),
        ("Sampler=Euler a, DPM++ 2M", "scheduler", ("Euler a", "DPM++ 2M"), ("Euler a", "DPM++ 2M")),
        ('prompt="a b, c",d', "prompt", ("a b, c", "d"), ("a b, c", "d")),
        ("prompt:cat=cat,dog", "prompt:cat", ("cat", "dog"), ("cat", "dog")),
        ("lora:ink=-1,0-1:0.5", "lora:ink", (-1, 0, 0.5, 1), ("-1", "0", "0.5", "1")),
        ("loras=none,ink:0.8", "loras", ([], ["ink:0.8"]), ("none", "ink:0.8")),
        ("vae=none,vaes/sharp.safetensors", "vae", (None, "vaes/sharp.safetensors"), ("none", "sharp")),
        ("model=a/b,c.safetensors", "model", ("a/b", "c.safetensors"), ("b", "c")),
        ("size=64x64,96x64", "size", ((64, 64), (96, 64)), ("64x64", "96x64")),
        ("memory.vae_tiling=true,false", "memory.vae_tiling", (True, False), ("true", "false")),
        ({"steps": [5, 10]}, "steps", (5, 10), ("5", "10")),
        ({"steps": "5-7"}, "steps", (5, 6, 7), ("5", "6", "7")),
    ],
)
def test_values_of_every_kind(
    given: AxisGiven, name: str, values: tuple[Any, ...], labels: tuple[str, ...]
) -> None:
    found = axis(given)
    assert (found.name, found.values, found.labels) == (name, values, labels)


def test_a_value_becomes_a_setting() -> None:
    assert applied("steps=5,10", 1, steps=20) == {"steps": 10}
    assert applied("size=64x96") == {"width": 64, "height": 96}
    replaced = applied("prompt:cat=dog", prompt="a cat and a cat", negative_prompt="cat")
    assert replaced == {"prompt": "a dog and a dog", "negative_prompt": "cat"}
    assert applied("scheduler=unipc", scheduler={"name": "euler", "options": {"a": 1}}) == {
        "scheduler": "unipc"
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prompt": "a cat <lora:ink:0.3>"}, {"prompt": "a cat <lora:ink:0.5>"}),
        ({"loras": ["film:0.1", "x/ink.safetensors:0.3"]},
         {"loras": ["film:0.1", {"file": "x/ink.safetensors", "weight": 0.5}]}),
        ({"loras": [{"file": "ink", "weight": 1.0}]}, {"loras": [{"file": "ink", "weight": 0.5}]}),
        ({}, {"loras": [{"file": "ink", "weight": 0.5}]}),
    ],
)  # fmt: skip
def test_the_weight_of_a_lora_is_set_where_the_lora_is_named(
    settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert applied("lora:ink=0.5", **settings) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("guidence_scale=1", "--x guidence_scale: there is no such setting, did you mean 'guidance_scale'?"),
        ("count=1,2", "--x count: each cell has one image; for more, use seeds: --x seed=1-3"),
        ("prompt s/r=a,b", "did you mean 'prompt:WORD'?"),
        ("steps", "--x: write it as KEY=VALUE,VALUE, such as guidance_scale=1-20"),
        ("steps=5,5", "--x steps: 5 is in the list more than once"),
        ("steps=9-3", "--x steps: '9-3' counts downwards"),
        ("seed=-1,4", "--x seed: -1 is a random seed"),
        ("size=64", "--x size: write it as WIDTHxHEIGHT"),
        ("lora:ink=strong", "--x lora:ink: weights are numbers, not 'strong'"),
        ({"steps": [5], "seed": [1]}, "x: one setting and its values, not 2"),
    ],
)
def test_what_is_no_axis_is_refused(given: AxisGiven, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        axis(given)
    assert message in str(caught.value)


def test_a_word_that_is_not_in_the_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="--x prompt:castle: the prompt has no 'castle': 'a cat'"):
        applied("prompt:castle=house", prompt="a cat")


def test_all_axes_are_checked_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_axes({"x": "step=5", "y": "sede=1", "z": None})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["--x step", "--y sede"]
    with pytest.raises(ConfigError, match="two axes change the same setting"):
        read_axes({"x": "steps=5", "y": "steps=6"})
    with pytest.raises(ConfigError, match="--y: give it"):
        read_axes({"x": "steps=5", "y": None, "z": "seed=1-2"})
    with pytest.raises(ConfigError, match="--x: give it, such as --x guidance_scale="):
        read_axes({"x": None})


def test_names_and_values_of_a1111() -> None:
    named = {"guidance_scale=1-3": ("CFG Scale", "1, 2, 3"), "clip_skip=0,1": ("Clip skip", "1, 2"),
             "prompt:cat=dog,\"a, b\"": ("Prompt S/R", 'cat, dog, "a, b"'), "eta=0": ("Eta", "0"),
             "prompt=a": ("prompt", "a"), "cache_interval=1,2": ("cache_interval", "1, 2")}  # fmt: skip
    assert {key: (axis(key).a1111_type, axis(key).a1111_values) for key in named} == named
