"""Read the settings in a ComfyUI graph. Nothing in it is executed."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdapp.metadata.carry import Carried, json_object
from sdapp.metadata.samplers import Values

LATENTS = {"EmptyLatentImage": "txt2img", "VAEEncode": "img2img", "VAEEncodeForInpaint": "inpaint"}
# Nodes that give a text: how they make it, and of which inputs. No others are known to keep the words.
TEXT_NODES: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    **dict.fromkeys(("PrimitiveString", "PrimitiveStringMultiline", "easy string"), (str, ("value",))),
    **dict.fromkeys(("CR Text", "ShowText|pysssss", "ttN text"), (str, ("text",))),
    **dict.fromkeys(("String Literal", "StringConstant"), (str, ("string",))), "Reroute": (str, ("",)),
    "StringConcatenate": (lambda a, b, between: between.join((a, b)), ("string_a", "string_b", "delimiter")),
    "StringReplace": (str.replace, ("string", "find", "replace")),
}  # fmt: skip
# Nodes that are understood or that change no pixel.
NODES = {
    *LATENTS, *TEXT_NODES, "CheckpointLoaderSimple", "CLIPTextEncode", "CLIPSetLastLayer", "VAEDecode",
    "LoadImage", "SaveImage", "PreviewImage",
}  # fmt: skip
MAX_DEPTH, MAX_JOINED = 8, 4_000  # of nodes that give a text to each other; characters that such a node makes
SAMPLER_INPUTS = {
    "seed": "seed",
    "steps": "steps",
    "cfg": "guidance_scale",
}  # of a KSampler, with sdapp's names


def read_comfyui(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read the graph in the PNG text `prompt`, or in EXIF, where save nodes for JPEG and WebP write it."""
    for place, text in texts.items():
        if place == "prompt" or place.startswith("EXIF "):
            graph = json_object(re.sub(r"^\s*prompt\s*:", "", text, flags=re.IGNORECASE))
            if isinstance(inner := graph.get("prompt"), str | dict):
                graph = json_object(inner) if isinstance(inner, str) else inner
            if nodes := {name: node for name, node in graph.items() if _is_node(node)}:
                return "ComfyUI", _Graph(nodes).carry()
    return None


def _is_node(node: object) -> bool:
    match node:
        case {"class_type": str(), "inputs": dict()}:
            return True
    return False


@dataclass
class _Graph:
    """Nodes by name, each with `class_type` and `inputs`: values, or links [name, output]."""

    nodes: Mapping[str, Values]
    used: set[str] = field(default_factory=set)  # the names of nodes whose values are read

    def carry(self) -> Carried:
        """Carry over the first KSampler on an empty latent, else the first KSampler; name other nodes."""
        carried = Carried()
        samplers = [name for name, node in self.nodes.items() if node["class_type"] == "KSampler"][:50]
        from_empty = (name for name in samplers if self._latent(name).get("class_type") == "EmptyLatentImage")
        if sampler := next(from_empty, samplers[0] if samplers else ""):
            self.used.add(sampler)
            positive, negative = (self._prompt(sampler, side, carried) for side in ("positive", "negative"))
            carried.prompts(positive, negative)
            inputs = self.nodes[sampler]["inputs"]
            carried.scheduler(self._value(inputs.get("sampler_name")), self._value(inputs.get("scheduler")))
            for name, key in SAMPLER_INPUTS.items():
                value = self._value(inputs.get(name))
                carried.carry(name, value, **{key: value})
            self._carry_latent(self._latent(sampler), self._value(inputs.get("denoise")), carried)
        for name, node in self.nodes.items():
            if node["class_type"] == "CheckpointLoaderSimple":
                carried.leave_out("Model", node["inputs"].get("ckpt_name"))
            elif node["class_type"] not in NODES and name not in self.used:
                texts = (value for value in node["inputs"].values() if isinstance(value, str))
                carried.leave_out(node["class_type"], ", ".join(texts))
        return carried

    def _linked(self, value: object) -> str | None:
        """Return the name of the node that an input is linked to."""
        is_link = isinstance(value, list) and value and isinstance(value[0], str) and value[0] in self.nodes
        return value[0] if is_link and isinstance(value, list) else None

    def _upstream(self, start: str, first: str, *names: str) -> Iterator[Values]:
        """Follow the link of a node's input `first`, then the first link among `names`; yield each node."""
        name, seen = self._linked(self.nodes[start]["inputs"].get(first)), set[str]()
        while name and name not in seen:
            seen.add(name)
            yield self.nodes[name]
            inputs = self.nodes[name]["inputs"]
            name = next(filter(None, (self._linked(inputs.get(each)) for each in names)), None)

    def _value(self, value: Any) -> Any:
        """Return the value of an input, also from a node that holds nothing else; None if it is unknown."""
        if not isinstance(value, list):
            return value
        name = self._linked(value)
        held = list(self.nodes[name]["inputs"].values()) if name else []
        if len(held) > 1:  # such as a seed and what the frontend does to it after a run
            held = [each for each in held if not isinstance(each, str | bool)]
        if not name or len(held) != 1 or isinstance(held[0], list):
            return None
        self.used.add(name)
        return held[0]

    def _text(self, value: object, depth: int = MAX_DEPTH) -> str:
        """Return a text, through nodes of TEXT_NODES. Raises LookupError with the kind of another node."""
        if isinstance(value, str):
            return value
        if not (name := self._linked(value)):
            raise LookupError
        kind, inputs = self.nodes[name]["class_type"], self.nodes[name]["inputs"]
        if kind not in TEXT_NODES or not depth:
            raise LookupError(kind)
        make, names = TEXT_NODES[kind]
        parts = [self._text(inputs.get(each), depth - 1) for each in names]
        if make is not str and max(map(len, parts)) > MAX_JOINED:
            raise LookupError(kind)
        self.used.add(name)
        return make(*parts)

    def _prompt(self, sampler: str, side: str, carried: Carried) -> str | None:
        """Return the prompt on one side of a sampler; carry over the clip_skip of the positive side."""
        path = list(self._upstream(sampler, side, "conditioning", side))
        kinds = [node["class_type"] for node in path]
        try:
            if kinds[-1:] != ["CLIPTextEncode"] or "ConditioningZeroOut" in kinds:
                raise LookupError(*kinds[-1:])
            text = self._text(path[-1]["inputs"].get("text"))
        except LookupError as exc:
            carried.leave_out(side, "not found", f"{exc} is not read" if exc.args else "")
            return None
        encoder = next(name for name, node in self.nodes.items() if node is path[-1])
        for node in self._upstream(encoder, "clip", "clip") if side == "positive" else ():
            layer = node["inputs"].get("stop_at_clip_layer")
            if node["class_type"] == "CLIPSetLastLayer" and isinstance(layer, int):
                carried.carry("CLIPSetLastLayer", layer, clip_skip=-layer - 1)
        return text

    def _latent(self, sampler: str) -> Values:
        """Return the node that a sampler starts from; empty if it is unknown."""
        upstream = self._upstream(sampler, "latent_image", "samples")
        return next((node for node in upstream if node["class_type"] in LATENTS), {})

    def _carry_latent(self, latent: Values, denoise: Any, carried: Carried) -> None:
        """Carry over the size of an empty latent, or the task and its strength."""
        kind = LATENTS[latent["class_type"]] if latent else "txt2img"
        if kind != "txt2img":
            return carried.task(kind, "denoise", denoise)
        if latent:
            if (size := latent["inputs"].get("batch_size")) not in (1, None):
                carried.leave_out("batch_size", size, "the seed is that of the first image")
            width, height = (self._value(latent["inputs"].get(side)) for side in ("width", "height"))
            carried.carry("size", [width, height], width=width, height=height)
        if denoise not in (1, None):
            carried.leave_out("denoise", denoise)
        return None
