"""Read the settings in a ComfyUI graph. Nothing in it is executed."""

from collections.abc import Iterator, Mapping
from typing import Any

from PIL import ExifTags

from sdapp.metadata import containers
from sdapp.metadata.carry import Carried, json_object
from sdapp.metadata.named import KEYS_BY_NAME
from sdapp.metadata.samplers import Values

# Nodes that are understood or that change no pixel.
NODES = {
    "CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "CLIPSetLastLayer", "VAEEncode",
    "VAEDecode", "VAEEncodeForInpaint", "LoadImage", "SaveImage", "PreviewImage", "Reroute",
}  # fmt: skip
LATENTS = {"EmptyLatentImage": "txt2img", "VAEEncode": "img2img", "VAEEncodeForInpaint": "inpaint"}
Nodes = Mapping[str, Values]  # by name, each with `class_type` and `inputs`: values, or links [name, output]


def read_comfyui(info: Mapping[Any, Any]) -> tuple[str, Carried] | None:
    """Read ComfyUI's graph from the PNG text `prompt`, or from the EXIF tag Model of a WebP."""
    for text in (info.get("prompt"), containers.exif_tags(info.get("exif")).get(ExifTags.Base.Model)):
        graph = json_object(text.removeprefix("prompt:")) if isinstance(text, str) else {}
        if nodes := {name: node for name, node in graph.items() if _is_node(node)}:
            return "ComfyUI", _carry_graph(nodes)
    return None


def _is_node(node: object) -> bool:
    match node:
        case {"class_type": str(), "inputs": dict()}:
            return True
    return False


def _upstream(nodes: Nodes, node: Values, first: str, *names: str) -> Iterator[Values]:
    """Follow the link of a node's input `first`, then the first link among `names`; yield each node once."""
    link, seen = node["inputs"].get(first), set[str]()
    while isinstance(link, list) and link and isinstance(link[0], str) and link[0] in nodes.keys() - seen:
        seen.add(link[0])
        yield nodes[link[0]]
        inputs = nodes[link[0]]["inputs"]
        link = next((inputs[name] for name in names if isinstance(inputs.get(name), list)), None)


def _input_value(nodes: Nodes, node: Values, name: str) -> Any:
    """Return the value of an input, also if a node upstream holds it; None if there is none."""
    names = (name, "value", "text", "string", "int", "float", "seed")
    for holder in (node, *_upstream(nodes, node, name, *names)):
        for key in (name,) if holder is node else names:
            if not isinstance(holder["inputs"].get(key), (list, type(None))):
                return holder["inputs"][key]
    return None


def _latent(nodes: Nodes, sampler: Values) -> Values:
    """Return the node that a sampler starts from; empty if it is unknown."""
    upstream = _upstream(nodes, sampler, "latent_image", "samples")
    return next((node for node in upstream if node["class_type"] in LATENTS), {})


def _carry_graph(nodes: Nodes) -> Carried:
    """Carry over the first KSampler that starts from an empty latent, else the first; name unknown nodes."""
    carried = Carried()
    samplers = [node for node in nodes.values() if node["class_type"] == "KSampler"][:50]
    from_empty = (node for node in samplers if _latent(nodes, node).get("class_type") == "EmptyLatentImage")
    sampler = next(from_empty, samplers[0] if samplers else None)
    for node in nodes.values():
        if node["class_type"] not in NODES and node is not sampler:
            texts = (value for value in node["inputs"].values() if isinstance(value, str))
            carried.leave_out(node["class_type"], ", ".join(texts))
        if node["class_type"] == "CheckpointLoaderSimple":
            carried.leave_out("Model", node["inputs"].get("ckpt_name"))
    if sampler:
        carried.prompts(*[_prompt(nodes, sampler, side, carried) for side in ("positive", "negative")])
        carried.scheduler(
            _input_value(nodes, sampler, "sampler_name"), _input_value(nodes, sampler, "scheduler")
        )
        for name in ("seed", "steps", "cfg"):
            value = _input_value(nodes, sampler, name)
            carried.carry(name, value, **{KEYS_BY_NAME[name]: value})
        _carry_latent(nodes, sampler, carried)
    return carried


def _prompt(nodes: Nodes, sampler: Values, side: str, carried: Carried) -> Any:
    """Return the prompt on one side of a sampler; carry over the clip_skip of the positive side."""
    path = list(_upstream(nodes, sampler, side, "conditioning", side, "conditioning_1"))
    encoder = next((node for node in path if node["class_type"] == "CLIPTextEncode"), None)
    is_zeroed = any(node["class_type"] == "ConditioningZeroOut" for node in path)
    text = _input_value(nodes, encoder, "text") if encoder and not is_zeroed else None
    if text is None:
        carried.leave_out(side, "not found")
    for node in _upstream(nodes, encoder, "clip", "clip") if encoder and side == "positive" else ():
        layer = node["inputs"].get("stop_at_clip_layer")
        if node["class_type"] == "CLIPSetLastLayer" and isinstance(layer, int):
            carried.carry("CLIPSetLastLayer", layer, clip_skip=-layer - 1)
    return text


def _carry_latent(nodes: Nodes, sampler: Values, carried: Carried) -> None:
    """Carry over the size of an empty latent, or the task and its strength."""
    latent, denoise = _latent(nodes, sampler), _input_value(nodes, sampler, "denoise")
    kind = LATENTS[latent["class_type"]] if latent else "txt2img"
    if kind != "txt2img":
        return carried.task(kind, "denoise", denoise)
    if latent:
        if (size := latent["inputs"].get("batch_size")) not in (1, None):
            carried.leave_out("batch_size", size, "the seed is that of the first image")
        width, height = (_input_value(nodes, latent, side) for side in ("width", "height"))
        carried.carry("size", [width, height], width=width, height=height)
    if denoise not in (1, None):
        carried.leave_out("denoise", denoise)
    return None
