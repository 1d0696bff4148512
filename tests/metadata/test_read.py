import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdapp.config import RunConfig
from sdapp.errors import InputError
from sdapp.metadata import comfyui, containers, named, read

NO_IMAGE = "task.image: not inside the image"
NO_MASK = "task.mask: not inside the image"

SDCPP = (
    "a red cube\nNegative prompt: blue\nSteps: 12, CFG scale: 7.000000, Guidance: 3.500000, Seed: 42, Size: 512x512, "
    "Model: model.safetensors, RNG: cuda, Sampler: dpm++2m karras, Clip skip: 2, Version: stable-diffusion.cpp"
)
SDCPP_JSON = (
    SDCPP + ', SDCPP: {"schema":"sdcpp.image.params/v1","seed":9,"prompt":{"positive":"Steps: 1, Seed: 3"}}'
)
OF_SDCPP = {
    "prompt": "a red cube", "negative_prompt": "blue", "steps": 12, "guidance_scale": 7.0, "seed": 42, "width": 512,
    "height": 512, "clip_skip": 1, "scheduler": {"name": "dpm++2m-karras", "options": {}},
}  # fmt: skip
LEFT_OF_SDCPP = ["RNG: cuda (the same seed gives other noise)"]
SDCPP_XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description>'
    f"<sdcpp:parameters>{SDCPP.replace('red', '&lt;red&gt;')}</sdcpp:parameters></rdf:Description></rdf:RDF></x:xmpmeta>"
)
INVOKE = {
    "generation_mode": "txt2img", "positive_prompt": "dark abstract painting", "negative_prompt": "frame", "width": 832,
    "height": 1216, "seed": 1554095076, "rand_device": "cpu", "cfg_scale": 15.0, "cfg_rescale_multiplier": 0.0, "steps": 50,
    "scheduler": "kdpm_2_a_k", "clip_skip": 2, "seamless_x": False, "regions": [], "app_version": "5.4.3",
    "model": {"key": "9f583d2f", "hash": "blake3:6a22", "name": "dreamshaper", "base": "sd-1", "type": "main"},
    "loras": [{"model": {"key": "1", "name": "add_detail"}, "weight": 0.8}],
}  # fmt: skip
OF_INVOKE = {
    "prompt": "dark abstract painting", "negative_prompt": "frame", "width": 832, "height": 1216, "seed": 1554095076,
    "guidance_scale": 15.0, "steps": 50, "clip_skip": 2, "scheduler": {"name": "dpm2-a-karras", "options": {}},
}  # fmt: skip
KOHYA = {
    "prompt": "a cat, sitting", "negative-prompt": "bad", "seed": "123", "sampler": "euler_a", "steps": "30", "scale": "7.5",
    "raw-prompt": "a {cat|dog}", "negative-scale": "3.0", "dpi": (96, 96),
}  # fmt: skip


def foreign(info: dict[str, Any], comment: str | None = None) -> tuple[str, dict[str, Any], list[str]] | None:
    """The tool, what a config gets of its settings, and what is left out, with `comment` in EXIF."""
    found = read.read_foreign(info | ({"exif": containers.exif_bytes(comment)} if comment else {}))
    return (found[0], found[1].values, found[1].left_out) if found else None


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


GRAPH = {
    "3": node("KSampler", seed=["20", 0], steps=25, cfg=8, sampler_name="dpmpp_2m_sde_gpu", scheduler="karras", denoise=1,
              model=["10", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
    "4": node("CheckpointLoaderSimple", ckpt_name="v1-5.safetensors"),
    "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
    "6": node("CLIPTextEncode", text=["21", 0], clip=["11", 0]),
    "7": node("CLIPTextEncode", text="text, watermark", clip=["11", 0]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    "10": node("LoraLoader", lora_name="detail.safetensors", strength_model=0.8, model=["4", 0], clip=["4", 1]),
    "11": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1]),
    "20": node("PrimitiveInt", value=156680208700286),
    "21": node("PrimitiveString", value="a glass bottle"),
}  # fmt: skip
OF_GRAPH = {
    "prompt": "a glass bottle", "negative_prompt": "text, watermark", "seed": 156680208700286, "steps": 25,
    "guidance_scale": 8.0, "scheduler": {"name": "dpm++2m-sde-karras", "options": {}}, "width": 512, "height": 768,
    "clip_skip": 1, "profile": "comfyui",
}  # fmt: skip
LEFT_OF_GRAPH = [
    "LoraLoader: detail.safetensors",
]


def comfy(changes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    found = foreign({"prompt": json.dumps(GRAPH | changes)})
    assert found
    assert found[0] == "ComfyUI"
    return found[1:]


@pytest.mark.parametrize(
    ("info", "comment", "tool", "found", "left"),
    [
        ({"parameters": SDCPP}, None, "stable-diffusion.cpp", OF_SDCPP, LEFT_OF_SDCPP),
        ({"parameters": SDCPP_JSON}, None, "stable-diffusion.cpp", OF_SDCPP, LEFT_OF_SDCPP),
        ({"comment": SDCPP.encode()}, None, "stable-diffusion.cpp", OF_SDCPP, LEFT_OF_SDCPP),
        ({"xmp": SDCPP_XMP.encode()}, None, "stable-diffusion.cpp", OF_SDCPP | {"prompt": "a <red> cube"}, LEFT_OF_SDCPP),
        ({"invokeai_metadata": json.dumps(INVOKE)}, None, "InvokeAI", OF_INVOKE,
         ["loras: add_detail 0.8"]),
        ({"prompt": json.dumps(GRAPH), "workflow": "{}"}, None, "ComfyUI", OF_GRAPH, LEFT_OF_GRAPH),
        (KOHYA, None, "kohya", {
            "prompt": "a cat, sitting", "negative_prompt": "bad", "seed": 123, "steps": 30, "guidance_scale": 7.5,
            "scheduler": {"name": "euler-a", "options": {}}}, ["negative-scale: 3.0"]),
        ({"parameters": '{"prompt": "a cat", "num_inference_steps": 9, "pipeline": "x"}'}, None, "diffusers-workflow",
         {"prompt": "a cat", "steps": 9}, ["pipeline: x"]),
        ({"parameters": "a cat"}, None, "A1111", {"prompt": "a cat"}, []),
        ({"parameters": "{a|b} cat"}, None, "A1111", {"prompt": "{a|b} cat"}, []),
    ],
)  # fmt: skip
def test_the_tool_is_recognized_and_its_settings_are_carried_over(
    info: dict[str, Any], comment: str | None, tool: str, found: dict[str, Any], left: list[str]
) -> None:
    assert foreign(info, comment) == (tool, found, left)
    RunConfig.model_validate(found)


@pytest.mark.parametrize(
    ("version", "tool"),
    [
        ("v1.10.1", "A1111"),
        ("f2.0.1v1.10.1-previous-669", "Forge"),
        ("sdapp 0.1.0", "sdapp"),
        ("ComfyUI", "ComfyUI"),
    ],
)
def test_the_version_tells_the_tool(version: str, tool: str) -> None:
    found = foreign({}, f"x\nSteps: 2, Seed: 1, Version: {version}")
    assert found is not None
    assert found[0] == tool


@pytest.mark.parametrize(
    ("info", "comment"),
    [
        ({}, None),
        ({"dpi": (96, 96), "comment": b"made with GIMP"}, "ASCII holiday"),
        ({"prompt": "what is your name?"}, None),
        ({"prompt": '{"a": 1}'}, None),
        ({"parameters": " "}, ""),
    ],
)
def test_an_image_of_no_known_tool_gives_none(info: dict[str, Any], comment: str | None) -> None:
    assert foreign(info, comment) is None


def test_exif_wins_over_png_text_and_infotext_over_a_graph() -> None:
    info = {"parameters": "x\nSteps: 2, Seed: 1, RNG: CPU", "prompt": json.dumps(GRAPH)}
    noise = {"profile": "a1111", "rng": "cpu"}
    assert foreign(info) == ("A1111", {"prompt": "x", "steps": 2, "seed": 1} | noise, [])
    found = foreign(info, "y\nSteps: 3, Seed: 4, RNG: CPU")
    assert found == ("A1111", {"prompt": "y", "steps": 3, "seed": 4} | noise, [])


def test_a_graph_is_found_in_the_exif_of_a_webp() -> None:
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(GRAPH)
    found = foreign({"exif": exif.tobytes()})
    assert found == ("ComfyUI", OF_GRAPH, LEFT_OF_GRAPH)


@pytest.mark.parametrize(
    ("changes", "task", "left"),
    [
        ({"5": node("VAEEncode", pixels=["30", 0]), "30": node("LoadImage", image="a.png")},
         {"kind": "img2img", "strength": 0.5}, [NO_IMAGE]),
        ({"5": node("VAEEncodeForInpaint", pixels=["30", 0])}, {"kind": "inpaint", "strength": 0.5}, [NO_IMAGE, NO_MASK]),
        ({}, None, ["denoise: 0.5"]),
    ],
)  # fmt: skip
def test_denoise_is_the_strength_where_there_is_an_image(
    changes: dict[str, Any], task: dict[str, Any] | None, left: list[str]
) -> None:
    sampler = node("KSampler", **GRAPH["3"]["inputs"] | {"denoise": 0.5})
    found, named = comfy(changes | {"3": sampler})
    assert found.get("task") == task
    assert [text for text in named if text not in LEFT_OF_GRAPH] == left


def test_the_sampler_with_an_empty_latent_is_used_and_the_second_pass_is_named() -> None:
    second = node("KSampler", **GRAPH["3"]["inputs"] | {"steps": 9, "latent_image": ["12", 0]})
    found, left = comfy(
        {"1": second, "12": node("LatentUpscale", upscale_method="bicubic", samples=["3", 0])}
    )
    assert found == OF_GRAPH
    assert {"KSampler: dpmpp_2m_sde_gpu, karras", "LatentUpscale: bicubic"} <= set(left)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"6": node("CLIPTextEncode", text=["6", 0], clip=["11", 0])}, "positive: not found"),
        ({"6": node("ConditioningCombine", conditioning_1=["6", 0])}, "positive: not found"),
        (
            {"6": node("A", conditioning=["7", 0]), "7": node("B", conditioning=["6", 0])},
            "positive: not found",
        ),
        ({"20": node("Seed", value=["20", 0])}, "seed: not found"),
        (
            {"20": node("Seed", value=2**64 - 1)},
            "seed: 18446744073709551615 (must be 922337",
        ),
        ({"5": node("EmptyLatentImage", width=512, height=768, batch_size=4)}, "batch_size: 4 (the seed is"),
        ({"10": node("LoraLoader", model=["10", 0], clip=["10", 1])}, "LoraLoader: "),
        ({"3": node("KSamplerAdvanced", noise_seed=1)}, "KSamplerAdvanced: "),
        (
            {"3": node("KSampler", sampler_name=["3", 0], model=["3", 0], latent_image=["3", 0])},
            "Sampler: None",
        ),
    ],
)
def test_a_graph_with_loops_or_gaps_gives_what_can_be_read(changes: dict[str, Any], left: str) -> None:
    found, named = comfy(changes)
    assert [text for text in named if text.startswith(left)]
    RunConfig.model_validate({key: value for key, value in found.items() if key != "task"})


def test_a_negative_prompt_that_is_zeroed_out_is_not_the_positive_one() -> None:
    found, left = comfy({"7": node("ConditioningZeroOut", conditioning=["6", 0])})
    assert "negative_prompt" not in found
    assert "ConditioningZeroOut: " in left


def test_unipc_of_comfyui_has_its_own_order() -> None:
    found, _ = comfy(
        {
            "3": node(
                "KSampler", **GRAPH["3"]["inputs"] | {"sampler_name": "uni_pc_bh2", "scheduler": "normal"}
            )
        }
    )
    assert found["scheduler"] == {"name": "unipc", "options": {"solver_order": 3}}


def test_img2img_of_invokeai_needs_its_image() -> None:
    data = INVOKE | {
        "generation_mode": "sdxl_img2img",
        "strength": 0.6,
        "init_image": "abc.png",
        "rand_device": "cuda",
    }
    found = foreign({"invokeai_metadata": json.dumps(data)})
    assert found
    assert found[1]["task"] == {"kind": "img2img", "strength": 0.6}
    assert found[1]["rng"] == "gpu"
    assert {NO_IMAGE, "init_image: abc.png"} <= set(found[2])


@pytest.mark.parametrize("name", [
    "ddim", "ddpm", "deis", "deis_k", "lms", "lms_k", "pndm", "heun", "heun_k", "euler", "euler_k", "euler_a", "kdpm_2",
    "kdpm_2_k", "kdpm_2_a", "kdpm_2_a_k", "dpmpp_2s", "dpmpp_2s_k", "dpmpp_2m", "dpmpp_2m_k", "dpmpp_2m_sde",
    "dpmpp_2m_sde_k", "dpmpp_3m", "dpmpp_3m_k", "dpmpp_sde", "dpmpp_sde_k", "unipc", "unipc_k", "lcm", "tcd",
])  # fmt: skip
def test_every_scheduler_of_invokeai_is_understood(name: str) -> None:
    found = foreign({"invokeai_metadata": json.dumps({"scheduler": name})})
    assert found
    assert found[1]["scheduler"]["name"].endswith("-karras") == name.endswith("_k")
    assert found[2] == []


# --- hostile content ----------------------------------------------------------------------------------------------

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "info",
    [
        {"invokeai_metadata": "{"},
        {"invokeai_metadata": "[]"},
        {"invokeai_metadata": "5"},
        {"invokeai_metadata": '{"loras": ' + DEEP},
        {"prompt": '{"3": ' + DEEP},
        {"parameters": '{"a": ' + DEEP},
        {"parameters": "x" * 4_000_001},
        {"parameters": "{" + "x" * 4_000_001},
    ],
    ids=lambda info: str(info)[:40],
)
def test_broken_metadata_is_refused_with_a_reason(info: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"broken|too deep|at most 4,000,000"):
        foreign(info)


@pytest.mark.parametrize("depth", [200, 500, 900])
def test_deep_but_readable_metadata_is_shortened(depth: int) -> None:
    text = (
        '{"loras": '
        + "[" * depth
        + "]" * depth
        + ', "model": '
        + '{"name": ' * depth
        + "1"
        + "}" * depth
        + "}"
    )
    try:
        found = foreign({"invokeai_metadata": text})
    except InputError:
        return
    assert found
    assert all(len(text) < 300 for text in found[2])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["3", "5", "KSampler"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6,
)  # fmt: skip
LINKS = JSON | st.tuples(st.sampled_from(list(GRAPH)), st.just(0)).map(list)
KINDS = st.sampled_from([*comfyui.NODES, "KSampler", "LoraLoader", "ConditioningZeroOut"])
INPUTS = [
    *GRAPH["3"]["inputs"], "text", "clip", "value", "samples", "stop_at_clip_layer", "width", "height", "batch_size",
]  # fmt: skip
NODES = st.fixed_dictionaries(
    {"class_type": KINDS | JSON, "inputs": st.dictionaries(st.sampled_from(INPUTS), LINKS, max_size=8) | JSON}
)
GRAPHS = st.dictionaries(st.sampled_from(list(GRAPH)), NODES | JSON, max_size=6)
WORDS = st.sampled_from(
    [*(name for names in named.NAMES.values() for name in names), *INVOKE, "Sampler", "Schedule type", "Size", "Clip skip", "Denoising strength", "Scheduler options",
     "Version", "Mask blur", "Inpaint area", "Masked area padding", "RNG", "Model", "Emphasis", "strength", "sampler"]
)  # fmt: skip
TEXTS = st.text(max_size=40) | st.lists(
    st.tuples(WORDS, st.text(max_size=10) | st.sampled_from(["1", "sdapp 1", "DPM++ 2M", "8x8", '"{}"', '"{\\"a\\": []}"'])),
    max_size=8,
).map(lambda items: "Steps: 1, Seed: 2, " + ", ".join(f"{key}: {value}" for key, value in items))  # fmt: skip
CONTENT = (
    TEXTS
    | GRAPHS.map(json.dumps)
    | st.dictionaries(WORDS, JSON, max_size=6).map(json.dumps)
    | st.binary(max_size=80)
)
KEYS = [
    "parameters",
    "prompt",
    "invokeai_metadata",
    "comment",
    "xmp",
    "exif",
    "negative-prompt",
    "sampler",
    "steps",
    "scale",
]


@settings(max_examples=500, deadline=None)
@given(info=st.dictionaries(st.sampled_from(KEYS), CONTENT | JSON, max_size=4), comment=st.none() | TEXTS)
def test_no_content_crashes_the_readers(info: dict[str, Any], comment: str | None) -> None:
    try:
        found = foreign(info, comment)
    except InputError:
        return
    if found:
        tool, values, left = found
        assert tool
        assert all(text.isprintable() for text in left)
        files = {"image": "a", "mask": "b"}
        task = values.pop("task", {"kind": "txt2img"})
        kept = {"txt2img": {}, "img2img": {"image": "a"}, "inpaint": files}[task["kind"]]
        RunConfig.model_validate(values | {"task": task | kept})
