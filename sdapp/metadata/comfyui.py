"""The settings that other tools leave in images: infotext, InvokeAI, kohya, ComfyUI. Read as data, never run."""

from collections.abc import Iterator, Mapping
from typing import Any

from sdapp.metadata.carry import Carried
from sdapp.metadata.named import NAMES
from sdapp.metadata.samplers import Values

# --- ComfyUI ------------------------------------------------------------------------------------------------------


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )


def _upstream(nodes: Mapping[str, Any], link: object, *names: str) -> Iterator[Values]:
    """The nodes from a link [node, output] on, each found through an input of one of these names; each node once."""
    seen: set[str] = set()
    while (
        isinstance(link, list)
        and link
        and isinstance(link[0], str)
        and link[0] in nodes
        and link[0] not in seen
    ):
        seen.add(link[0])
        node = nodes[link[0]]
        yield node
        link = next(
            (node["inputs"][name] for name in names if isinstance(node["inputs"].get(name), list)), None
        )


def _literal(nodes: Mapping[str, Any], node: Values, name: str) -> Any:
    """An input's value, also where it comes from a node that only holds it."""
    names = (name, "value", "text", "string", "int", "float", "seed")
    for holder in (node, *_upstream(nodes, node["inputs"].get(name), *names)):
        for key in (name,) if holder is node else names:
            if not isinstance(holder["inputs"].get(key), (list, type(None))):
                return holder["inputs"][key]
    return None


def _comfy(nodes: Mapping[str, Any]) -> Carried:
    """The KSampler that starts from an empty latent, else the first, and what flows into it; all other nodes are named."""
    found = Carried()
    samplers = [node for node in nodes.values() if node["class_type"] == "KSampler"][:50]
    latents = [
        next(
            (
                n
                for n in _upstream(nodes, s["inputs"].get("latent_image"), "samples")
                if n["class_type"] in LATENTS
            ),
            None,
        )
        for s in samplers
    ]
    chosen = next((i for i, n in enumerate(latents) if n and n["class_type"] == "EmptyLatentImage"), 0)
    for node in nodes.values():
        if node["class_type"] not in NODES and not (samplers and node is samplers[chosen]):
            found.leave(
                node["class_type"], ", ".join(v for v in node["inputs"].values() if isinstance(v, str))
            )
        if node["class_type"] == "CheckpointLoaderSimple":
            found.leave("Model", node["inputs"].get("ckpt_name"))
    if samplers:
        _comfy_sampler(found, nodes, samplers[chosen], latents[chosen])
    return found


def _comfy_sampler(found: Carried, nodes: Mapping[str, Any], sampler: Values, latent: Values | None) -> None:
    given = {
        name: _literal(nodes, sampler, name)
        for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
    }
    texts: list[Any] = []
    for side in ("positive", "negative"):
        path = list(_upstream(nodes, sampler["inputs"].get(side), "conditioning", side, "conditioning_1"))
        encoder = next((node for node in path if node["class_type"] == "CLIPTextEncode"), None)
        zeroed = any(node["class_type"] == "ConditioningZeroOut" for node in path)
        texts.append(_literal(nodes, encoder, "text") if encoder and not zeroed else None)
        if texts[-1] is None:
            found.leave(side, "not found")
        for node in (
            _upstream(nodes, encoder["inputs"].get("clip"), "clip") if encoder and side == "positive" else ()
        ):
            if node["class_type"] == "CLIPSetLastLayer" and isinstance(
                last := node["inputs"].get("stop_at_clip_layer"), int
            ):
                found.take("CLIPSetLastLayer", last, clip_skip=-last - 1)
    found.prompts(*texts)
    found.scheduler(given["sampler_name"], given["scheduler"])
    for name in ("seed", "steps", "cfg"):
        found.take(name, given[name], **{NAMES[name]: given[name]})
    kind = LATENTS[latent["class_type"]] if latent else "txt2img"
    if latent and kind == "txt2img":
        if latent["inputs"].get("batch_size") not in (1, None):
            found.leave("batch_size", latent["inputs"]["batch_size"], "the seed is that of the first image")
        width, height = (_literal(nodes, latent, side) for side in ("width", "height"))
        found.take("size", [width, height], width=width, height=height)
    if kind != "txt2img":
        found.task(kind, "denoise", given["denoise"])
    elif given["denoise"] not in (1, None):
        found.leave("denoise", given["denoise"])


# Nodes of ComfyUI that are understood or that change no pixel.
NODES = {"CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "CLIPSetLastLayer", "VAEEncode", "VAEDecode",
         "VAEEncodeForInpaint", "LoadImage", "SaveImage", "PreviewImage", "Reroute"}  # fmt: skip
LATENTS = {"EmptyLatentImage": "txt2img", "VAEEncode": "img2img", "VAEEncodeForInpaint": "inpaint"}
