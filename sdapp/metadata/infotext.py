"""A1111's infotext, written and read, and the parts of an image file that hold it or say how the image was made."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdapp import schedulers
from sdapp.errors import InputError
from sdapp.metadata.carry import MAX_TEXT, NETWORK, Carried
from sdapp.metadata.named import take_named
from sdapp.metadata.samplers import SCHEDULES, Values
from sdapp.models.files import BUILT_IN
from sdapp.scheduler_table import SIGMAS, TABLE

ITEM = re.compile(r'(\w[\w /-]{1,60}):\s*("(?:\\.|[^"\\])+"|[^,]*)(?:,|$)')


def write_infotext(values: Mapping[str, Any], model_name: str, version: str) -> str:
    """The infotext of one image as A1111 1.10 writes it (`create_infotext`); `values` is a Job's `model_dump()`.

    It is for other tools; the exact job is in sdapp's record. What infotext cannot hold is written so that the image stays
    the same: control characters as spaces, `Negative prompt:` within a prompt in small letters (CLIP lower-cases anyway).
    Scheduler options that A1111 has no word for follow in `Scheduler options`. Raises ConfigError for unknown schedulers.
    """
    task, skip = values["task"], values["clip_skip"]
    sampler, schedule, options = _scheduler_words(schedulers.resolve(**values["scheduler"]))
    padding = task.get("padding")
    fields = {
        "Steps": values["steps"], "Sampler": sampler, "Schedule type": schedule,
        "CFG scale": str(values["guidance_scale"]).removesuffix(".0"), "Seed": values["seed"],
        "Size": f"{values['width']}x{values['height']}", "Model": model_name,
        "VAE": values["vae"] and Path(values["vae"]).name.partition("@")[0].removesuffix(".safetensors"),
        "Denoising strength": task.get("strength"),
        "Clip skip": skip + 1 if skip else None, "RNG": "CPU",
        "Mask mode": "Inpaint masked" if task["kind"] == "inpaint" else None,
        "Emphasis": "None" if re.search(r"[()\[\]]", values["prompt"] + values["negative_prompt"]) else None,
        "Inpaint area": None if padding is None else "Only masked", "Masked area padding": padding,
        "Eta DDIM": values["eta"], "Scheduler options": json.dumps(options) if options else None, "Version": f"sdapp {version}",
    }  # fmt: skip
    prompt, negative = (
        re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", values[key])
        .replace("Negative prompt:", "negative prompt:")
        .strip()
        for key in ("prompt", "negative_prompt")
    )
    items = ", ".join(
        f"{key}: {_quoted(str(value))}" for key, value in fields.items() if value not in (None, "")
    )
    return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), items]).strip()


def _quoted(text: str) -> str:
    plain = not re.search(r'[,:\n]|^["\s]|\s$', text) and text.isprintable()
    return text if plain else json.dumps(text, ensure_ascii=False)


def _scheduler_words(resolved: schedulers.Resolved) -> tuple[str, str, Values]:
    """Sampler and schedule type from the options that count, and the options that these two do not say."""
    chosen, same_class = resolved.options, resolved.scheduler.class_name
    rows = [
        row for row in TABLE if row.class_name == same_class
        and all(chosen.get(key) == value for key, value in row.options.items() if key != "timestep_spacing")
    ]  # fmt: skip
    row = max(rows, key=lambda row: len(row.options), default=resolved.scheduler)
    usual = row.options.get("timestep_spacing")
    spacing = chosen.get("timestep_spacing", usual)
    plain = "Automatic" if usual == spacing == "leading" else "Uniform"
    word = next((sigmas for sigmas, option in SIGMAS.items() if chosen.get(option)), spacing)
    schedule = plain if word == usual else SCHEDULES.get(str(word), plain)
    back = Carried()
    back.scheduler(row.label, schedule)
    said = schedulers.resolve(**back.values["scheduler"]).options
    return (
        row.label,
        schedule,
        {key: value for key, value in chosen.items() if said.get(key, ...) != value},
    )


def read_infotext(text: str) -> tuple[Values, list[str]]:
    """Infotext as values with the keys of a config, and the names of what could not be carried over.

    A task comes without its image and mask. A checkpoint's name is no model: only the built-in one that sdapp names is
    carried. Raises InputError for a text of more than 4 million characters.
    """
    return carry_fields(*split_infotext(text)).result()


def split_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and fields, by the rules of A1111's `parse_generation_parameters`."""
    if len(text) > MAX_TEXT:
        raise InputError(f"metadata of {len(text):,} characters; at most {MAX_TEXT:,} are read")
    head, mark, _ = text.rpartition("SDCPP: {")  # JSON without quotes around it, always last
    if mark and "Version: stable-diffusion.cpp" in head.rpartition("\n")[2]:
        text = head.rstrip(" ,")
    *lines, last = text.strip().split("\n")
    items = ITEM.findall(last)
    fields = {key.strip(): _unquoted(value.strip()) for key, value in items}
    if len(items) < 3 or not fields.keys() & {
        "Steps",
        "Seed",
    }:  # a prompt of `word: word,` is no line of fields
        lines, fields = [*lines, last], {}
    lines = [line.strip() for line in lines]
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:")
    return "\n".join(lines[:start]).strip(), negative.strip(), fields


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value[:1] == '"' else value
    except ValueError:
        return value


def tool_of(fields: Mapping[str, str]) -> str:
    """The tool that wrote an infotext, by its field `Version`."""
    version = fields.get("Version", "")
    return next(
        (name for name, pattern in TOOLS.items() if re.match(pattern, version, re.IGNORECASE)), "A1111"
    )


def carry_fields(prompt: str, negative: str, said: Mapping[str, str]) -> Carried:
    """What `split_infotext` gave, as values with the keys of a config."""
    found, fields, ours = Carried(), dict(said), tool_of(said) == "sdapp"
    if literal := fields.get("Emphasis") == "None":
        del fields["Emphasis"]
    found.prompts(prompt, negative, verbatim=ours or literal)
    if sampler := fields.pop("Sampler", ""):
        since_1_9 = re.search(r"v1\.(9|\d\d)", fields.get("Version", ""))
        schedule = fields.pop("Schedule type", "Automatic" if since_1_9 else "")
        more = fields.pop("Scheduler options", "{}")
        found.scheduler("uni_pc" if sampler == "UniPC" and not ours else sampler, schedule, more)
    take_named(found, fields)
    if size := fields.pop("Size", ""):
        width, _, height = size.partition("x")
        found.take("Size", size, width=width, height=height)
    _carry_task(found, fields)
    skip = fields.pop("Clip skip", "1")
    if skip not in ("-1", "0", "1"):  # 1 is the last layer; stable-diffusion.cpp says 0 or -1 for its default
        found.take("Clip skip", skip, clip_skip=int(skip) - 1 if re.fullmatch("[0-9]{1,3}", skip) else skip)
    if ours and fields.get("Model") == BUILT_IN:
        found.take("Model", BUILT_IN, model=fields.pop("Model"))
    if (rng := fields.pop("RNG", "GPU")).lower() != "cpu" and "seed" in found.values:
        found.leave("RNG", rng, "other noise from the same seed")
    silent = (
        SILENT
        | ({"Model hash"} if "Model" in said else set())
        | ({"Lora hashes"} if NETWORK.search(prompt) else set())
    )
    for name, value in fields.items():
        if name not in silent and USUAL.get(name) != value:
            found.leave(name, value)
    return found


def _carry_task(found: Carried, fields: dict[str, str]) -> None:
    """`Denoising strength` is img2img's, or inpainting's, unless the second pass of a hires fix owns it."""
    if "Denoising strength" in fields and not any(
        name.startswith(("Hires", "First pass")) for name in fields
    ):
        inpaint = bool(INPAINT & fields.keys())
        only = (
            {"padding": fields.pop("Masked area padding", "32")}
            if fields.get("Inpaint area") == "Only masked"
            else {}
        )
        fields.pop("Inpaint area", None)
        found.task(
            "inpaint" if inpaint else "img2img",
            "Denoising strength",
            fields.pop("Denoising strength"),
            **only,
        )


# --- containers ---------------------------------------------------------------------------------------------------


TOOLS = {
    "sdapp": "sdapp ",
    "stable-diffusion.cpp": r"stable-diffusion\.cpp",
    "Forge": r"f\d|.*forge",
    "ComfyUI": "comfyui",
}
# Infotext that changes no pixel, and values that say only what is usual.
SILENT = {"Version", "User", "VAE hash", "Hashes", "Init image hash", "Batch size", "Batch pos", "Guidance"}
USUAL = {
    "Emphasis": "Original",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole image",
}
INPAINT = {"Mask blur", "Mask mode", "Masked content", "Inpaint area", "Masked area padding"}
