"""Read the settings in a ComfyUI graph. Nothing in it is executed."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sdapp.markup import DECIMAL
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
SAMPLER_INPUTS = {"seed": "seed", "steps": "steps", "cfg": "guidance_scale"}


def read_comfyui(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read the graph in the PNG text `prompt`, or in EXIF, where save nodes for JPEG and WebP write it."""
    for place, text in texts.items():
        if place == "prompt" or place.startswith("EXIF "):
            graph = json_object(re.sub(r"^\s*prompt\s*:", "", text, flags=re.IGNORECASE))
            if isinstance(inner := graph.get("prompt"), str | dict):
                graph = json_object(inner) if isinstance(inner, str) else inner
            if nodes := dict(_nodes(graph)):
                return "ComfyUI", _Graph(nodes).carry()
    return None


def _nodes(graph: Values) -> Iterator[tuple[str, tuple[str, Values]]]:
    """Yield the name, the kind and the inputs of each node. Inputs are values, or links [name, output]."""
    for name, node in graph.items():
        match node:
            case {"class_type": str(kind), "inputs": dict(inputs)}:
                yield name, (kind, inputs)


class _Graph:
    """The nodes of a graph: kind and inputs by name."""

    def __init__(self, nodes: Mapping[str, tuple[str, Values]]) -> None:
        self.nodes, self.used = nodes, set[str]()  # `used`: the names of nodes whose values are read

    def carry(self) -> Carried:
        """Carry over the first KSampler on an empty latent, else the first KSampler; name other nodes."""
        carried = Carried()
        samplers = [name for name, (kind, _) in self.nodes.items() if kind == "KSampler"][:50]
        from_empty = (name for name in samplers if self._latent(name)[0] == "EmptyLatentImage")
        if sampler := next(from_empty, samplers[0] if samplers else ""):
            self.used.add(sampler)
            carried.values["profile"] = "comfyui"
            positive, negative = (self._prompt(sampler, side, carried) for side in ("positive", "negative"))
            carried.prompts(positive, negative, is_theirs=True)
            name = self._value(sampler, "sampler_name")
            name = "euler" if name == "ddim" else name  # which it runs as (comfy/samplers.py)
            carried.scheduler(name, self._value(sampler, "scheduler"))
            for name, key in SAMPLER_INPUTS.items():
                value = self._value(sampler, name)
                carried.carry(name, value, **{key: value})
            self._carry_latent(*self._latent(sampler), self._value(sampler, "denoise"), carried)
        self._name_model(sampler, carried)
        for name, (kind, inputs) in self.nodes.items():
            if kind not in NODES and name not in self.used:
                texts = (value for value in inputs.values() if isinstance(value, str))
                carried.leave_out(kind, ", ".join(texts))
        return carried

    def _linked(self, name: str, key: str) -> str:
        """Return the name of the node that an input is linked to; "" if there is none."""
        match self.nodes[name][1].get(key):
            case [str(holder), *_] if holder in self.nodes:
                return holder
        return ""

    def _upstream(self, name: str, first: str, *keys: str) -> Iterator[str]:
        """Follow the link of the input `first`, then the first link among `keys`; yield each node's name."""
        seen, name = set[str](), self._linked(name, first)
        while name and name not in seen:
            seen.add(name)
            yield name
            name = next(filter(None, (self._linked(name, key) for key in keys)), "")

    def _value(self, name: str, key: str) -> Any:
        """Return the value of an input, also from a node that holds nothing else; None if it is unknown."""
        value = self.nodes[name][1].get(key)
        if not isinstance(value, list):
            return value
        holder = self._linked(name, key)
        held = list(self.nodes[holder][1].values()) if holder else []
        if len(held) > 1:  # such as a seed and what the frontend does to it after a run
            held = [each for each in held if not isinstance(each, str | bool)]
        if len(held) != 1 or isinstance(held[0], list):
            return None
        self.used.add(holder)
        return held[0]

    def _text(self, name: str, key: str, depth: int = MAX_DEPTH) -> str:
        """Return a text, through nodes of TEXT_NODES. Raises LookupError with the kind of another node."""
        if isinstance(text := self.nodes[name][1].get(key), str):
            return text
        kind = self.nodes[holder][0] if (holder := self._linked(name, key)) else "an input"
        if kind not in TEXT_NODES or not depth:
            raise LookupError(kind)
        make, keys = TEXT_NODES[kind]
        parts = [self._text(holder, each, depth - 1) for each in keys]
        if make is not str and max(map(len, parts)) > MAX_JOINED:
            raise LookupError(kind)
        self.used.add(holder)
        return make(*parts)

    def _prompt(self, sampler: str, side: str, carried: Carried) -> str | None:
        """Return the prompt on one side of a sampler; carry over the clip_skip of the positive side."""
        path = list(self._upstream(sampler, side, "conditioning", side))
        kinds = [self.nodes[name][0] for name in path]
        try:
            if kinds[-1:] != ["CLIPTextEncode"] or "ConditioningZeroOut" in kinds:
                raise LookupError(kinds[-1] if kinds else "an input")
            text = self._text(path[-1], "text")
        except LookupError as exc:
            carried.leave_out(side, "not found", f"{exc} is not read")
            return None
        for name in self._upstream(path[-1], "clip", "clip") if side == "positive" else ():
            kind, inputs = self.nodes[name]
            if kind == "CLIPSetLastLayer" and isinstance(layer := inputs.get("stop_at_clip_layer"), int):
                carried.carry(kind, layer, clip_skip=-layer - 1)
        text = re.sub(r"\\?([\[\]])", r"\\\1", text)  # ComfyUI reads square brackets as text
        return re.sub(rf":\s*({DECIMAL})\s*\)", r":\1)", text)

    def _name_model(self, sampler: str, carried: Carried) -> None:
        """Name the checkpoint that a sampler uses, first, and then others, such as a refiner."""
        path = list(self._upstream(sampler, "model", "model")) if sampler else []
        loaders = [name for name, (kind, _) in self.nodes.items() if kind == "CheckpointLoaderSimple"]
        for name in sorted(loaders, key=lambda name: name not in path):
            carried.name_model("Model", self.nodes[name][1].get("ckpt_name"))

    def _latent(self, sampler: str) -> tuple[str, str]:
        """Return the kind and the name of the node that a sampler starts from, "" if it is unknown."""
        upstream = self._upstream(sampler, "latent_image", "samples")
        return next(((kind, name) for name in upstream if (kind := self.nodes[name][0]) in LATENTS), ("", ""))

    def _carry_latent(self, kind: str, latent: str, denoise: Any, carried: Carried) -> None:
        """Carry over the size of an empty latent, or the task and its strength."""
        if (task := LATENTS.get(kind, "txt2img")) != "txt2img":
            return carried.task(task, "denoise", denoise)
        if latent:
            if (size := self._value(latent, "batch_size")) not in (1, None):
                carried.leave_out("batch_size", size, "the seed is that of the first image")
            width, height = self._value(latent, "width"), self._value(latent, "height")
            carried.carry("size", [width, height], width=width, height=height)
        if denoise not in (1, None):
            carried.leave_out("denoise", denoise)
        return None
