"""Images of other tools that were once read wrongly, each with its right values; `cases/` has the small files."""

import json
import re
import string
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from sdapp import images
from sdapp.errors import InputError
from sdapp.metadata import infotext
from sdapp.metadata.read import read_foreign, read_settings

Run = Callable[..., Result]
CASES = Path(__file__).parents[1] / "cases"
HOUSE = {
    "prompt": "a red house",
    "negative_prompt": "tree",
    "seed": 77,
    "steps": 4,
    "width": 64,
    "height": 64,
}
FIELDS = "Steps: 4, Sampler: Euler a, CFG scale: 6, Seed: 77, Size: 64x64, RNG: CPU, Model: foo"


CPU = {"profile": "a1111", "rng": "cpu"}  # what FIELDS say of the noise


def scheduler(name: str) -> dict[str, Any]:
    return {"scheduler": {"name": name, "options": {}}}


def png(folder: Path, **texts: str) -> Path:
    """A PNG with texts inside, in a file `made.png`."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (64, 64)).save(folder / "made.png", pnginfo=info)
    return folder / "made.png"


def infotext_settings(text: str) -> tuple[dict[str, Any], str]:
    """The settings in an infotext, and what is left out and noted, as one text."""
    found = read_foreign({"parameters": text})
    assert found
    return found[1].values, "; ".join([*found[1].left_out, *found[1].notes])


# --- the files of the cases -----------------------------------------------------------------------------------


GPU = {"profile": "a1111"}
BEACH = HOUSE | {"prompt": "a red house on a beach", "guidance_scale": 6.0} | scheduler("euler-a") | GPU
GRAPH_HOUSE = HOUSE | {"guidance_scale": 6.5, "profile": "comfyui"} | scheduler("euler-a")
BARE = {key: value for key, value in HOUSE.items() if key != "negative_prompt"}


@pytest.mark.parametrize(
    ("file", "found", "notes"),
    [
        ("01-template-lines/in.png", BEACH, ["Template: a {red|blue} house on a beach", "Negative Template: tree"]),
        ("02-one-line/one.png", BEACH, ["its settings are on the line of the prompt; they begin at `Steps: 4,"]),
        ("03-utf8-in-tEXt/in.png",
         BEACH | {"prompt": "a red café on a beach 日本", "negative_prompt": "träd"}, []),
        ("08-comfy-text-through-a-node/replace.png", GRAPH_HOUSE, []),
        ("11-decimal-comma/in.png", BARE | {"guidance_scale": 6.5} | scheduler("euler-a") | GPU, []),
        ("17-large-text-chunk/comfy.png", GRAPH_HOUSE, []),
        ("18-comfy-webp-make/good.webp", GRAPH_HOUSE, ["Schedule type: karras"]),
        ("18-comfy-webp-make/make.webp", GRAPH_HOUSE, ["Schedule type: karras"]),
        ("19-invokeai-2/in.png",
         HOUSE | {"steps": 50, "guidance_scale": 7.5, "width": 512, "height": 512} | scheduler("lms"), []),
        ("20-swarm-fooocus-json/swarm.png",
         HOUSE | {"steps": 20, "guidance_scale": 7.0, "width": 512, "height": 512} | scheduler("euler-a"),
         ["was made by SwarmUI", "Schedule type: karras"]),
        ("20-swarm-fooocus-json/fooocus.png",
         HOUSE | {"steps": 30, "guidance_scale": 4.0, "seed": 1234567890123456789, "width": 896, "height": 1152}
         | scheduler("dpm++2m-sde-karras"), ["was made by Fooocus", "styles: ['Fooocus V2']", "sharpness: 2.0"]),
        ("28-joined-sampler-names/a.png", BARE | {"guidance_scale": 6.0, "profile": "comfyui"} | scheduler("euler-a"),
         ["Schedule type: karras (EulerAncestralDiscreteScheduler has no karras"]),
        ("31-names-of-fields/cfg.png", BARE | {"guidance_scale": 6.0, "profile": "comfyui"} | scheduler("euler-a"), []),
        ("31-names-of-fields/scheduler.png",
         HOUSE | {"guidance_scale": 6.0, "profile": "comfyui"} | scheduler("dpm++2m-karras"), []),
        ("27-replay-hides-why/in.png", {"width": 64, "height": 64}, ["KSamplerAdvanced: enable, euler"]),
    ],
)  # fmt: skip
def test_each_case_has_its_right_values(file: str, found: dict[str, Any], notes: list[str]) -> None:
    layer = read_settings(CASES / file)
    assert layer.values == found
    assert not [note for note in notes if note not in " ".join(layer.notes)]


# --- infotext in other shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"a red house\nNegative prompt: tree\n{FIELDS}",
        f"a red house\nNegative Prompt: tree\n{FIELDS}",
        f"a red house\nnegative prompt : tree\n{FIELDS.upper().replace('EULER A', 'Euler a').replace('64X64', '64x64')}",
        f"a red house Negative prompt: tree {FIELDS}",
        f"a red house. Negative prompt: tree. {FIELDS}",
        f"a red house, Negative Prompt: tree, {FIELDS}",
        f"a red house\nNegative prompt: tree {FIELDS}",
        f"a red house\nNegative prompt: tree\nModel: foo, {FIELDS}",
        f"a red house\n{FIELDS}\nNegative prompt: tree",
        f"a red house\nNegative prompt: tree\n{FIELDS}\n\nTemplate: x, y\nz: Steps 5\nWildcard prompt: __a__",
        "a red house\nNegative prompt: tree\n" + FIELDS.replace(", ", "\n"),
        "a red house\nNegative prompt: tree\n" + FIELDS.replace(", ", ",\n"),
        "a red house\nNegative prompt: tree\n" + FIELDS.replace(", Seed", "\nSeed"),
        "a red house\nNegative prompt: tree\n" + FIELDS.replace(", Seed", ', Wildcard prompt: "a\nb: c,\nd", Seed'),
        f"a red house\nNegative prompt: tree\n{FIELDS}".replace("\n", "\\n"),
        "a red house Negative prompt: tree Sampler: Euler a, CFG scale: 6,0, Size: 64x64, Seed: 77, Steps: 4, RNG: CPU",
        "a red house\nNegative prompt: tree\n"
        "Steps: 4.0, Sampler: k_euler_a, Scheduler: normal, cfg_scale: 6,0, seed: 77.0, SIZE: 64.0x64.0, rng: cpu",
    ],
)  # fmt: skip
def test_infotext_of_other_shapes_is_read(text: str) -> None:
    found, named = infotext_settings(text)
    assert found == HOUSE | {"guidance_scale": 6.0} | scheduler("euler-a") | CPU
    assert "RNG" not in named
    assert ("Template: x; y z: Steps 5; Wildcard prompt: __a__" in named) == ("Template" in text)
    assert ("on the line of the prompt" in named) == (not re.search(r"(?im)(^|\\n)(steps|model)", text))


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (f"a red house\nwith steps: 3, seed: 4, size: big\n{FIELDS}", "a red house\nwith steps: 3, seed: 4, size: big"),
        (f"a house, size: big, mood: dark, {FIELDS}", "a house, size: big, mood: dark"),
        (f"Steps: 9, Seed: 8, Size: 8x8\n{FIELDS}", "Steps: 9, Seed: 8, Size: 8x8"),
        ("a house with 3 steps: red, seed: of a plant, size: large",
         "a house with 3 steps: red, seed: of a plant, size: large"),
    ],
)  # fmt: skip
def test_words_of_the_prompt_are_no_settings(text: str, prompt: str) -> None:
    found, _ = infotext_settings(text)
    assert found["prompt"] == prompt
    assert found.get("seed") == (77 if FIELDS in text else None)


def test_a_label_within_a_line_of_the_prompt_is_told() -> None:
    found, named = infotext_settings(f"a sign, Negative prompt: b\n{FIELDS}")
    assert found["prompt"] == "a sign, Negative prompt: b"
    assert "`Negative prompt:` is within a line of its prompt" in named
    assert "within a line" not in infotext_settings(f"a\nNegative prompt: no Negative prompt: b\n{FIELDS}")[1]


def test_fields_of_a_second_pass_do_not_begin_the_settings() -> None:
    more = "Variation seed: 5, Variation seed strength: 0.1, Hires steps: 9, Hires CFG Scale: 5, Hires upscale: 2"
    found, named = infotext_settings(f"a red house Negative prompt: tree {FIELDS}, {more}, Version: v1.6.0")
    assert found == HOUSE | {"guidance_scale": 6.0} | scheduler("euler-a") | CPU
    assert more.replace(", ", "; ") in named


def test_settings_that_cannot_be_told_from_the_prompt_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be told from its prompt"):
        infotext_settings("a red house | Steps: 4 | Sampler: Euler a | Seed: 77 | Size: 64x64")


@pytest.mark.parametrize(
    ("sampler", "name", "left"),
    [
        ("Euler a_karras", "euler-a", "Schedule type: karras"),
        ("euler_ancestral_beta", "euler-a", "Schedule type: beta"),
        ("ddpm_karras", "ddpm", "Schedule type: karras"),
        ("dpmpp_2m_sde_gpu_karras", "dpm++2m-sde-karras", "dpmpp_2m_sde_gpu draws the noise of its steps"),
        ("DPM++ 2M (SGM Uniform)", "dpm++2m-trailing", ""),
        ("DPM++ 2M SDE/exponential", "dpm++2m-sde-exponential", ""),
        ("dpmpp_2m + karras", "dpm++2m-karras", ""),
        ("dpmpp_2m:karras", "dpm++2m-karras", ""),
        ("euler_sgm_uniform", "euler-trailing", ""),
        ("dpmpp_3m_sde_linear_quadratic", "dpm++3m-sde", "Schedule type: linear_quadratic (diffusers has no such"),
        ("DPM++ 2M Karras, Schedule type: Beta", "dpm++2m-karras", "Beta (the sampler's name says Karras)"),
        ("dpmpp_2m, Scheduler: karras", "dpm++2m-karras", ""),
        ("lcm_karras", "lcm", "Schedule type: karras"),
        ("ddim_uniform", "ddim", ""),
    ],
)  # fmt: skip
def test_a_joined_name_is_sampler_and_schedule(sampler: str, name: str, left: str) -> None:
    found, named = infotext_settings(f"x\nSteps: 4, Sampler: {sampler}, Seed: 77, RNG: CPU")
    assert found["scheduler"]["name"] == name
    assert left in named
    assert bool(left) == bool(named)


def test_joined_unipc_keeps_the_options_of_comfyui() -> None:
    found, _ = infotext_settings("x\nSteps: 4, Sampler: uni_pc_karras, Seed: 77")
    options = {"solver_type": "bh1", "solver_order": 3}
    assert found["scheduler"] == {"name": "unipc-karras", "options": options}


@pytest.mark.parametrize(("skip", "layers"), [("2.0", 1), ("2", 1), ("1.0", None), ("1", None), ("0", None)])
def test_clip_skip_counts_the_last_layer_as_one(skip: str, layers: int | None) -> None:
    assert infotext_settings(f"x\n{FIELDS}, Clip skip: {skip}")[0].get("clip_skip") == layers


@pytest.mark.parametrize(
    ("version", "tool"),
    [("App: SD.Next, Version: 8a1b2c3", "SD.Next"), ("Version: Fooocus v2.5.0", "Fooocus")],
)
def test_tools_that_write_infotext_are_named(version: str, tool: str) -> None:
    found = read_foreign({"parameters": f"x\n{FIELDS}, {version}"})
    assert found
    assert found[0] == tool


# --- other containers -----------------------------------------------------------------------------------------


def graph(text: object = "a red house", **nodes: Any) -> str:
    """The graph of the cases with another prompt."""
    found = json.loads(images.decode_file(str(CASES / "17-large-text-chunk" / "comfy.png")).info["prompt"])
    found["6"]["inputs"]["text"] = text
    return json.dumps(found | nodes)


def with_exif(comment: str | bytes, tags: dict[int, str] | None = None) -> dict[str, Any]:
    exif = Image.Exif()
    for tag, text in (tags or {}).items():
        exif[tag] = text
    exif.get_ifd(0x8769)[0x9286] = (
        comment if isinstance(comment, bytes) else b"ASCII\0\0\0" + comment.encode()
    )
    return {"exif": exif.tobytes()}


@pytest.mark.parametrize(
    "info",
    [
        with_exif(json.dumps({"prompt": json.loads(graph()), "workflow": {}})),
        with_exif(json.dumps({"prompt": graph(), "workflow": "{}"})),
        with_exif(graph()),
        with_exif("", {0x010F: f"Prompt: {graph()}", 0x010E: "Workflow: {}"}),
        with_exif("", {0x0110: "workflow:{}", 0x010F: f"prompt:{graph()}"}),
    ],
)
def test_a_graph_is_found_anywhere_in_exif(info: dict[str, Any]) -> None:
    found = read_foreign(info)
    assert found
    assert (found[0], found[1].values) == ("ComfyUI", GRAPH_HOUSE)


@pytest.mark.parametrize(
    "info",
    [
        with_exif(b"UNICODE\0" + f"ett träd 日本\n{FIELDS}".encode()),
        with_exif(b"UNICODE\0" + f"ett träd 日本\n{FIELDS}".encode("utf-16-le")),
        {"parameters": f"ett träd 日本\n{FIELDS}".encode().decode("latin-1")},
        {"comment": f"ett träd 日本\n{FIELDS}".encode()},
    ],
)
def test_utf_8_is_read_wherever_it_stands(info: dict[str, Any]) -> None:
    found = read_foreign(info)
    assert found
    assert found[1].values["prompt"] == "ett träd 日本"


def test_latin_1_in_a_text_chunk_stays_latin_1(tmp_path: Path) -> None:
    assert read_settings(png(tmp_path, parameters=f"une fée\n{FIELDS}")).values["prompt"] == "une fée"


def chunks(*found: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks before its pixels."""
    buffer = BytesIO()
    info = PngInfo()
    info.add_text("parameters", f"a red house\n{FIELDS}")
    Image.new("RGB", (64, 64), "red").save(buffer, "png", pnginfo=info)
    data = buffer.getvalue()
    more = b"".join(
        len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4) for kind, body in found
    )
    return data[:33] + more + data[33:]


HUGE = zlib.compress(b"x" * 2_000_000)


@pytest.mark.parametrize(
    "found",
    [
        [(b"zTXt", b"workflow\0\0" + HUGE)],
        [(b"iTXt", b"workflow\0\1\0\0\0" + HUGE)],
        [(b"iTXt", b"workflow\0\0\0\0\0" + b"x" * 5_000_000)],
        [(b"zTXt", b"workflow\0\0no zlib")],
        [(b"tEXt", b"w%d\0" % number + b"x" * 17_000_000) for number in range(4)],
    ],
    ids=["zTXt", "iTXt", "plain iTXt", "broken", "many"],
)
def test_texts_that_pillow_refuses_leave_settings_and_pixels(
    found: list[tuple[bytes, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(chunks(*found))
    assert read_settings(tmp_path / "a.png").values["prompt"] == "a red house"


def test_an_image_with_a_huge_text_is_an_input(sdapp: Run) -> None:
    case = CASES / "17-large-text-chunk" / "comfy.png"
    result = sdapp(
        "batch", Path("p.txt").write_text(f"a cat --image {case} --strength 0.5") and "p.txt", "--dry-run"
    )
    assert result.exit_code == 0, result.stderr


# --- ComfyUI's prompts ----------------------------------------------------------------------------------------


def text_node(kind: str, **inputs: object) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


@pytest.mark.parametrize(
    ("nodes", "prompt", "left"),
    [
        ({"30": text_node("PrimitiveString", value="a red house")}, "a red house", ""),
        ({"30": text_node("StringConcatenate", string_a="a red", string_b=["31", 0], delimiter=" "),
          "31": text_node("PrimitiveStringMultiline", value="house")}, "a red house", ""),
        ({"30": text_node("LLMNode", text="describe a house in 20 words")}, None, "positive: not found (LLMNode is"),
        ({"30": text_node("ShowText|pysssss", text=["31", 0]), "31": text_node("LLMNode", text="x")}, None,
         "positive: not found (LLMNode is not read)"),
        ({"30": text_node("StringReplace", string=["30", 0], find="a", replace="b")}, None, "positive: not found (String"),
        ({"30": text_node("StringReplace", string="a" * 4_001, find="a", replace="b")}, None, "positive: not found (Str"),
        ({"30": text_node("PrimitiveInt", value=5)}, None, "positive: not found (PrimitiveInt"),
        ({"6": text_node("BNK_CLIPTextEncodeAdvanced", text="x")}, None, "positive: not found (BNK_CLIPTextEncodeAdv"),
        ({"6": text_node("ConditioningCombine", conditioning_1=["7", 0], conditioning_2=["7", 0])}, None,
         "positive: not found (ConditioningCombine is not read)"),
    ],
)  # fmt: skip
def test_prompts_come_only_through_nodes_that_keep_them(
    nodes: dict[str, Any], prompt: str | None, left: str
) -> None:
    found = read_foreign({"prompt": graph(["30", 0], **nodes)})
    assert found
    assert found[1].values.get("prompt") == prompt
    assert found[1].values["negative_prompt"] == "tree"
    assert [text for text in found[1].left_out if text.startswith("positive")] == (
        [text for text in found[1].left_out if left in text] if left else []
    )
    assert bool(left) == ("positive" in " ".join(found[1].left_out))


@pytest.mark.parametrize(
    ("node", "seed"),
    [
        (text_node("Seed (rgthree)", seed=5), 5),
        (text_node("easy seed", seed=5, control_after_generate="randomize"), 5),
        (text_node("MathAdd", a=5, b=6), None),
        (text_node("MathDouble", value=["5", 0]), None),
    ],
)
def test_numbers_come_only_from_nodes_that_hold_one(node: dict[str, Any], seed: int | None) -> None:
    nodes = json.loads(graph())
    nodes["3"]["inputs"]["seed"] = ["30", 0]
    found = read_foreign({"prompt": json.dumps(nodes | {"30": node})})
    assert found
    assert found[1].values.get("seed") == seed
    assert ("seed: not found" in found[1].left_out) == (seed is None)


# --- tools with names of their own ----------------------------------------------------------------------------

SD_METADATA = {"image": {"prompt": [{"prompt": "a red house [tree]", "weight": 1.0}], "steps": 4, "seed": 77}}
NOVELAI = {"uc": "tree", "steps": 4, "scale": 6.0, "seed": 77, "sampler": "k_euler_ancestral",
           "noise_schedule": "native", "width": 64, "height": 64, "strength": 0.7}  # fmt: skip
EASY = {"prompt": "a red house", "negative_prompt": "tree", "seed": "77", "num_inference_steps": "4",
        "guidance_scale": "6.0", "width": "64", "height": "64", "sampler_name": "euler_a",
        "use_stable_diffusion_model": "foo", "clip_skip": "True"}  # fmt: skip
EASY_LABELS = {"Prompt": "a red house", "Negative Prompt": "tree", "Seed": "77", "Steps": "4", "Guidance Scale": "6.0",
               "Width": "64", "Height": "64", "Sampler": "euler_a", "Clip Skip": "False"}  # fmt: skip
DRAW_THINGS = {"c": "a red house", "uc": "tree", "seed": 77, "steps": 4, "scale": 6, "size": "64x64",
               "sampler": "Euler A", "strength": 1, "model": "foo.ckpt"}  # fmt: skip
XMP = (
    "<x:xmpmeta><exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>"
    f"{json.dumps(DRAW_THINGS).replace('red', '&#x72;ed')}</rdf:li></rdf:Alt></exif:UserComment></x:xmpmeta>"
)
SWARM = {"sui_image_params": {"prompt": "a red house", "negativeprompt": "tree", "seed": 77, "steps": 4, "cfgscale": 6,
         "width": 64, "height": 64, "sampler": "euler_ancestral", "clipstopatlayer": -2}}  # fmt: skip


@pytest.mark.parametrize(
    ("info", "tool", "more", "left"),
    [
        ({"Software": "NovelAI", "Description": "a red house", "Comment": json.dumps(NOVELAI)}, "NovelAI", {},
         ["Schedule type: native (diffusers has no such schedule)", "strength: 0.7"]),
        (EASY, "Easy Diffusion", {"clip_skip": 1}, []),
        (EASY_LABELS, "Easy Diffusion", {}, []),
        (with_exif(json.dumps(EASY)), "Easy Diffusion", {"clip_skip": 1}, []),
        ({"XML:com.adobe.xmp": XMP}, "Draw Things", {}, []),
        ({"xmp": XMP.encode()}, "Draw Things", {}, []),
        (with_exif(json.dumps(SWARM)), "SwarmUI", {"clip_skip": 1}, []),
    ],
)  # fmt: skip
def test_every_tool_is_read_under_its_name(
    info: dict[str, Any], tool: str, more: dict[str, Any], left: list[str]
) -> None:
    found = read_foreign(info)
    assert found
    assert found[0] == tool
    assert found[1].values == HOUSE | {"guidance_scale": 6.0} | scheduler("euler-a") | more
    assert found[1].left_out == left


def test_the_jpeg_of_fooocus_is_read_as_its_png() -> None:
    with Image.open(CASES / "20-swarm-fooocus-json" / "fooocus.png") as image:
        text = image.info["parameters"]
    assert read_foreign(with_exif(text)) == read_foreign({"parameters": text})


def test_weighted_prompts_of_invokeai_2_are_named() -> None:
    data = {
        "image": SD_METADATA["image"]
        | {"prompt": [{"prompt": "a", "weight": 1}, {"prompt": "b", "weight": 2}]}
    }
    found = read_foreign({"sd-metadata": json.dumps(data)})
    assert found
    assert "prompt" not in found[1].values
    assert found[1].left_out == ["prompt: 1, 2 (must be text)"]


@pytest.mark.parametrize(
    ("info", "tool"),
    [
        ({"Dream": '"a red house [tree]" -s 50 -S 77 -W 512 -H 512 -C 7.5 -A k_lms'}, "InvokeAI 1"),
        ({"DgenerateConfig": "#! dgenerate 4.5"}, "dgenerate"),
        (with_exif('{"mflux_version": "0.9", "prompt": "a"}'), "mflux"),
        (with_exif("", {0x0131: "imaginAIry 14"}), "imaginAIry"),
        (with_exif('{"prompts": ["a"], "size": 5}'), "a tool that sdapp does not know"),
    ],
)
def test_a_tool_that_is_not_read_is_refused_by_its_name(info: dict[str, Any], tool: str) -> None:
    with pytest.raises(InputError, match=f"are those of {tool}, which is not read"):
        read_foreign(info)


# --- what is not carried over is named at every door ----------------------------------------------------------

NOTE = "note: made.png was made by A1111; not carried over: Eta: 0.5"


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "--config", "made.png", "--steps", 0),
        ("batch", "nowhere.txt", "--config", "made.png"),
        ("compare", "a cat", "--config", "made.png"),
        ("config", "show", "--config", "made.png", "--set", "steps=0"),
        ("config", "show", "--config", "made.png", "--config", "nowhere.yaml"),
        ("replay", "made.png", "--steps", 0),
    ],
)
def test_notes_come_at_every_door_before_an_error(words: tuple[object, ...], sdapp: Run) -> None:
    png(Path(), parameters="a red house\nSteps: 4, Seed: 77, Size: 64x64, Eta: 0.5, Model: foo")
    result = sdapp(*words)
    assert result.exit_code != 0
    lines = result.stderr.splitlines()
    assert lines[0] == NOTE
    assert lines.count(NOTE) == 1
    assert lines[1].startswith(
        "note: made.png sets profile: a1111, to be painted as A1111 does; what can still"
    )
    assert lines[2].startswith("error: ")


# --- what is written is read back -----------------------------------------------------------------------------

PROMPTS = st.lists(
    st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=40)
    | st.sampled_from(["Steps: 3, Seed: 4, Size: 8x8", "Seed: 3", "a Negative prompt: b", "Sampler: x, y: z", "Size: 8x8,"]),
    min_size=1, max_size=3,
).map(lambda lines: "\n".join(line.strip() for line in lines).strip())  # fmt: skip
NAMES = st.sampled_from(["DPM++ 2M", "Euler a", "DDIM", "Restart"]) | st.text(
    string.ascii_letters + string.digits + " +_", min_size=1, max_size=20
).map(str.strip).filter(bool)
WORDS = st.lists(
    st.sampled_from(["a", "red", "house", "4", "steps", "seed", "size", "(old:1.2)"]), min_size=1
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    prompt=PROMPTS.filter(lambda text: not re.search("(?im)^negative prompt", text)), negative=PROMPTS, sampler=NAMES,
    steps=st.integers(1, 150), seed=st.integers(0, 2**63 - 1), cfg=st.floats(1, 30), size=st.integers(8, 256),
    model=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20).map(str.strip).filter(bool),
)  # fmt: skip
def test_what_a1111_writes_is_read_back_whole(
    prompt: str, negative: str, sampler: str, steps: int, seed: int, cfg: float, size: int, model: str
) -> None:
    quoted = json.dumps(model, ensure_ascii=False) if re.search('[,:\n"]', model) else model
    fields = {"Steps": f"{steps}", "Sampler": sampler, "Schedule type": "Automatic", "CFG scale": f"{cfg}", "Seed": f"{seed}",
              "Size": f"{size}x{size}", "Model hash": "6ce0161689", "Model": model, "Version": "v1.10.1"}  # fmt: skip
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative else [])]
    lines.append(", ".join(f"{name}: {value}" for name, value in (fields | {"Model": quoted}).items()))
    found = infotext.split_infotext("\n".join(lines).strip())
    assert found[:3] == (prompt, negative, fields)


@settings(max_examples=60, deadline=None)
@given(
    prompt=WORDS,
    negative=WORDS,
    steps=st.integers(1, 150),
    seed=st.integers(0, 2**63 - 1),
    shape=st.integers(0, 3),
)
def test_words_come_back_from_every_shape(
    prompt: str, negative: str, steps: int, seed: int, shape: int
) -> None:
    fields = f"Steps: {steps}, Sampler: DDIM, CFG scale: 6,5, Seed: {seed}, Size: 64x64, Model: foo"
    text = [
        f"{prompt}\nNegative Prompt: {negative}\n{fields}\nTemplate: {prompt}",
        f"{prompt} Negative prompt: {negative} {fields}",
        f"{prompt}. Negative prompt: {negative}. {fields}",
        f"{prompt}\nNegative prompt: {negative}\n" + fields.replace(", ", "\n"),
    ][shape]
    found = infotext.split_infotext(text)
    assert (found.prompt, found.negative) == (prompt, negative)
    assert (found.fields["Steps"], found.fields["Seed"], found.fields["CFG scale"]) == (
        f"{steps}",
        f"{seed}",
        "6.5",
    )


TEXTS = st.text(st.characters(exclude_characters="<\\[]", exclude_categories=["Cs", "Cc"]), max_size=60).map(
    str.strip
)


@settings(max_examples=100, deadline=None)
@given(prompt=TEXTS, negative=TEXTS, steps=st.integers(1, 150), seed=st.integers(0, 2**63 - 1), cfg=st.floats(1, 30),
       is_linked=st.booleans(), is_exif=st.booleans())  # fmt: skip
def test_the_plain_graph_of_comfyui_is_read_back_whole(
    prompt: str, negative: str, steps: int, seed: int, cfg: float, is_linked: bool, is_exif: bool
) -> None:
    nodes = json.loads(
        graph(["30", 0] if is_linked else prompt, **{"30": text_node("PrimitiveString", value=prompt)})
    )
    nodes["3"]["inputs"] |= {"steps": steps, "seed": seed, "cfg": cfg}
    nodes["7"]["inputs"]["text"] = negative
    text = json.dumps(nodes)
    found = read_foreign(with_exif("", {0x0110: f"prompt:{text}"}) if is_exif else {"prompt": text})
    assert found
    expected = {
        "prompt": prompt,
        "steps": steps,
        "seed": seed,
        "guidance_scale": cfg,
        "width": 64,
        "height": 64,
        "profile": "comfyui",
    }
    expected |= {"negative_prompt": negative} if negative else {}
    syntax = {"prompt_syntax": "a1111"}  # is there if it makes a difference
    assert found[1].values | syntax == expected | scheduler("euler-a") | syntax


def test_what_other_tools_read_as_text_stays_text(tmp_path: Path) -> None:
    """ComfyUI has weights in round brackets only, neither BREAK nor AND, and allows spaces around numbers."""
    nodes = json.loads(graph("a [red] (house: 1.2 ) BREAK cats AND dogs"))
    found = read_foreign({"prompt": json.dumps(nodes)})
    assert found
    assert found[1].values["prompt"] == r"a \[red\] (house:1.2) break cats and dogs"
    assert found[1].values["prompt_syntax"] == "a1111"
    named = read_foreign(
        {"invokeai_metadata": json.dumps({"positive_prompt": "[a|b] (c)", "seed": 7, "steps": 4})}
    )
    assert named
    assert named[1].values["prompt"] == r"\[a|b\] (c)"
    weighed = "emphasis brackets: (house:1.2) BREAK cats AND dogs (words are weighed as A1111 does it)"
    assert weighed in found[1].left_out
