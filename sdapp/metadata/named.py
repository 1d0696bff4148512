"""Read settings that are stored by name: a row of `TOOLS` for each tool; infotext has the same names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdapp.errors import InputError
from sdapp.metadata.carry import Carried, json_object
from sdapp.metadata.samplers import Values, plain_word

# The names of each setting in other tools, as `plain_word` gives them; the first that is there counts.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("positiveprompt", "prompt", "c"),
    "negative_prompt": ("negativeprompt", "uc", "negative"),
    "sampler": ("sampler", "samplername"),
    "schedule": ("scheduletype", "scheduler", "noiseschedule"),  # the sampler, if there is no other
    "steps": ("steps", "numinferencesteps"),
    "guidance_scale": ("cfgscale", "cfg", "scale", "guidancescale"),
    "guidance_rescale": ("cfgrescale", "cfgrescalephi", "cfgrescalemultiplier", "guidancerescale"),
    "eta": ("etaddim",),
    "seed": ("seed", "noiseseed"),
    "size": ("size", "resolution"),
    "width": ("width",),
    "height": ("height",),
    "clip_skip": ("clipskip", "clipstopatlayer"),
    "task": ("generationmode", "requesttype", "type"),
    "strength": ("strength",),
    "model": ("modelweights", "modelid", "basemodel", "usestablediffusionmodel", "modelname", "model"),
}
NUMBERS = ("steps", "guidance_scale", "guidance_rescale", "eta", "seed")
TASKS = {  # by a part of the tool's word
    "txt2img": "txt2img", "promptgenerate": "txt2img", "img2img": "img2img", "paint": "inpaint",
    "infill": "inpaint",
}  # fmt: skip
# Fields with these values change no pixel.
EMPTY: tuple[object, ...] = (None, False, 0, "", "cpu", "False", "None", [], {})


class Fields:
    """Settings by name, in any capitals, with or without spaces and signs. Each can be taken once."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._left: dict[str, tuple[str, Any]] = {}
        for name, value in data.items():
            plain = plain_word(name)
            self._left[name if plain in self._left else plain] = name, value

    def take(self, key: str) -> tuple[str, Any]:
        """Return the tool's name of a setting and its value, None if it is missing."""
        found = next((name for name in NAMES.get(key, (plain_word(key),)) if name in self._left), "")
        return self._left.pop(found, (key, None))

    def peek(self, key: str) -> Any:
        """Return the value of a setting under its own name, and leave it there."""
        return self._left.get(plain_word(key), (key, None))[1]

    def sampler(self) -> tuple[Any, Any]:
        """Return the names of sampler and schedule; InvokeAI calls the sampler `scheduler`."""
        (_, sampler), (_, schedule) = self.take("sampler"), self.take("schedule")
        return (schedule, None) if sampler is None else (sampler, schedule)

    def name_rest(self, carried: Carried, no_effect: Mapping[str, tuple[str, ...]]) -> None:
        """Leave out, by name, what is left; `no_effect` has plain names with harmless values, () for any."""
        for plain, (name, value) in self._left.items():
            harmless = no_effect.get(plain, EMPTY)
            if harmless and value not in (*harmless, *EMPTY):
                carried.leave_out(name, value)


@dataclass(frozen=True)
class Tool:
    """A tool whose settings are a JSON object at one of `places`; the place "" means the PNG texts."""

    name: str
    places: tuple[str, ...]  # keys of `containers.texts`
    marks: set[str]  # plain names that are always among its settings
    inside: str = ""  # the name of the object with the settings, if it is not the whole
    no_effect: tuple[str, ...] = ()  # plain names of fields that change no pixel
    last_layer: int = 0  # the clip skip that skips no layer
    prepare: Callable[[Values, Mapping[str, str]], Values] = lambda data, texts: data  # noqa: ARG005


def _split_brackets(data: Values, _: Mapping[str, str]) -> Values:
    """Take InvokeAI 2's negative prompt out of its brackets; several weighted prompts stay a list."""
    match data.get("prompt"):
        case [{"prompt": str(text)}] | str(text):
            negative = " ".join(re.findall(r"\[([^\[\]]*)\]", text))
            positive = " ".join(re.sub(r"\[[^\[\]]*\]", " ", text).split())
            return data | {"prompt": positive, "negative_prompt": negative}
    return data


JSON_PLACES = ("parameters", "EXIF UserComment")
TOOLS = (
    Tool("InvokeAI", ("invokeai_metadata",), set(), no_effect=("appversion", "rawprompt")),
    Tool("InvokeAI 1–2", ("sd-metadata",), {"image", "steps"}, "image", ("appid", "appversion"),
         prepare=_split_brackets),
    Tool("SwarmUI", JSON_PLACES, {"suiimageparams", "prompt"}, "sui_image_params",
         ("suiextradata", "swarmversion", "aspectratio", "images"), 1),
    Tool("Fooocus", JSON_PLACES, {"metadatascheme", "performance"}, "",
         ("version", "metadatascheme", "basemodelhash", "createdby", "fullprompt", "fullnegativeprompt"), 1),
    Tool("Draw Things", ("XMP exif:UserComment",), {"c", "scale"}),
    Tool("NovelAI", ("Comment",), {"uc", "scale"}, "", ("nsamples", "version", "signedhash"),
         prepare=lambda data, texts: {"prompt": texts.get("Description")} | data),  # of its first versions
    Tool("Easy Diffusion", ("", "EXIF UserComment"), {"prompt", "guidancescale", "seed", "width"}),
    Tool("kohya", ("",), {"prompt", "scale", "steps"}, "", ("rawprompt",)),
    Tool("diffusers-workflow", ("parameters",), {"numinferencesteps"}),
    Tool("an unknown tool", ("parameters",), {"prompt"}),
)  # fmt: skip
REFUSED = (  # tools that are not read: the place of their settings, and how the text there begins
    ("Dream", "", "InvokeAI 1"),
    ("DgenerateConfig", "", "dgenerate"),
    ("EXIF UserComment", "#!.{0,9}dgenerate", "dgenerate"),
    ("EXIF UserComment", r'\{.*"mflux_version"', "mflux"),
    ("EXIF Software", "(?i:imaginairy)", "imaginAIry"),
    *((place, r"\{\s*\"", "a tool that sdapp does not know") for place in JSON_PLACES),
)


def read_named(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read the settings of a tool in `TOOLS`. Raises InputError for broken metadata of InvokeAI."""
    for tool in TOOLS:
        for place in tool.places:
            data: Values = json_object(texts.get(place)) if place else _png_texts(texts)
            inner = data.get(tool.inside)
            data |= inner if isinstance(inner, dict) else {}
            if data and tool.marks <= set(map(plain_word, data)):
                return tool.name, _carry_named(tool.prepare(data, texts), tool)
            if place in texts and place not in JSON_PLACES and tool.name.startswith("InvokeAI"):
                raise InputError(f"the metadata of {tool.name} is broken")
    return None


def refuse(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Raise InputError, with the tool's name, for settings of a tool that is not read."""
    for place, beginning, name in REFUSED:
        if place in texts and re.match(rf"(?s)\s*{beginning}", texts[place]):
            raise InputError(
                f"its settings ({place}) are those of {name}, which is not read; give them as options"
            )
    return None


def _png_texts(texts: Mapping[str, str]) -> Values:
    return {key: text for key, text in texts.items() if not key.startswith(("EXIF ", "XMP ", "XML:"))}


def _carry_named(data: Values, tool: Tool) -> Carried:
    carried, fields = Carried(), Fields(data)
    carried.prompts(fields.take("prompt")[1], fields.take("negative_prompt")[1], is_theirs=True)
    sampler, schedule = fields.sampler()
    if sampler is not None:
        carried.scheduler(sampler, "" if schedule is None else schedule)
    carry_numbers(fields, carried, tool.last_layer)
    (name, mode), (_, strength) = fields.take("task"), fields.take("strength")
    kind = next((kind for word, kind in TASKS.items() if word in str(mode).lower()), None)
    if kind in ("img2img", "inpaint"):
        carried.task(kind, "strength", 1.0 if strength is None else strength)
    elif strength not in (None, 1, "1", "1.0"):
        carried.leave_out("strength", strength)
    if mode is not None and kind is None:
        carried.leave_out(name, mode)
    name, device = fields.take("rand_device")
    if device == "cuda":
        carried.carry(name, device, rng="gpu")
    elif device not in (None, "cpu"):
        carried.leave_out(name, device)
    carried.name_model(*fields.take("model"))
    fields.name_rest(carried, dict.fromkeys((*tool.no_effect, plain_word(tool.inside)), ()))
    return carried


def carry_numbers(fields: Fields, carried: Carried, last_layer: int) -> None:
    """Carry over numbers, size and clip skip; `last_layer` is the clip skip that skips no layer."""
    for key in NUMBERS:
        name, value = fields.take(key)
        is_off = key == "guidance_rescale" and value in (0, "0", "0.0")
        if value is not None and not is_off:
            carried.carry(name, value, **{key: value})
    (name, size), (_, width), (_, height) = map(fields.take, ("size", "width", "height"))
    if size is not None:
        numbers = re.findall(r"[-\d.]+", str(size))
        width, height = numbers if len(numbers) == 2 else ("", "")
    if width is not None or height is not None:
        carried.carry(name, size or [width, height], width=width, height=height)
    name, skip = fields.take("clip_skip")
    number = re.fullmatch(r"-?(\d{1,3})(\.0*)?", str(skip))
    layers = int(number[1]) - last_layer if number else 1 if str(skip) == "True" else skip
    if skip not in EMPTY and not (number and layers <= 0):
        carried.carry(name, skip, clip_skip=layers)
