import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import Result

from sdapp.commands.config import as_yaml, json_schema, settings_with_origins
from sdapp.config import RunConfig, read_config_file
from sdapp.errors import ConfigError
from sdapp.settings.files import parse_override, parse_yaml
from sdapp.settings.hardware import Memory
from sdapp.settings.layers import Layer, merge
from sdapp.settings.output import Output
from sdapp.settings.tasks import Inpaint
from sdapp.settings.types import MAX_SEED
from sdapp.validation import validate

Run = Callable[..., Result]
CASES = Path(__file__).parents[1] / "cases"
CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def check(text: str) -> RunConfig:
    return validate(merge([parse_yaml(text, "f")]))


def lines(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        check(text)
    return str(refusal.value).splitlines()


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "fragment"),
    [
        ("seed: 1\nstepz: 3", "f:2:1: stepz: ", "unknown key, did you mean 'steps'?"),
        ("stpes: 3", "f:1:1: stpes: ", "did you mean 'steps'?"),
        ("memory: {ofload: model}", "f:1:10: memory.ofload: ", "did you mean 'offload'?"),
        ("output:\n  folder: x", "f:2:3: output.folder: ", "unknown key; allowed here: dir, name, format"),
        ("task: {kind: img2img, image: x, mask: y}", "f:1:33: task.mask: ", "unknown key; allowed here: kind, image, strength"),
        ("task: {kind: txt2img, image: x}", "f:1:23: task.image: ", "unknown key; allowed here: kind"),
        ("scheduler: {name: ddim, option: {}}", "f:1:25: scheduler.option: ", "did you mean 'options'?"),
        ("extend: base.yaml", "f:1:1: extend: ", "did you mean 'extends'?"),
        ("img2img: {strength: 1}", "f:1:1: img2img: ", "unknown key"),
        ("inpaint: 1", "f:1:1: inpaint: ", "unknown key"),
        ("'': 1", "f:1:1: ", "unknown key"),
        ("guidance_scale: 7,5", "f:1:1: guidance_scale: ", "must be a number, not '7,5'; write 7.5"),
        ("dtype: fp16", "f:1:1: dtype: ", "or 'float32', not 'fp16', did you mean 'float16'?"),
        ("dtype: BF16", "f:1:1: dtype: ", "did you mean 'bfloat16'?"),
        ("output: {format: jpg}", "f:1:10: output.format: ", "did you mean 'jpeg'?"),
        ("colour: red", "f:1:1: colour: ", "unknown key; allowed here: extends, model, revision, "),
        ("steps: 0", "f:1:1: steps: ", "must be 1 or more, not 0"),
        ("steps: 1001", "f:1:1: steps: ", "must be 1000 or less, not 1001"),
        ("guidance_scale: -1", "f:1:1: guidance_scale: ", "must be 0 or more, not -1"),
        ("guidance_scale: .inf", "f:1:1: guidance_scale: ", "finite number, not inf"),
        ("guidance_scale: .nan", "f:1:1: guidance_scale: ", "finite number, not nan"),
        ("eta: 1.5\nscheduler: ddim", "f:1:1: eta: ", "must be 1 or less, not 1.5"),
        ("clip_skip: 12", "f:1:1: clip_skip: ", "must be 11 or less"),
        ("count: 0", "f:1:1: count: ", "must be 1 or more"),
        ("batch_size: 257", "f:1:1: batch_size: ", "a number from 1 to 256, or auto"),
        ("seed: -2", "f:1:1: seed: ", "must be -1 or more"),
        ("seed: 9223372036854775808", "f:1:1: seed: ", f"must be {MAX_SEED} or less"),
        (f"seed: {MAX_SEED}\ncount: 2", "f:1:1: seed: ", f"seed + count goes past {MAX_SEED}"),
        ("steps: true", "f:1:1: steps: ", "must be a whole number, not True"),
        ("steps: '20'", "f:1:1: steps: ", "must be a whole number, not '20'"),
        ("steps: 2.5", "f:1:1: steps: ", "must be a whole number, not 2.5"),
        ("steps:", "f:1:1: steps: ", "must be a whole number, not None"),
        ("guidance_scale: true", "f:1:1: guidance_scale: ", "must be a number, not True"),
        ("prompt: 5", "f:1:1: prompt: ", 'must be text, not 5; put it in quotes: prompt: "5"'),
        ('prompt: "\\ud800"', "f:1:1: prompt: ", ""),
        ('output: {dir: "a\\0b"}', "f:1:10: output.dir: ", ""),
        ("output: {dir: ''}", "f:1:10: output.dir: ", "must not be empty"),
        ("memory: {vae_tiling: yes}", "f:1:10: memory.vae_tiling: ", "must be true, false or auto, not 'yes'"),
        ("memory: {offload: disk}", "f:1:10: memory.offload: ", "'auto', 'none', 'model', 'group' or 'sequential', not 'disk'"),
        ("memory: none", "f:1:1: memory: ", "not 'none'"),
        ("device: tpu", "f:1:1: device: ", "not 'tpu'"),
        ("dtype: half", "f:1:1: dtype: ", "'auto', 'float16', 'bfloat16' or 'float32', not 'half'"),
        ("dtype: float16\ndevice: cpu", "f:1:1: dtype: ", "float16 cannot run on a CPU; use float32"),
        ("scheduler: eulr", "f:1:1: scheduler: ", "no scheduler 'eulr', did you mean 'euler'?"),
        ("scheduler: dpm fast", "f:1:1: scheduler: ", "the closest is `dpm++2m`"),
        ("scheduler: 5", "f:1:1: scheduler: ", "not 5"),
        ("scheduler: {name: euler, options: {a: 1}}", "f:1:1: scheduler: ", "EulerDiscreteScheduler takes no option 'a'"),
        ("scheduler: euler\neta: 0.5", "f:2:1: eta: ", "euler has no eta; the schedulers that have it: ddim, tcd"),
        ("steps: 1000\nscheduler: dpm++2m", "f:1:1: steps: ", "at most 999"),
        ("width: 100\nheight: 64", "f:1:1: width: ", "must be a multiple of 8; the nearest are 96 and 104"),
        ("width: 64\nheight: 3", "f:2:1: height: ", " 8"),
        ("width: 64\nheight: -5", "f:2:1: height: ", "must be 8 or more, not -5"),
        ("width: 9001\nheight: 64", "f:1:1: width: ", "must be 8192 or less, not 9001"),
        ("width: 8200\nheight: 64", "f:1:1: width: ", "must be 8192 or less, not 8200"),
        ("width: 0\nheight: 64", "f:1:1: width: ", "must be 8 or more, not 0"),
        ("steps: 1\nwidth: 64", "f:2:1: width", "give both width and height, or neither"),
        ("steps: 1\nheight: 64", "f:2:1: ", "give both width and height, or neither"),
        ("task: {kind: inpaint, image: x}", "f:1:1: task.mask: ", "is required here"),
        ("task: {kind: img2img, image: ''}", "f:1:23: task.image: ", "must not be empty"),
        ("task: {kind: img2img, image: x, strength: 1.01}", "f:1:33: task.strength: ", "must be 1 or less, not 1.01"),
        ("task: {kind: img2img, image: x, strength: 0.01}", "f:1:33: task.strength: ", "use at least 0.05"),
        ("task: {kind: inpaint, image: x, mask: y, padding: -1}", "f:1:42: task.padding: ", "must be 0 or more"),
        ("task: {kind: img3img}", "f:1:8: task.kind: ", "must be one of txt2img, img2img, inpaint, outpaint, upscale, not 'img3img'"),
        ("task: {image: x}", "f:1:1: task", "kind"),
        ("output: {name: '{sed}'}", "f:1:10: output.name: ", "the placeholders are {prompt} {seed} {line} {index} "),
        ("output: {name: '{seed:04d}'}", "f:1:10: output.name: ", "the placeholders are "),
        ("output: {name: '{'}", "f:1:10: output.name: ", "the placeholders are "),
        ("output: {name: '../{seed}'}", "f:1:10: output.name: ", "without folders; choose the folder with output.dir"),
        ("output: {name: 'a\\b'}", "f:1:10: output.name: ", "without folders"),
        ('output: {name: "a\\0b"}', "f:1:10: output.name: ", "without folders"),
        ("output: {name: '..'}", "f:1:10: output.name: ", "a file name"),
        ("output: {format: jpg}", "f:1:10: output.format: ", "'png', 'jpeg' or 'webp', not 'jpg'"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_at_its_place(text: str, place: str, fragment: str) -> None:
    (line,) = lines(text)
    assert line.startswith(place)
    assert fragment in line


def test_every_bad_setting_is_told_at_once() -> None:
    told = lines("steps: 0\nstepz: 1\nmemory:\n  offload: x\n")
    assert sorted(line.split(": ")[0] for line in told) == ["f:1:1", "f:2:1", "f:4:3"]


def test_a_bad_flag_is_named_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^--set steps=0: must be "):
        validate(merge([parse_yaml("steps: 5", "f"), parse_override("steps=0")]))


def test_an_option_with_a_value_of_no_kind_is_told_once() -> None:
    (line,) = lines("scheduler: {name: euler, options: {use_karras_sigmas: [1]}}")
    assert line.startswith("f:1:36: scheduler.options.use_karras_sigmas: ")


@pytest.mark.parametrize("steps", range(1, 1001, 7))
def test_the_strength_that_is_advised_is_accepted(steps: int) -> None:
    task = "steps: {}\ntask: {{kind: img2img, image: x, strength: {}}}"
    (line,) = lines(task.format(steps, 0))
    check(task.format(steps, re.search(r"use at least ([\d.]+)$", line)[1]))


# --- what is allowed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("", "scheduler.name", "dpm++2m-karras"),
        ("guidance_scale: 7", "guidance_scale", 7.0),
        ("guidance_scale: 1e-5", "guidance_scale", 1e-5),
        ("prompt: no", "prompt", "no"),
        ("seed: 010", "seed", 10),
        (f"seed: {MAX_SEED}", "seed", MAX_SEED),
        ("width: null\nheight: null", "width", None),
        ("width: 8\nheight: 8192", "height", 8192),
        ("device: cuda:3", "device", "cuda:3"),
        ("scheduler: {name: DPM++ 2M Karras}", "scheduler.name", "DPM++ 2M Karras"),
        ("scheduler: ddim\neta: 0", "eta", 0.0),
        ("output: {name: '{prompt} ({seed}) été'}", "output.name", "{prompt} ({seed}) été"),
        ("task: {kind: inpaint, image: x, mask: y}", "task.strength", 1.0),
        ("task: {kind: img2img, image: x}", "task.strength", 0.8),
    ],
)
def test_a_good_setting_is_taken_as_it_is(text: str, path: str, value: object) -> None:
    found: Any = check(text)
    for part in path.split("."):
        found = getattr(found, part)
    assert (found, type(found)) == (value, type(value))


def test_there_are_example_configs() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_an_example_config_is_good(file: Path) -> None:
    assert validate(merge(read_config_file(file)))


# --- show ---------------------------------------------------------------------------------------------------------


def test_show_says_where_each_value_comes_from() -> None:
    text = "steps: 30\nscheduler: ddim\nmemory:\n  offload: model\n"
    merged = merge([parse_yaml(text, "f"), parse_override("output.dir=pics"), parse_override("steps=5")])
    said = {
        line.partition("  # ")[0].strip(): line.partition("  # ")[2]
        for line in as_yaml(settings_with_origins(validate(merged), merged)).splitlines()
    }
    expected = {
        "steps: 5": "--set steps=5", "name: ddim": "f:2:1", "options: {}": "default", "offload: model": "f:4:3",
        "vae_tiling: auto": "default", "dir: pics": "--set output.dir=pics", "seed: null": "default", "memory:": "",
    }  # fmt: skip
    assert {line: said.get(line) for line in expected} == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt": "1e5"},
        {"prompt": "0x10"},
        {"prompt": "no: # yes"},
        {"prompt": "two\nlines  # three"},
        {"prompt": "🏠 \u2028 été " * 99},
        {"output": {"dir": "a\nb"}},
        {
            "guidance_scale": 1e-5,
            "seed": MAX_SEED,
            "scheduler": {"name": "euler", "options": {"use_beta_sigmas": True}},
        },
        {"task": {"kind": "inpaint", "image": "i.png", "mask": "~"}},
    ],
    ids=lambda settings: repr(settings)[:40],
)
def test_what_show_prints_is_the_same_config_again(settings: dict[str, Any]) -> None:
    merged = Layer(settings)
    config = validate(merged)
    assert check(as_yaml(settings_with_origins(config, merged))) == config


# --- the schema ---------------------------------------------------------------------------------------------------


def test_the_schema_beside_the_configs_is_up_to_date() -> None:
    """To update it: sdapp config schema > configs/sdapp.schema.json"""
    assert (CONFIGS / "sdapp.schema.json").read_text(encoding="utf-8") == json_schema()


def test_the_schema_describes_every_key_and_allows_no_other() -> None:
    schema = json.loads(json_schema())
    assert list(schema["properties"]) == ["extends", *RunConfig.model_fields]
    assert schema["additionalProperties"] is False
    assert {tuple(part["properties"]) for name, part in schema["$defs"].items() if name in ("Memory", "Output")} == {
        tuple(Memory.model_fields), tuple(Output.model_fields),
    }  # fmt: skip
    assert {"type": "string"} in schema["properties"]["scheduler"]["anyOf"]


# --- anything at all ----------------------------------------------------------------------------------------------

WORDS = [
    *RunConfig.model_fields, *Memory.model_fields, *Output.model_fields, *Inpaint.model_fields,
    "name", "options", "txt2img", "img2img", "inpaint", "extends", "ddim", "euler", "use_karras_sigmas", "cpu", "{seed}",
]  # fmt: skip
KEYS = st.sampled_from(WORDS) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*WORDS, 10**400])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def complaints_without_a_place(text: str) -> list[str]:
    try:
        check(text)
    except ConfigError as exc:
        return [line for line in str(exc).splitlines() if not re.match(r"f:(\d+:\d+:)? ", line)]
    return []


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_document_is_good_or_refused_by_place(document: dict[str, Any]) -> None:
    assert complaints_without_a_place(yaml.safe_dump(document, allow_unicode=True)) == []


@settings(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from([*WORDS, *": -,[]{}#&*!|>'\"%@`?\n\t", "\n  ", ": ", "<<"])).map("".join)
)
def test_any_text_is_good_or_refused_by_place(text: str) -> None:
    assert complaints_without_a_place(text) == []


@pytest.mark.parametrize("name", ["in.jfif", "in", "in.png", "in.txt"])
def test_an_image_given_as_config_is_known_by_what_is_in_it(name: str, sdapp: Run) -> None:
    Path(name).write_bytes((CASES / "26-jfif-as-config" / "in.jfif").read_bytes())
    result = sdapp("config", "show", "--config", name, "--set", "model=postcards")
    assert result.exit_code == 0
    assert 'prompt: "日本日本日本 a red café"' in result.stdout
    assert "steps: 4 " in result.stdout
