"""Write and read infotext, the text in which A1111, Forge and stable-diffusion.cpp store settings."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdapp import schedulers
from sdapp.metadata import containers
from sdapp.metadata.carry import NETWORK, Carried, check_length, json_object
from sdapp.metadata.named import move_named
from sdapp.metadata.samplers import SCHEDULES, Values
from sdapp.models.files import BUILT_IN
from sdapp.scheduler_table import SIGMAS, TABLE

FIELD = re.compile(r'(\w[\w /-]{1,60}):\s*("(?:\\.|[^"\\])+"|[^,]*)(?:,|$)')
TOOLS = {  # by the field `Version`
    "sdapp ": "sdapp", r"stable-diffusion\.cpp": "stable-diffusion.cpp", r"f\d|.*forge": "Forge",
    "comfyui": "ComfyUI", "": "A1111",
}  # fmt: skip
DEFAULTS = {  # None: any value leaves the pixels as they are
    "Emphasis": "Original", "Mask mode": "Inpaint masked", "Masked content": "original",
    "Inpaint area": "Whole image", "Version": None, "User": None, "VAE hash": None, "Hashes": None,
    "Init image hash": None, "Batch size": None, "Batch pos": None, "Guidance": None,
}  # fmt: skip
INPAINT = {"Mask blur", "Mask mode", "Masked content", "Inpaint area", "Masked area padding"}


def write_infotext(values: Mapping[str, Any], model_name: str, version: str) -> str:
    """Return the infotext of an image as A1111 1.10 writes it (`create_infotext`).

    `values` is a Job's `model_dump()`. What infotext cannot contain is replaced so that the image stays the
    same: control characters by spaces, `Negative prompt:` in a prompt by lower case (CLIP ignores case). The
    field `Scheduler options` is sdapp's own. Raises ConfigError for an unknown scheduler.
    """
    task, skip, padding = values["task"], values["clip_skip"], values["task"].get("padding")
    sampler, schedule, options = _scheduler_words(schedulers.resolve(**values["scheduler"]))
    prompt, negative = (
        re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", values[key]).replace("Negative prompt:", "negative prompt:")
        for key in ("prompt", "negative_prompt")
    )
    fields = {
        "Steps": values["steps"], "Sampler": sampler, "Schedule type": schedule,
        "CFG scale": str(values["guidance_scale"]).removesuffix(".0"), "Seed": values["seed"],
        "Size": f"{values['width']}x{values['height']}", "Model": model_name,
        "VAE": values["vae"] and Path(values["vae"]).name.partition("@")[0].removesuffix(".safetensors"),
        "Denoising strength": task.get("strength"),
        "Clip skip": skip + 1 if skip else None, "RNG": "CPU",
        "Mask mode": "Inpaint masked" if task["kind"] == "inpaint" else None,
        "Emphasis": "None" if re.search(r"[()\[\]]", prompt + negative) else None,
        "Inpaint area": None if padding is None else "Only masked", "Masked area padding": padding,
        "Eta DDIM": values["eta"], "Scheduler options": json.dumps(options) if options else None,
        "Version": f"sdapp {version}",
    }  # fmt: skip
    items = [f"{key}: {_quote(str(value))}" for key, value in fields.items() if value not in (None, "")]
    lines = [prompt.strip(), f"Negative prompt: {negative.strip()}" if negative.strip() else None]
    return "\n".join([*(line for line in lines if line is not None), ", ".join(items)]).strip()


def _quote(text: str) -> str:
    is_plain = not re.search(r'[,:\n]|^["\s]|\s$', text) and text.isprintable()
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text)) if text[:1] == '"' else text
    except ValueError:
        return text


def _scheduler_words(resolved: schedulers.Resolved) -> tuple[str, str, Values]:
    """Return the sampler, the schedule type, and the options that these two do not imply."""
    options, class_name = resolved.options, resolved.scheduler.class_name
    rows = [
        row
        for row in TABLE
        if row.class_name == class_name
        and all(options.get(key) == value for key, value in row.options.items() if key != "timestep_spacing")
    ]
    row = max(rows, key=lambda row: len(row.options), default=resolved.scheduler)
    usual = row.options.get("timestep_spacing")
    spacing = options.get("timestep_spacing", usual)
    plain = "Automatic" if usual == spacing == "leading" else "Uniform"
    word = next((sigmas for sigmas, option in SIGMAS.items() if options.get(option)), spacing)
    schedule = plain if word == usual else SCHEDULES.get(str(word), plain)
    read_back = Carried()
    read_back.scheduler(row.label, schedule)
    implied = schedulers.resolve(**read_back.values["scheduler"]).options
    rest = {key: value for key, value in options.items() if implied.get(key, ...) != value}
    return row.label, schedule, rest


def read_infotext(info: Mapping[Any, Any]) -> tuple[str, Carried] | None:
    """Read the first infotext that has fields; EXIF comes before PNG text, as in A1111."""
    for text in _texts(info):
        prompt, negative, fields = split_infotext(text)
        if fields:
            return _tool(fields), carry_fields(prompt, negative, fields)
    return None


def read_prompts_only(info: Mapping[Any, Any]) -> tuple[str, Carried] | None:
    """Read an infotext that has only prompts."""
    text = info.get("parameters")
    if not isinstance(text, str) or not text.strip():
        return None
    return "A1111", carry_fields(*split_infotext(text))


def _texts(info: Mapping[Any, Any]) -> Iterator[str]:
    """Yield each text that may be infotext. stable-diffusion.cpp also uses comments and XMP."""
    comment, packet = (
        data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        for data in (info.get("comment"), info.get("xmp"))
    )
    in_xmp = re.search("<sdcpp:parameters>(.*?)(</sdcpp:parameters>|$)", str(packet), re.DOTALL)
    found = in_xmp and html.unescape(in_xmp[1])
    for text in (containers.exif_comment(info), info.get("parameters"), comment, found):
        if isinstance(text, str) and text and not json_object(text):  # diffusers-workflow writes JSON there
            yield text


def split_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Return prompt, negative prompt and fields, as A1111's `parse_generation_parameters` does.

    Raises InputError for a text of more than 4,000,000 characters.
    """
    check_length(text)
    head, mark, _ = text.rpartition("SDCPP: {")  # JSON without quotes around it, always last
    if mark and "Version: stable-diffusion.cpp" in head.rpartition("\n")[2]:
        text = head.rstrip(" ,")
    *lines, last = text.strip().split("\n")
    items = FIELD.findall(last)
    fields = {key.strip(): _unquote(value.strip()) for key, value in items}
    if len(items) < 3 or not fields.keys() & {"Steps", "Seed"}:  # `word: word,` of a prompt is not a field
        lines, fields = [*lines, last], {}
    prompt, _, negative = "\n".join(["", *map(str.strip, lines)]).partition("\nNegative prompt:")
    return prompt.strip(), negative.strip(), fields


def _tool(fields: Mapping[str, str]) -> str:
    version = fields.get("Version", "")
    return next(tool for pattern, tool in TOOLS.items() if re.match(pattern, version, re.IGNORECASE))


def carry_fields(prompt: str, negative: str, all_fields: Mapping[str, str]) -> Carried:
    """Carry over what `split_infotext` returned; of model names only sdapp's built-in one."""
    carried, fields, is_ours = Carried(), dict(all_fields), _tool(all_fields) == "sdapp"
    if is_literal := fields.get("Emphasis") == "None":
        del fields["Emphasis"]
    carried.prompts(prompt, negative, verbatim=is_ours or is_literal)
    if sampler := fields.pop("Sampler", ""):
        since_1_9 = re.search(r"v1\.(9|\d\d)", fields.get("Version", ""))
        schedule = fields.pop("Schedule type", "Automatic" if since_1_9 else "")
        name = "uni_pc" if sampler == "UniPC" and not is_ours else sampler
        carried.scheduler(name, schedule, fields.pop("Scheduler options", "{}"))
    move_named(fields, carried)
    if size := fields.pop("Size", ""):
        width, _, height = size.partition("x")
        carried.carry("Size", size, width=width, height=height)
    _move_task(fields, carried)
    skip = fields.pop("Clip skip", "1")
    if skip not in ("-1", "0", "1"):  # 1 is the last layer; 0 and -1 are stable-diffusion.cpp's default
        number = int(skip) - 1 if re.fullmatch("[0-9]{1,3}", skip) else skip
        carried.carry("Clip skip", skip, clip_skip=number)
    if is_ours and fields.get("Model") == BUILT_IN:
        carried.carry("Model", BUILT_IN, model=fields.pop("Model"))
    rng = fields.pop("RNG", "GPU")
    if rng.lower() != "cpu" and "seed" in carried.values:
        carried.leave_out("RNG", rng, "the same seed gives other noise")
    defaults = DEFAULTS | ({"Model hash": None} if "Model" in all_fields else {})
    defaults |= {"Lora hashes": None} if NETWORK.search(prompt) else {}
    for name, value in fields.items():
        if defaults.get(name, ...) not in (None, value):
            carried.leave_out(name, value)
    return carried


def _move_task(fields: dict[str, str], carried: Carried) -> None:
    """Move img2img or inpaint out of the fields, unless the strength is that of a hires fix's second pass."""
    if "Denoising strength" not in fields or any(name.startswith(("Hires", "First pass")) for name in fields):
        return
    kind = "inpaint" if INPAINT & fields.keys() else "img2img"
    more = {}
    if fields.pop("Inpaint area", None) == "Only masked":
        more["padding"] = fields.pop("Masked area padding", "32")
    carried.task(kind, "Denoising strength", fields.pop("Denoising strength"), **more)
