"""Write and read infotext, in which A1111, Forge, SD.Next and stable-diffusion.cpp store settings."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sdapp import markup, schedulers
from sdapp.errors import InputError
from sdapp.metadata.adetailer import carry_details, found_fields
from sdapp.metadata.carry import Carried, check_length, json_object
from sdapp.metadata.named import Fields, carry_numbers
from sdapp.metadata.samplers import SCHEDULES, Values, plain_word
from sdapp.models.files import BUILT_IN
from sdapp.profiles import PROFILES, ProfileName, Rng
from sdapp.scheduler_table import SIGMAS, TABLE

VALUE = r'"(?:\\.|[^"\\])+"|\d+,\d+(?=\s*,|\s*$)|[^,]*'
FIELD = re.compile(rf"(\w[\w /-]{{1,60}}):\s*({VALUE})(?:,|$)")
# Fields that can begin the settings, with values of their kind; a prompt hardly contains them.
START = re.compile(
    r"(?i)(?<![\w-])(?:(?:Steps|Seed|CFG[ _]?scale)\s*:\s*-?\d|Size\s*:\s*\d+\s*x\s*\d"
    r"|(?:Sampler|Schedule type|Scheduler)\s*:)"
)
USUAL = {"steps", "seed", "cfgscale", "size", "sampler"}
NEGATIVE_LINE = re.compile(r"(?im)^Negative prompt\s*:")
NEGATIVE_WORDS = re.compile(r"(?i)\bNegative prompt\s*:")  # where line breaks are lost
PLACES = ("EXIF UserComment", "parameters", "comment", "XMP sdcpp:parameters")
MAX_STARTS = 10  # places from the end of a text where settings are looked for
VERSIONS = {  # by the fields `App` and `Version`
    "sdapp ": "sdapp", r"stable-diffusion\.cpp": "stable-diffusion.cpp", r"f\d|.*forge": "Forge",
    "comfyui": "ComfyUI", r"sd\.?next": "SD.Next", "fooocus": "Fooocus", "": "A1111",
}  # fmt: skip
EMPHASES = {"original": "Original", "no-norm": "No norm"}
DEFAULTS: dict[str, tuple[str, ...]] = {  # fields that change no pixel with these values, or () with any
    "emphasis": (*EMPHASES.values(), "None"), "maskmode": ("Inpaint masked",), "user": (),
    "inpaintarea": ("Whole image", "Whole picture", "Only masked"), "app": (), "version": (),
    "maskedcontent": ("original",),
    "vaehash": (), "hashes": (), "initimagehash": (), "batchsize": (), "batchpos": (), "guidance": (),
}  # fmt: skip
ZERO_SNR = "Zero Terminal SNR"  # of the field `Noise Schedule` in A1111 and Forge
OWN = {  # fields that only sdapp writes, with their settings
    "Prediction type": "prediction_type", "Zero SNR": "zero_snr", "Original size": "original_size",
    "Crop": "crop", "Profile": "profile",
}  # fmt: skip
RNGS: dict[str, Rng] = {"CPU": "cpu", "NV": "gpu", "GPU": "gpu"}  # the first of a kind is written
THEIRS: dict[str, ProfileName] = {"A1111": "a1111", "Forge": "a1111", "ComfyUI": "comfyui"}
# A1111's names of what enlarges images before a second pass → ours; the first of a kind is written.
UPSCALERS = {
    "Lanczos": "lanczos", "Latent": "latent", "Latent (antialiased)": "latent",
    "Latent (bicubic)": "latent-bicubic", "Latent (bicubic antialiased)": "latent-bicubic",
    "Latent (nearest-exact)": "latent-nearest", "Latent (nearest)": "latent-nearest",
}  # fmt: skip
INPAINT = {"maskblur", "maskmode", "maskedcontent", "inpaintarea", "maskedareapadding"}


def write_infotext(
    values: Mapping[str, Any], model_name: str, version: str, record: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Return the infotext of an image as A1111 1.10 writes it (`create_infotext`).

    `values` is a Job's `model_dump()`; `record` may have the SHA-256 of single files. What infotext cannot
    contain is replaced so that the image stays the same: control characters by spaces, `Negative prompt:` in
    a prompt by lower case (CLIP ignores case). The field `Scheduler options` is sdapp's own. Raises
    ConfigError for an unknown scheduler.
    """
    task, skip, padding = values["task"], values["clip_skip"], values["task"].get("padding")
    loras: list[Values] = values["loras"]
    model_hash, vae_hash = ((record.get(f"{part}_sha256") or "")[:10] for part in ("model", "vae"))
    sampler, schedule, options = _scheduler_words(schedulers.resolve(**values["scheduler"]))
    prompt, negative = (
        re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", values[key]).replace("Negative prompt:", "negative prompt:")
        for key in ("prompt", "negative_prompt")
    )
    second, is_plain = _hires_fields(values), all(map(markup.is_plain, (prompt, negative)))
    if "strength" not in task:  # which A1111 has for one of the two only
        task = task | {"strength": second.pop("Hires strength", None)}
    emphasis = "None" if values["prompt_syntax"] == "plain" else EMPHASES[values["emphasis"]]
    fields = {
        "Steps": values["steps"], "Sampler": sampler, "Schedule type": schedule,
        "CFG scale": str(values["guidance_scale"]).removesuffix(".0"), "Seed": values["seed"],
        "Size": f"{values['width']}x{values['height']}", "Model hash": model_hash, "Model": model_name,
        "VAE hash": vae_hash, "VAE": values["vae"] and Path(values["vae"]).name.partition("@")[0],
        "Denoising strength": task["strength"],
        "Clip skip": skip + 1 if skip else None, "RNG": _rng_word(values), "ENSD": values["ensd"] or None,
        "Lora hashes": ", ".join(f"{Path(lora['file']).stem}: {lora['sha256'][:12]}" for lora in loras),
        "Mask mode": "Inpaint masked" if task["kind"] == "inpaint" else None,
        "TI hashes": ", ".join(f"{each['name']}: {each['sha256'][:12]}" for each in values["embeddings"]),
        **{f"ControlNet {i}": _control_words(each) for i, each in enumerate(values["control"])},
        "Emphasis": None if is_plain or emphasis == "Original" else emphasis,
        "Inpaint area": None if padding is None else "Only masked", "Masked area padding": padding,
        **found_fields(values), "CFG rescale": values["guidance_rescale"] or None,
        "Noise Schedule": ZERO_SNR if values["zero_snr"] == "on" else None,
        **_own_fields(values), **second, "Outpaint": _sides_as_text(task.get("sides")),
        "Eta DDIM": values["eta"], "Scheduler options": json.dumps(options) if options else None,
        "Version": f"sdapp {version}",
    }  # fmt: skip
    items = [f"{key}: {_quote(str(value))}" for key, value in fields.items() if value not in (None, "")]
    prompt = " ".join([prompt.strip(), *map(_lora_tag, loras)])
    lines = [prompt.strip(), f"Negative prompt: {negative.strip()}" if negative.strip() else None]
    return "\n".join([*(line for line in lines if line is not None), ", ".join(items)]).strip()


def _own_fields(values: Mapping[str, Any]) -> dict[str, str | None]:
    """The fields of `OWN`; without settings that are not given."""
    prediction = values["prediction_type"]
    return {
        "Prediction type": None if prediction == "auto" else prediction,
        "Zero SNR": "off" if values["zero_snr"] == "off" else None,
        "Original size": "x".join(map(str, values["original_size"] or ())),
        "Crop": "x".join(map(str, values["crop"] or ())),
        "Profile": None if values["profile"] == "diffusers" else values["profile"],
    }


def _rng_word(values: Mapping[str, Any]) -> str:
    rng = values["rng"] or PROFILES[values["profile"]].rng
    return next(word for word, ours in RNGS.items() if ours == rng)


def with_fields(text: str, fields: Mapping[str, str]) -> str:
    """Add fields at the end of an infotext, as A1111's scripts do."""
    return ", ".join([text, *(f"{key}: {_quote(value)}" for key, value in fields.items())])


def _sides_as_text(sides: Mapping[str, int] | None) -> str:
    return " ".join(f"{side}={pixels}" for side, pixels in (sides or {}).items() if pixels)


def _hires_fields(values: Mapping[str, Any]) -> Values:
    """The fields of upscaling: A1111's, and `Hires strength`, `Hires source` and `Final size` of sdapp.

    `Hires steps` are those that run, as in A1111.
    """
    upscale = values["upscale"]
    if upscale is None:
        return {}
    sides = values["width"], values["height"]
    profile, steps = PROFILES[values["profile"]], upscale["steps"] or values["steps"]
    file = upscale["model"] and Path(upscale["model"]).stem
    fields: Values = {
        "Hires source": "image" if values["task"]["kind"] == "upscale" else None,
        "Final size": "x".join(str(int(side * upscale["scale"] + 0.5)) for side in sides),
    }
    if upscale["method"] in ("model", "diffusion"):  # as A1111's page for finished images writes it
        return fields | {"Postprocess upscale by": f"{upscale['scale']:.12g}", "Postprocess upscaler": file}
    fields |= {
        "Hires upscale": f"{upscale['scale']:.12g}",
        "Hires steps": profile.steps(*profile.second_pass(steps, upscale["strength"]))[1],
        "Hires upscaler": next(
            (name for name, ours in UPSCALERS.items() if ours == upscale["enlarge"]), file
        ),
        "Hires strength": upscale["strength"],
        "Hires tile": upscale["tile"],
    }
    if upscale["scheduler"]:
        resolved = schedulers.resolve(**upscale["scheduler"])
        fields["Hires sampler"], fields["Hires schedule type"], _ = _scheduler_words(resolved)
    return fields


def _control_words(control: Mapping[str, Any]) -> str:
    """A ControlNet as its extension for A1111 writes it; `Resize` is what sdapp does with its image."""
    name = Path(control["model"]).name.partition("@")[0].removesuffix(".safetensors")
    return (
        f"Module: none, Model: {name}, Weight: {control['scale']:g}, Resize Mode: Just Resize, "
        f"Guidance Start: {control['start']:g}, Guidance End: {control['end']:g}, Control Mode: Balanced"
    )


def _lora_tag(lora: Mapping[str, Any]) -> str:
    """A LoRA as A1111 writes it into the prompt: its weight, or those of the text encoders and the UNet."""
    weights = [each for each in (lora["text_encoder_weight"], lora["weight"]) if each is not None]
    return f"<lora:{Path(lora['file']).stem}:{':'.join(f'{weight:g}' for weight in weights)}>"


def _quote(text: str) -> str:
    is_plain = not re.search(r'[,:\n]|^["\s]|\s$', text) and text.isprintable()
    return text if is_plain else json.dumps(text, ensure_ascii=False)


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


def read_infotext(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read the first infotext that has fields; EXIF comes before PNG text, as in A1111."""
    for place in PLACES:
        text = texts.get(place, "")
        if text and not json_object(text):  # others write JSON there
            split = split_infotext(text)
            if split.fields:
                return _tool(split.fields), carry_fields(*split)
    return None


def read_prompts_only(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read an infotext that has only prompts. Raises InputError if it seems to have settings too."""
    text = texts.get("parameters", "")
    if len({plain_word(match[0].partition(":")[0]) for match in START.finditer(text)}) >= 3:
        raise InputError("its settings cannot be told from its prompt; give both as options")
    return ("A1111", carry_fields(*split_infotext(text))) if text.strip() else None


class Infotext(NamedTuple):
    """The parts of an infotext."""

    prompt: str
    negative: str
    fields: dict[str, str]
    note: str = ""  # how it was read, if it can be read in two ways


def split_infotext(text: str) -> Infotext:
    """Return the parts of a text; if its last line has the fields, as A1111's `parse_generation_parameters`.

    Fields are also found before other lines, behind the prompt on one line, and one on each line. Raises
    InputError for a text of more than 4,000,000 characters.
    """
    check_length(text)
    head, mark, _ = text.rpartition("SDCPP: {")  # JSON without quotes around it, always last
    if mark and "Version: stable-diffusion.cpp" in head.rpartition("\n")[2]:
        text = head.rstrip(" ,")
    if "\n" not in text and "\\nSteps: " in text:  # copied out of JSON
        text = text.replace("\\n", "\n")
    text = "\n".join(line.strip() for line in text.strip().split("\n"))
    start, fields = _find_fields(text)
    prompt, negative, note = text[:start], "", ""
    is_one_line = 0 < start < len(text) and text[start - 1] != "\n"
    label = re.search(r"(?m)^Negative prompt:", prompt)
    if not label and _tool(fields) != "sdapp":  # which writes `negative prompt:` for these words in a prompt
        label = (NEGATIVE_WORDS if is_one_line else NEGATIVE_LINE).search(prompt)
        if not label and NEGATIVE_WORDS.search(prompt):
            note = "`Negative prompt:` is within a line of its prompt, so it stays there"
    if label:
        prompt, negative = prompt[: label.start()], prompt[label.end() :]
    elif label := NEGATIVE_LINE.search(text, start):
        fields, negative = _parse_fields(text[start : label.start()]), text[label.end() :]
    if is_one_line:
        note = f"its settings are on the line of the prompt; they begin at `{text[start : start + 20]}`"
        prompt, negative = (part.rstrip(" \n.,;|") for part in (prompt, negative))
    return Infotext(prompt.strip(), negative.strip(), fields, note)


def _find_fields(text: str) -> tuple[int, dict[str, str]]:
    """Return where the fields begin, and the fields; the end of the text and none if there are none."""
    for start in _likely_starts(text):
        fields = _parse_fields(text[start:])
        names = set(map(plain_word, fields))
        is_line = not start or text[start - 1] == "\n"
        # Fewer, such as `word: word,`, are words of a prompt; within a line they may be `Hires steps: 4, …`.
        if len(names if is_line else names & USUAL) >= 3 and names & {"steps", "seed"}:
            return start, fields
    return len(text), {}


def _likely_starts(text: str) -> Iterator[int]:
    """Yield where fields may begin: at a line with `Steps: `, at a line of fields, or within a line."""
    yield from [match.start() for match in re.finditer(r"(?im)^Steps\s*:\s*\d", text)][:-MAX_STARTS:-1]
    found = [match.start() for match in START.finditer(text)]
    rows = [(start, text[before:start]) for before, start in pairwise([0, *found])]
    for start, between in rows[:-MAX_STARTS:-1]:
        if _are_fields(between):
            continue  # it belongs to the fields before it
        line = text.rfind("\n", 0, start) + 1
        yield line if line and _are_fields(text[line:start]) else start


def _are_fields(text: str) -> bool:
    return text.rstrip(" ").endswith(",") and "\n" not in text and not FIELD.sub("", text).strip()


def _parse_fields(text: str) -> dict[str, str]:
    """Return the fields of a text, in lines below too, such as `Template: …`; the first of a name counts."""
    first, *lines = text.split("\n")
    joined = first + "".join(f"{',' if FIELD.match(line) else ''} {line}" for line in lines)
    fields: dict[str, str] = {}
    for name, value in FIELD.findall(joined):
        fields.setdefault(name.strip(), _unquote(value.strip()))
    return fields


def _unquote(text: str) -> str:
    """Return a value without its quotes and with a decimal point."""
    try:
        text = str(json.loads(text)) if text[:1] == '"' else text
    except ValueError:
        return text
    return text.replace(",", ".") if re.fullmatch(r"\d+,\d+", text) else text


def _tool(fields: Mapping[str, str]) -> str:
    plain = {plain_word(name): value for name, value in fields.items()}
    version = f"{plain.get('app', '')} {plain.get('version', '')}".strip()
    return next(tool for pattern, tool in VERSIONS.items() if re.match(pattern, version, re.IGNORECASE))


def carry_fields(prompt: str, negative: str, all_fields: Mapping[str, str], note: str = "") -> Carried:
    """Carry over what `split_infotext` returned; of models the names."""
    carried, fields, is_ours = Carried(), Fields(all_fields), _tool(all_fields) == "sdapp"
    carried.notes += [note] if note else []
    carry = carried.verbatim if is_ours and "Lora hashes" not in all_fields else carried.prompts
    carry(prompt, negative, "plain" if all_fields.get("Emphasis") == "None" else "a1111")
    if fields.peek("Noise Schedule") == ZERO_SNR:
        carried.carry(*fields.take("Noise Schedule"), zero_snr="on")
    _move_noise(fields, carried, _tool(all_fields))
    for name, setting in OWN.items():
        if (value := fields.take(name)[1]) is not None:
            carried.carry(name, value, **{setting: value})
    if all_fields.get("Emphasis") == "No norm":
        carried.values["emphasis"] = "no-norm"
    sampler, schedule = fields.sampler()
    if sampler:
        since_1_9 = re.search(r"v1\.(9|\d\d)", all_fields.get("Version", ""))
        name = "uni_pc" if sampler == "UniPC" and not is_ours else sampler
        options = fields.take("Scheduler options")[1]
        carried.scheduler(name, schedule or ("Automatic" if since_1_9 else ""), options or "{}")
    carry_numbers(fields, carried, last_layer=1)
    _move_task(fields, carried, {plain_word(name): value for name, value in all_fields.items()})
    name, model = fields.take("model")
    if is_ours and model == BUILT_IN:
        carried.carry(name, BUILT_IN, model=model)
    else:
        carried.name_model(name, model)
    known = {"modelhash": ()} if "Model" in all_fields else {}
    known |= {"lorahashes": ()} if markup.NETWORK.search(prompt) else {}
    carry_details(fields, carried, is_ours)
    carried.lora_hashes = _hashes(all_fields.get("Lora hashes", ""))
    carried.embedding_hashes = _hashes(fields.take("TI hashes")[1] or "")
    fields.name_rest(carried, DEFAULTS | known)
    return carried


def _move_noise(fields: Fields, carried: Carried, tool: str) -> None:
    """Choose the profile of a tool, and carry over what draws the noise."""
    name, rng = fields.take("RNG")
    theirs = THEIRS.get(tool) if fields.peek("Seed") else None
    if theirs:
        carried.values["profile"] = theirs
    if theirs == "a1111" or tool == "sdapp":
        profile = theirs or fields.peek("Profile")
        usual = PROFILES.get(profile, PROFILES["diffusers"]).rng
        ours = RNGS.get(str(rng).upper(), usual)
        if ours != usual:
            carried.carry(name, rng, rng=ours)
        elif rng and rng.upper() not in RNGS:
            carried.leave_out(name, rng)
        if profile == "a1111" and fields.peek("ENSD"):
            name, ensd = fields.take("ENSD")
            carried.carry(name, ensd, ensd=ensd)
    elif not theirs and (rng or "GPU").upper() != "CPU" and fields.peek("Seed"):
        carried.leave_out("RNG", rng or "GPU", "the same seed gives other noise")


def _hashes(text: str) -> dict[str, str]:
    """The hashes in a field such as `Lora hashes`, by name."""
    return dict(re.findall(r"([^:,]+): ?([0-9a-f]{8,64})(?:,\s*|$)", text))


def _move_task(fields: Fields, carried: Carried, plain: Mapping[str, str]) -> None:
    """Move img2img, inpaint and the second pass of a hires fix out of the fields.

    In A1111 one strength is either that of img2img or that of the second pass.
    """
    if {"hiresupscale", "hiresresize"} & plain.keys():
        _move_hires(fields, carried, own="hiresstrength" in plain)
        if "hiressource" in plain:
            fields.take("Hires source")
            carried.values["task"] = {"kind": "upscale"}
            carried.leave_out("task.image", "not inside the image")
    if "denoisingstrength" not in plain or any(name.startswith("firstpass") for name in plain):
        return None
    if any(name.startswith("hires") for name in plain) and "hiresstrength" not in plain:
        return None
    if sides := fields.take("Outpaint")[1]:
        name, strength = fields.take("Denoising strength")
        for side in ("width", "height"):  # of the result
            carried.values.pop(side, None)
        return carried.task("outpaint", name, strength, sides=sides)
    is_cropped = plain.get("inpaintarea") == "Only masked"
    more = {"padding": fields.take("Masked area padding")[1] or "32"} if is_cropped else {}
    if words := fields.take("Mask prompt")[1]:
        more["mask_prompt"] = words
    name, strength = fields.take("Denoising strength")
    return carried.task("inpaint" if INPAINT & plain.keys() else "img2img", name, strength, **more)


def _move_hires(fields: Fields, carried: Carried, own: bool) -> None:
    """Move the second pass of a hires fix; `own` says that it has a strength besides that of img2img."""
    strength_name, strength = fields.take("Hires strength" if own else "Denoising strength")
    if strength is None:  # then it is unknown what the second pass was
        return
    (name, scale), (_, resize) = fields.take("Hires upscale"), fields.take("Hires resize")
    if not scale:
        name, scale = "Hires resize", _scale_of(resize, carried.values)
        if scale is None:
            carried.leave_out(name, resize, "the second pass would have another shape")
    (_, enlarger), (_, steps) = fields.take("Hires upscaler"), fields.take("Hires steps")
    (_, sampler), (_, schedule) = fields.take("Hires sampler"), fields.take("Hires schedule type")
    (_, tile), _ = fields.take("Hires tile"), fields.take("Final size")
    enlarge = UPSCALERS.get(enlarger or "Latent")
    upscale: Values = {"scale": scale, "enlarge": enlarge or "lanczos", "strength": strength}
    if tile:
        upscale["tile"] = tile
    steps = int(steps) if str(steps).isdecimal() and int(steps) else carried.values.get("steps", 20)
    is_all = PROFILES[carried.values.get("profile", "diffusers")].is_k_diffusion
    if steps_in_all := steps if is_all else _steps_in_all(steps, strength):
        upscale["steps"] = steps_in_all
    if sampler and sampler != "Use same sampler":
        other = Carried()
        other.scheduler(sampler, "" if schedule in (None, "Use same scheduler") else schedule)
        upscale |= other.values
        carried.left_out += [f"Hires {line[0].lower()}{line[1:]}" for line in other.left_out]
    shown = f"{scale}, {strength_name}: {strength}"
    if scale and carried.carry(name, shown, upscale=upscale) and enlarge is None:
        carried.leave_out("Hires upscaler", enlarger, "the image is enlarged by lanczos instead")


def _scale_of(resize: str | None, values: Mapping[str, Any]) -> float | None:
    """The factor of a `Hires resize: WxH`, where a 0 follows the other side; None for another shape."""
    found = re.fullmatch(r"(\d+)x(\d+)", resize or "")
    sides = [side for side in (values.get("width"), values.get("height")) if side]
    if not found or len(sides) < 2:
        return None
    scales = [int(large) / side for large, side in zip(found.groups(), sides, strict=True) if int(large)]
    return scales[0] if scales and max(scales) < 1.01 * min(scales) else None


def _steps_in_all(run: int, strength: str | None) -> int | None:
    """The fewest steps of which so many run at a strength: int(steps × strength)."""
    try:
        share = float(strength or "")
    except ValueError:
        return None
    return next((n for n in range(run, 1001) if int(n * share) == run), None)
