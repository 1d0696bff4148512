"""What docs/metadata.md says, from sdapp's readers: `python tests/metadata/documented.py` writes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from sdapp import profiles
from sdapp.metadata import carry, comfyui, infotext, named
from sdapp.metadata.read import read_foreign
from sdapp.settings.sampling import SchedulerChoice

PAGE = Path(__file__).parents[2] / "docs" / "metadata.md"
KEYS = ["prompt", "negative_prompt", "prompt_syntax", "profile", "rng", "ensd", "scheduler", "steps", "guidance_scale", "guidance_rescale", "seed", "width", "height", "clip_skip",
        "task (img2img)", "task (inpaint)", "detail", "model"]  # fmt: skip
SIZE = {"width": 512, "height": 768}
PROMPTS = {"prompt": "a (red:1.2) house <lora:snow:1>", "negative_prompt": "tree"}
FIELDS = (
    "a (red:1.2) house <lora:snow:1>\nNegative prompt: tree\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, "
    "CFG scale: 6, Seed: 7, Size: 512x768, Model hash: aa, Model: foo, Denoising strength: 0.5, Clip skip: 2, "
    "ENSD: 5, Mask blur: 4, ADetailer model: face_yolov8n.pt, ADetailer confidence: 0.3, Lora hashes: \"snow: aa\", Version: "
)  # fmt: skip
NODES: dict[str, Any] = {
    "KSampler": {"seed": 7, "steps": 20, "cfg": 6, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1,
                 "positive": ["text"], "negative": ["negative"], "latent_image": ["EmptyLatentImage"]},
    "text": {"text": "a red house", "clip": ["CLIPSetLastLayer"]}, "negative": {"text": "tree"},
    "CLIPSetLastLayer": {"stop_at_clip_layer": -2}, "EmptyLatentImage": SIZE | {"batch_size": 4},
    "CheckpointLoaderSimple": {"ckpt_name": "foo"}, "LoraLoader": {"lora_name": "snow"},
}  # fmt: skip
GRAPH = {
    name: {"class_type": "CLIPTextEncode" if "text" in inputs else name, "inputs": inputs}
    for name, inputs in NODES.items()
}
# What each tool stores, in the names and kinds of value that it uses.
EXAMPLES: dict[str, Any] = {
    "InvokeAI": {
        "generation_mode": "txt2img", "positive_prompt": PROMPTS["prompt"], "negative_prompt": "tree", **SIZE, "seed": 7,
        "rand_device": "cuda", "cfg_scale": 6, "cfg_rescale_multiplier": 0.5, "steps": 20, "scheduler": "dpmpp_2m_k",
        "clip_skip": 1, "model": {"name": "foo"}, "loras": [{"model": {"name": "snow"}, "weight": 1}], "vae": {"name": "v"},
        "controlnets": [{"model": {"name": "c"}}], "seamless_x": True, "app_version": "5.4",
    },
    "InvokeAI 1–2": {"app_id": "invoke-ai/InvokeAI", "model": "stable diffusion", "model_id": "foo", "image": {
        "type": "txt2img", "prompt": [{"prompt": "a red house [tree]", "weight": 1}], "steps": 20, "cfg_scale": 6,
        "seed": 7, "sampler": "k_lms", "threshold": 1, "perlin": 0.1, "variations": [[1, 0.1]], "seamless": True, **SIZE,
    }},
    "SwarmUI": {"sui_image_params": {
        "prompt": PROMPTS["prompt"], "negativeprompt": "tree", "model": "foo", "seed": 7, "steps": 20, "cfgscale": 6, **SIZE,
        "sampler": "dpmpp_2m", "scheduler": "karras", "clipstopatlayer": -2, "loras": ["snow"], "variationseed": 5,
        "initimagecreativity": 0.5, "swarm_version": "0.9",
    }, "sui_extra_data": {"date": "today"}},
    "Fooocus": PROMPTS | {
        "metadata_scheme": "fooocus", "performance": "Speed", "resolution": "(512, 768)", "guidance_scale": 6, "steps": 20,
        "sampler": "dpmpp_2m", "scheduler": "karras", "seed": "7", "clip_skip": 2, "base_model": "foo", "sharpness": 2,
        "styles": "['Fooocus V2']", "adm_guidance": "(1.5, 0.8, 0.3)", "refiner_model": "r", "refiner_switch": 0.5,
        "loras": [["snow", 1]], "version": "Fooocus v2.5",
    },
    "Draw Things": {"c": PROMPTS["prompt"], "uc": "tree", "steps": 20, "scale": 6, "seed": 7, "size": "512x768",
                    "sampler": "DPM++ 2M Karras", "strength": 0.5, "model": "foo", "lora": ["snow"], "seed_mode": "NVIDIA"},
    "NovelAI": {"prompt": PROMPTS["prompt"], "uc": "tree", "steps": 20, "scale": 6, "seed": 7, "sampler": "k_dpmpp_2m", **SIZE,
                          "noise_schedule": "karras", "sm": True, "strength": 0.7, "noise": 0.2},
    "Easy Diffusion": PROMPTS | {
        "seed": "7", "num_inference_steps": "20", "guidance_scale": "6", "sampler_name": "dpmpp_2m", "width": "512",
        "height": "768", "clip_skip": "True", "use_stable_diffusion_model": "foo", "use_lora_model": "snow", "tiling": "xy",
    },
    "kohya": {"prompt": PROMPTS["prompt"], "negative-prompt": "tree", "seed": "7", "sampler": "dpmsolver++", "steps": "20",
              "scale": "6", "negative-scale": "3", "clip-prompt": "x", "raw-prompt": "x"},
    "diffusers-workflow": PROMPTS | {"num_inference_steps": 20, "guidance_scale": 6, "seed": 7, "pipeline": "x", **SIZE},
    "an unknown tool": PROMPTS | {"steps": 20, "cfg": 6, "seed": 7, "sampler_name": "dpmpp_2m", "scheduler": "karras",
                                  **SIZE, "foo": 5},
    "ComfyUI": GRAPH,
}  # fmt: skip
# Settings of the tools that people move from, each added alone to the settings of BASE.
BASE = {"Steps": 20, "Sampler": "DPM++ 2M", "Seed": 7, "Size": "512x768"}
A1111: dict[str, dict[str, Any]] = {
    "sampler with its own schedule": {"Schedule type": "Automatic"}, "schedule": {"Schedule type": "SGM Uniform"},
    "sampler of another method": {"Sampler": "DDIM"}, "sampler that diffusers has not": {"Sampler": "DPM adaptive"},
    "guidance": {"CFG scale": 6}, "clip skip": {"Clip skip": 2}, "model": {"Model": "foo"}, "VAE": {"VAE": "v"},
    "noise of the CPU": {"RNG": "CPU"}, "noise of NVIDIA": {"RNG": "NV"}, "noise of the steps": {"ENSD": 31337},
    "eta of DDIM": {"Eta DDIM": 0.5}, "eta of ancestral samplers": {"Eta": 0.5},
    "img2img": {"Denoising strength": 0.5}, "inpainting": {"Denoising strength": 0.5, "Mask blur": 4},
    "hires pass": {"Denoising strength": 0.5, "Hires upscale": 2, "Hires steps": 10, "Hires upscaler": "Latent"},
    "hires upscaler from a file": {"Denoising strength": 0.5, "Hires upscale": 2, "Hires upscaler": "4x-UltraSharp"},
    "emphasis": {"Emphasis": "No norm"}, "zero terminal SNR": {"Noise Schedule": "Zero Terminal SNR"},
    "guidance rescale": {"CFG Rescale": 0.7}, "LoRA": {"Lora hashes": "snow: 0123456789ab"},
    "textual inversion": {"TI hashes": "ugly: 0123456789ab"}, "variation": {"Variation seed": 5, "Variation seed strength": 0.1},
    "token merging": {"Token merging ratio": 0.5}, "refiner": {"Refiner": "r", "Refiner switch at": 0.8},
    "tiling": {"Tiling": "True"}, "ControlNet": {"ControlNet 0": '"Module: canny, Model: c, Weight: 1"'},
}  # fmt: skip
INVOKE: dict[str, dict[str, Any]] = {
    name: {name: EXAMPLES["InvokeAI"][name]}
    for name in ("positive_prompt", "cfg_scale", "cfg_rescale_multiplier", "scheduler", "rand_device", "clip_skip", "model", "loras", "vae",
                 "controlnets", "seamless_x")
} | {"img2img": {"generation_mode": "img2img", "strength": 0.5}}  # fmt: skip
COMFY: dict[str, tuple[str, dict[str, Any]]] = {
    "sampler and schedule": ("KSampler", {"sampler_name": "euler", "scheduler": "normal"}),
    "DDIM": ("KSampler", {"sampler_name": "ddim", "scheduler": "ddim_uniform"}),
    "Simple schedule": ("KSampler", {"scheduler": "simple"}),
    "sampler of another method": ("KSampler", {"sampler_name": "uni_pc"}),
    "noise on the GPU": ("KSampler", {"sampler_name": "dpmpp_2m_sde_gpu"}),
    "denoise of txt2img": ("KSampler", {"denoise": 0.5}), "batch": ("EmptyLatentImage", {"batch_size": 2}),
    "clip skip": ("CLIPSetLastLayer", {"stop_at_clip_layer": -3}), "model": ("CheckpointLoaderSimple", {"ckpt_name": "bar"}),
    "weights in prompts": ("text", {"text": "a (red:1.2) house"}), "LoRA": ("LoraLoader", {"lora_name": "snow"}),
    "VAE": ("VAELoader", {"vae_name": "v"}), "ControlNet": ("ControlNetApply", {"strength": 1}),
    "upscaling": ("LatentUpscale", {"width": 1024}),
}  # fmt: skip
MARKUP = {
    "emphasis signs": "red++",
    "embedding": "embedding:name",
    "emphasis braces": "{red}",
    "tag": "<wildcard:name>",
}
VERSIONS = {"sdapp ": "sdapp 0.1", "comfyui": "ComfyUI", "": "v1.10.1", "fooocus": "Fooocus v2.5",
            r"stable-diffusion\.cpp": "stable-diffusion.cpp", r"f\d|.*forge": "f2.0.1v1.10.1", r"sd\.?next": "x, App: SD.Next"}  # fmt: skip


def image_info(place: str, content: Any) -> dict[str, Any]:
    """Return what Pillow would find in an image that has a text (or data) at a place of `containers.texts`."""
    text = content if isinstance(content, str) else json.dumps(content)
    if not place:
        return dict(content)
    if place == "EXIF UserComment":
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + text.encode()
        return {"exif": exif.tobytes()}
    if place.startswith("EXIF "):
        exif = Image.Exif()
        exif[ExifTags.Base[place.removeprefix("EXIF ")].value] = text
        return {"exif": exif.tobytes()}
    if place.startswith("XMP "):
        tag = place.removeprefix("XMP ")
        return {"xmp": f"<{tag}>{text.replace('<', '&lt;')}</{tag}>".encode()}
    return {place: text.encode() if place == "comment" else text}


def examples() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each tool, each place where it stores its settings, and what Pillow finds in such an image."""
    for pattern, tool in infotext.VERSIONS.items():
        for place in infotext.PLACES:
            yield tool, place, image_info(place, FIELDS + VERSIONS[pattern])
    for place in ("prompt", "EXIF Make", "EXIF Model", "EXIF ImageDescription"):
        graph = json.dumps(GRAPH)
        yield "ComfyUI", place, image_info(place, graph if place == "prompt" else f"prompt: {graph}")
    yield "ComfyUI", "EXIF UserComment", image_info("EXIF UserComment", {"prompt": GRAPH, "workflow": {}})
    for row in named.TOOLS:
        for place in row.places:
            yield row.name, place, image_info(place, EXAMPLES[row.name])


def place_in_words(place: str) -> str:
    """`parameters` is a PNG text, `comment` one of JPEG or GIF."""
    if place == "comment":
        return "JPEG or GIF comment"
    return (
        place
        if place.startswith(("EXIF ", "XMP "))
        else f"PNG text `{place}`"
        if place
        else "a PNG text each"
    )


def tool_rows() -> Iterator[str]:
    """Yield a row for each set of tools and places in which their example comes out the same."""
    rows: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for name, place, info in examples():
        found = read_foreign(info)
        assert found, (name, place)
        assert found[0] == name, (name, place, found)
        keys = [f"task ({value['kind']})" if key == "task" else key for key, value in found[1].values.items()]
        keys += ["model"] if found[1].model else []
        read = ", ".join(f"`{key}`" for key in sorted(keys, key=KEYS.index))
        left = ", ".join(dict.fromkeys(text.partition(":")[0] for text in found[1].left_out))
        tools, places = rows.setdefault((read, left), ({}, {}))
        tools[name] = places[place_in_words(place)] = None
    for (read, left), (tools, places) in rows.items():
        yield f"| {', '.join(tools)} | {'; '.join(places)} | {read} | {left} |"


def honoured() -> Iterator[str]:
    """Yield a row for each setting of A1111, ComfyUI and InvokeAI: what it is there, and what becomes of it."""

    def infotext_of(more: dict[str, Any]) -> dict[str, Any]:
        fields = ", ".join(f"{name}: {value}" for name, value in (BASE | more).items())
        return {"parameters": f"a red house\n{fields}, Version: v1.10.1"}

    def graph_of(name: str, more: dict[str, Any]) -> dict[str, Any]:
        nodes = {key: node for key, node in GRAPH.items() if key not in ("LoraLoader",)}
        node = nodes.get(name, {"class_type": name, "inputs": {}})
        return image_info("prompt", nodes | {name: node | {"inputs": node["inputs"] | more}})

    def invoke_of(more: dict[str, Any]) -> dict[str, Any]:
        return image_info(
            "invokeai_metadata", {"positive_prompt": "a red house", "seed": 7, "steps": 20} | more
        )

    for what, more in A1111.items():
        yield _honoured("A1111", what, more, infotext_of({}), infotext_of(more))
    for what, (node, inputs) in COMFY.items():
        before = graph_of("KSampler", {})
        yield _honoured(
            "ComfyUI",
            what,
            {f"{node}.{key}": value for key, value in inputs.items()},
            before,
            graph_of(node, inputs),
        )
    for what, more in INVOKE.items():
        yield _honoured("InvokeAI", what.replace("_", " "), more, invoke_of({}), invoke_of(more))


def _honoured(
    tool: str, what: str, more: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> str:
    """A row: what the reader makes of settings that are only in the second image."""
    (_, old), (_, new) = (
        read_foreign(before) or ("", carry.Carried()),
        read_foreign(after) or ("", carry.Carried()),
    )
    old.values |= {"model": old.model} if old.model else {}
    new.values |= {"model": new.model} if new.model else {}
    changed = {key: value for key, value in new.values.items() if old.values.get(key) != value}
    if "scheduler" in changed:
        chosen = SchedulerChoice.model_validate(changed["scheduler"])
        changed["scheduler"] = chosen.name
        reason = profiles.why_not_exact(new.values.get("profile", "diffusers"), chosen.resolve())
        new.notes += [reason] if reason else []
    unused = ", ".join(note.removesuffix(": ") for note in new.left_out if note not in old.left_out)
    told = [f"not used: {unused}"] if unused else []
    told += [note for note in new.notes if note not in old.notes]
    result = ", ".join(f"`{key}: {_brief(value)}`" for key, value in changed.items())
    there = ", ".join(f"{key}: {_brief(value)}" for key, value in more.items())
    return f"| {tool} | {what} | `{there}` | {'; '.join(filter(None, [result, *told])) or 'no change of pixels'} |"


def _brief(value: Any) -> str:
    """A value as in YAML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_brief(each)}" for key, each in value.items()) + "}"
    return f"[{', '.join(map(_brief, value))}]" if isinstance(value, list) else str(value)


def page() -> str:
    """Return docs/metadata.md."""
    refused = {name: place_in_words(place) for place, _, name in reversed(named.REFUSED)}
    texts = ", ".join(f"`{kind}`" for kind in sorted(comfyui.TEXT_NODES))
    return "\n".join([
        "# Settings of other tools", "",
        "`sdapp replay`, and `--config` of every command, read the settings inside images of other tools. What is read becomes",
        "settings. What is not used is named in a note, before the first error or image. This page is written by",
        "`tests/metadata/documented.py`: it runs the readers on an example of each tool in each place. Fields that are not in an",
        "example are not used either, and a note says so, unless they change no pixel.", "",
        "| tool | where it stores settings | read | not used in the example (a note says so) |", "|---|---|---|---|",
        *tool_rows(), "",
        "Input images and masks, LoRA and VAE are not inside an image: sdapp names them, and you give them as options. The model is",
        "looked up by its name in your folder of models (`sdapp config set folders.models FOLDER`); if it is not there, sdapp stops",
        "until you choose one with `--model`.",
        "sdapp's own images contain their whole record. Only their infotext is read as in the first row.", "",
        "## What becomes of each setting", "",
        "Each of these is added alone to the settings of an example. An image of A1111, Forge or ComfyUI also chooses its `profile`:",
        "noise levels, noise and steps as there. [Profiles](profiles.md) says what is exact, and what can still differ.", "",
        "| tool | setting | there | here |", "|---|---|---|---|", *honoured(), "",
        "## Not read", "",
        "These are refused by name. Of a tool that sdapp does not know, JSON with the field names below is read; JSON without",
        "them is refused.", "", *(f"- {name}: {place}" for name, place in refused.items()), "",
        "## Names of fields", "",
        "Capitals, spaces and signs in names make no difference. The first of these that is there counts:", "",
        "| setting | names |", "|---|---|",
        *(f"| {key} | {', '.join(f'`{name}`' for name in names)} |" for key, names in named.NAMES.items()), "",
        "## Infotext", "",
        "Prompt, negative prompt and fields are told apart as A1111 does it, if the fields are the last line. Fields are also",
        "found before other lines, one on each line, and behind the prompt on one line (a note says so). Numbers may have a",
        "decimal comma. Sampler and schedule may be joined: `Euler a_karras`, `DPM++ 2M (SGM Uniform)`.", "",
        "## ComfyUI", "",
        "The first KSampler on an empty latent is read, else the first KSampler. Prompts come from CLIPTextEncode, through",
        f"these nodes only: {texts}.", "",
        "Any other node may change a text: the prompt is then \"not found\", and the node is named. Numbers come from nodes that",
        "hold one value.", "",
        "## Markup in prompts", "",
        "Weights, `BREAK`, `[a:b:0.5]` and escapes such as `\\(` are read as in A1111 (`prompt_syntax: a1111`). After `Emphasis: None`, they are",
        "text. Tools other than those of infotext weigh words in another way, so a note names the first brackets, such as",
        "`(red:1.2)`.", "",
        "LoRA tags are removed from the prompt, and a note names them. This markup has no effect here: it stays in the prompt,",
        "and a note names it.", "",
        "| markup | example |", "|---|---|", *(f"| {name} | `{MARKUP[name]}` |" for name in carry.MARKUP), "",
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
