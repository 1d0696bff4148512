"""The words of other picture tools, and the carrying over of their values into those of a config."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sdapp import schedulers
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.scheduler_table import SIGMAS

Values = dict[str, Any]
MAX_TEXT = 4_000_000  # characters; workflows of a thousand nodes have a tenth of it

# What A1111, or else Forge, calls each scheduler; `DPM Solver`, `DPM++ 2S` and `TCD` are words of ours.
LABELS = {
    "pndm": "PLMS", "ddim": "DDIM", "ddpm": "DDPM", "lms": "LMS", "euler": "Euler", "euler-a": "Euler a", "heun": "Heun",
    "dpm2": "DPM2", "dpm2-a": "DPM2 a", "dpm": "DPM Solver", "dpm++2m": "DPM++ 2M", "dpm++2m-sde": "DPM++ 2M SDE",
    "dpm++2m-sde-heun": "DPM++ 2M SDE Heun", "dpm++3m-sde": "DPM++ 3M SDE", "dpm++2s": "DPM++ 2S", "dpm++sde": "DPM++ SDE",
    "unipc": "UniPC", "deis": "DEIS", "sa-solver": "SA Solver", "lcm": "LCM", "tcd": "TCD",
}  # fmt: skip
# What A1111 makes of `Schedule type: Automatic` where that is not uniform.
AUTOMATIC = dict.fromkeys(("dpm++2m", "dpm++sde", "dpm2", "dpm2-a"), "karras") | dict.fromkeys(
    ("dpm++2m-sde", "dpm++2m-sde-heun", "dpm++3m-sde"), "exponential"
)
SCHEDULES = {name: name.title() for name in SIGMAS} | {"trailing": "SGM Uniform", "leading": "DDIM"}
# Every tool's schedules as suffixes of ours; None where diffusers has no such schedule.
WORDS: dict[str, str | None] = {
    **dict.fromkeys(("", "uniform", "normal", "discrete", "default"), ""), **{name: name for name in SIGMAS},
    "automatic": "automatic", "sgmuniform": "trailing", "simple": "trailing", "ddim": "leading", "ddimuniform": "leading",
    **dict.fromkeys(("ays", "gits", "smoothstep", "kloptimal", "polyexponential", "bongtangent", "turbo", "lcm")),
}  # fmt: skip
# Samplers that others run with other options: UniPC in A1111 and ComfyUI, the 3M without noise in InvokeAI.
SAMPLERS: dict[str, tuple[str, Values]] = {
    "uni_pc": ("unipc", {"solver_type": "bh1", "solver_order": 3}), "uni_pc_bh2": ("unipc", {"solver_order": 3}),
    "dpmpp_3m": ("dpm++2m", {"solver_order": 3}), "dpmpp_3m_k": ("dpm++2m-karras", {"solver_order": 3}),
}  # fmt: skip

TOOLS = {"sdapp": "sdapp ", "stable-diffusion.cpp": r"stable-diffusion\.cpp", "Forge": r"f\d|.*forge", "ComfyUI": "comfyui"}
# Infotext that changes no pixel, and values that say only what is usual.
SILENT = {"Version", "User", "VAE hash", "Hashes", "Init image hash", "Batch size", "Batch pos", "Guidance"}
USUAL = {"Emphasis": "Original", "Mask mode": "Inpaint masked", "Masked content": "original", "Inpaint area": "Whole picture"}
INPAINT = {"Mask blur", "Mask mode", "Masked content", "Inpaint area", "Masked area padding"}
# The settings in the words of A1111, InvokeAI, kohya and plain JSON.
NAMES = {
    "Steps": "steps", "CFG scale": "guidance_scale", "Seed": "seed", "Eta DDIM": "eta", "steps": "steps", "seed": "seed",
    "num_inference_steps": "steps", "cfg_scale": "guidance_scale", "cfg": "guidance_scale", "scale": "guidance_scale",
    "guidance_scale": "guidance_scale", "clip_skip": "clip_skip", "noise_seed": "seed",
}  # fmt: skip
NAMES_SILENT = {"app_version", "generation_mode", "raw-prompt", "model_hash", "type"}
KOHYA = ("prompt", "negative-prompt", "seed", "sampler", "steps", "scale", "negative-scale", "clip-prompt")
# Nodes of ComfyUI that are understood or that change no pixel.
NODES = {"CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "CLIPSetLastLayer", "VAEEncode", "VAEDecode",
         "VAEEncodeForInpaint", "LoadImage", "SaveImage", "PreviewImage", "Reroute"}  # fmt: skip
LATENTS = {"EmptyLatentImage": "txt2img", "VAEEncode": "img2img", "VAEEncodeForInpaint": "inpaint"}

NETWORK = re.compile(r"<(?:lora|lyco|hypernet):([^<>]+)>")
MARKUP = {
    "emphasis brackets": re.compile(r"(?<!\\)[(\[][^\n]{0,30}"), "emphasis signs": re.compile(r"[\w)](\+\+|--)(?=[\s,.]|$)"),
    "BREAK": re.compile(r"\bBREAK\b"), "AND": re.compile(r"\bAND\b"), "embedding": re.compile(r"\bembedding:\S{1,60}"),
}  # fmt: skip


@dataclass
class Found:
    """What could be carried over so far, and the names of what could not."""

    values: Values = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def leave(self, name: str, value: object, reason: str = "") -> None:
        """Name what is not carried over, with its value and the reason."""
        self.left.append(f"{_short(name)}: {_short(value)}{f' ({_short(reason)})' if reason else ''}")

    def take(self, name: str, value: object, **settings: object) -> bool:
        """Keep settings that a config accepts; else leave `name: value` with the reason."""
        if None in settings.values():
            self.leave(name, "not found")
            return False
        try:
            config = RunConfig.model_validate(settings, strict=False)  # "20" is a number
        except ValidationError as exc:
            self.leave(name, value, exc.errors()[0]["msg"].removeprefix("Value error, "))
            return False
        self.values |= config.model_dump(include=set(settings), exclude_unset=True)
        return True

    def task(self, kind: str, name: str, strength: object, **more: object) -> None:
        """A task without its input files, which no metadata holds."""
        files = ("image", "mask")[: 1 + (kind == "inpaint")]
        if self.take(name, strength, task={"kind": kind, "strength": strength, **dict.fromkeys(files, "-"), **more}):
            for file in files:
                self.values["task"].pop(file)
                self.leave(f"task.{file}", "not inside the picture")

    def prompts(self, prompt: object, negative: object, verbatim: bool = False) -> None:
        """Prompts without the tags that other tools cut out of them; markup that they obey stays, and is named."""
        for key, text in (("prompt", prompt), ("negative_prompt", negative)):
            if isinstance(text, str) and not verbatim:
                self.left += [_short(f"LoRA {match[1]}") for match in NETWORK.finditer(text)]
                text = NETWORK.sub("", text).strip()
                self.left += [_short(f"{what}: {hit[0]}") for what, mark in MARKUP.items() if (hit := mark.search(text))]
                text = re.sub(r"\\([()\[\]])", r"\1", text)
            if text or (text is not None and key == "prompt"):
                self.take(key, text, **{key: text})

    def scheduler(self, sampler: object, schedule: object = "", more: str = "{}") -> None:
        """Find a scheduler by a tool's words for sampler and schedule; `more` is the JSON of options laid over."""
        if not (isinstance(sampler, str) and isinstance(schedule, str) and len(sampler + schedule) < 100):
            return self.leave("Sampler", sampler)
        name, options = SAMPLERS.get(sampler, (sampler.removesuffix("_gpu"), {}))
        head, _, last = name.rpartition(" ")
        try:
            base = schedulers.resolve(name)
        except ConfigError as exc:
            if head and not schedule and _word(last) in WORDS:  # `euler_a karras` of stable-diffusion.cpp
                return self.scheduler(head, last)
            return self.leave("Sampler", sampler, str(exc))
        self.take("Sampler", sampler, scheduler={"name": base.name, "options": options})
        word = WORDS.get(_word(schedule))
        word = AUTOMATIC.get(base.name, "") if word == "automatic" else word
        if word is None:
            self.leave("Schedule type", schedule, "diffusers has no such schedule")
        elif word == "leading" and base.options.get("timestep_spacing") != word:
            options = options | {"timestep_spacing": word}
            self.take("Schedule type", schedule, scheduler={"name": base.name, "options": options})
        elif word not in ("", "leading") and base.name == base.scheduler.name:  # else the name has said it
            self.take("Schedule type", schedule, scheduler={"name": f"{base.name}-{word}", "options": options})
        if (extra := json_object(more)) and "scheduler" in self.values:
            name, options = self.values["scheduler"]["name"], self.values["scheduler"].get("options", {})
            self.take("Scheduler options", more, scheduler={"name": name, "options": options | extra})
        return None

    def result(self) -> tuple[Values, list[str]]:
        """The values, and the names of what was left, each once."""
        return self.values, list(dict.fromkeys(self.left))


def take_named(found: Found, fields: dict[str, Any]) -> None:
    """Move the settings of `NAMES` out of the fields."""
    for name in [name for name in NAMES if name in fields]:
        found.take(name, fields[name], **{NAMES[name]: fields.pop(name)})


def _word(text: str) -> str:
    return re.sub(r"[\s_-]", "", text.lower())


def _short(value: object, depth: int = 4) -> str:
    """A value in at most 120 printable characters; of models their names."""
    if isinstance(value, list):
        value = ", ".join(_short(item, depth - 1) for item in value[:9]) if depth else "…"
    if isinstance(value, dict):
        known = ("name", "model_name", "lora", "model", "weight")
        names = [_short(value[key], depth - 1) for key in known if key in value] if depth else ["…"]
        value = " ".join(names or value)
    text = " ".join(str(value).split())
    text = text if len(text) <= 120 else f"{text[:119]}…"
    return text if text.isprintable() else ascii(text)


def json_object(text: object) -> Values:
    """A JSON object, or nothing. Raises InputError for one that is too long or too deep."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return {}
    if len(text) > MAX_TEXT:
        raise InputError(f"metadata of {len(text):,} characters; at most {MAX_TEXT:,} are read")
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    except RecursionError as exc:
        raise InputError("metadata is nested too deep") from exc
    return found if isinstance(found, dict) else {}
