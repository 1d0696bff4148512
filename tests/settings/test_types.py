from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from sdapp.config import COLUMNS, MODEL_KEYS, SETTINGS, VARIABLE, RunConfig
from sdapp.errors import ConfigError
from sdapp.settings.files import anchor_paths, parse_override
from sdapp.settings.layers import Layer, combine
from sdapp.settings.types import FilePath, Frozen, ModelReference, Setting, declared
from sdapp.validation import validate


def keys(kind: str) -> set[str]:
    return {key for key, setting in SETTINGS.items() if setting.kind == kind}


def test_all_else_about_settings_follows_from_their_declarations() -> None:
    assert keys("file") == {
        "task.image",
        "task.mask",
        "output.dir",
        "loras",
        "loras.file",
        "embeddings",
        "embeddings.file",
        "control.image",
        "folders.models",
        "folders.loras",
        "folders.embeddings",
    }
    assert set(MODEL_KEYS) == keys("model") == {
        "model", "vae", "base", "safety_checker", "control.model", "upscale.model", "score.model",
        "task.mask_model", "detail.mask_model",
    }  # fmt: skip
    assert keys("text") == {
        "prompt",
        "negative_prompt",
        "task.kind",
        "task.sides",
        "output.name",
        "embeddings.name",
        "task.mask_prompt",
        "detail.mask_prompt",
        "detail.prompt",
        "detail.negative_prompt",
    }
    assert keys("name") == {
        "scheduler.name", "upscale.scheduler.name", "upscale.sha256", "revision", "loras.sha256", "embeddings.sha256", "executor.address",
        "control.sha256", "score.kind", "task.mask_sha256", "detail.mask_sha256",
    }  # fmt: skip
    assert [key for key, setting in SETTINGS.items() if setting.list_of] == [
        "guidance_interval",
        "original_size",
        "crop",
        "loras",
        "embeddings",
        "control",
        "detail",
    ]
    assert set(RunConfig.model_fields) - set(COLUMNS) == {
        "model", "revision", "vae", "device", "dtype", "memory", "compile", "channels_last", "batch_size", "output",
        "compare", "folders", "preview", "safety_checker", "flagged", "executor", "base", "score",
    }  # fmt: skip
    assert set(COLUMNS) - set(VARIABLE) == {"scheduler", "steps", "prompt", "seed", "count"}


class Layered(Frozen):
    file: FilePath
    base: ModelReference | None = None


class WithLoras(Frozen):
    loras: Annotated[list[Layered], Setting(list_of=(dict,))] = []
    first: Layered | None = None


def test_files_inside_lists_and_groups_become_relative_to_the_file_that_names_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = declared(WithLoras)
    assert (found["loras"].list_of, found["loras.file"].kind, found["first.base"].kind) == (
        (dict,),
        "file",
        "model",
    )
    values = {"loras": [{"file": "a"}, {"file": "/b"}, 5], "first": {"file": ["c", "d"], "base": "./m"}}
    anchor_paths(values, tmp_path, found)
    assert values == {
        "loras": [{"file": f"{tmp_path}/a"}, {"file": "/b"}, 5],
        "first": {"file": [f"{tmp_path}/c", f"{tmp_path}/d"], "base": f"{tmp_path}/./m"},
    }


# --- errors inside groups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task=5", "--set task=5: must be a group of keys (kind, image, strength, mask_model, mask_threshold, mask_growth, mask_sha256, mask, mask_prompt, padding, mask_blur, sides), not 5"),
        ("task={kind: img2img, image: a, img2img: 1}", "task.img2img: unknown key; allowed here: kind, image, strength"),
        ("scheduler=[1]", "--set scheduler=[1]: must be a group of keys (name, options, exact), not [1]"),
        ("output.dir.x=1", "output.dir: must be text, not {'x': 1}; put it in quotes"),
        ("compare.vary.a.b=1", "compare.vary.a: must be a list, not {'b': 1}"),
        ("memory.offload.x=1", "memory.offload: must be 'auto', 'none', 'model', "),
        ("compare={schedulers: ddim, vary: {eta: [{}]}}", "compare.vary.eta.0: must be text, a number, true or false, not {}"),
        ("batch_size=[1]", "--set batch_size=[1]: must be a number from 1 to 256, or auto, not [1]"),
        ("device=5", "--set device=5: must be auto, cpu, cuda, cuda:N or mps, not 5"),
    ],
)  # fmt: skip
def test_a_wrong_nested_setting_is_refused_once_and_by_its_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        validate(combine([parse_override(text)]))
    found = [line for line in str(refusal.value).splitlines() if "schedulers: is required" not in line]
    assert len(found) == 1
    assert message in found[0]


def names(group: type[BaseModel]) -> list[str]:
    return sorted(
        {part for key in declared(group) for part in key.split(".")} | {"vary", "img2img", "int", "x.y"}
    )


KEYS = st.sampled_from(names(RunConfig)) | st.text(max_size=3)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["img2img", "ddim"])
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
GROUPS = st.sampled_from(["task", "scheduler", "memory", "output", "compare"])


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(GROUPS, NESTED, min_size=1, max_size=3))
def test_any_nested_settings_are_good_or_refused_by_place(values: dict[str, object]) -> None:
    errors: list[str] = []
    try:
        validate(Layer(values, dict.fromkeys(values, "here")))
    except ConfigError as exc:
        errors = [line for line in str(exc).splitlines() if not line.startswith(" ")]
    assert [line for line in errors if not line.startswith("here: ")] == []
