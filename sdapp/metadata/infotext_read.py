"""Read the settings in an infotext."""

import re
from collections.abc import Mapping
from typing import Any

from sdapp import markup
from sdapp.errors import InputError
from sdapp.metadata.adetailer import carry_details
from sdapp.metadata.carry import Carried, json_object
from sdapp.metadata.infotext import (
    EMPHASES,
    OWN,
    PLACES,
    RNGS,
    START,
    UPSCALERS,
    ZERO_SNR,
    split_infotext,
    tool_of,
)
from sdapp.metadata.named import Fields, carry_numbers
from sdapp.metadata.samplers import Values, plain_word
from sdapp.models.files import BUILT_IN
from sdapp.profiles import PROFILES, ProfileName

DEFAULTS: dict[str, tuple[str, ...]] = {  # fields that change no pixel with these values, or () with any
    "emphasis": (*EMPHASES.values(), "None"), "maskmode": ("Inpaint masked",), "user": (),
    "inpaintarea": ("Whole image", "Whole picture", "Only masked"), "app": (), "version": (),
    "maskedcontent": ("original",),
    "vaehash": (), "hashes": (), "initimagehash": (), "batchsize": (), "batchpos": (), "guidance": (),
}  # fmt: skip
THEIRS: dict[str, ProfileName] = {"A1111": "a1111", "Forge": "a1111", "ComfyUI": "comfyui"}
INPAINT = {"maskblur", "maskmode", "maskedcontent", "inpaintarea", "maskedareapadding"}


def read_infotext(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read the first infotext that has fields; EXIF comes before PNG text, as in A1111."""
    for place in PLACES:
        text = texts.get(place, "")
        if text and not json_object(text):  # others write JSON there
            split = split_infotext(text)
            if split.fields:
                return tool_of(split.fields), carry_fields(*split)
    return None


def read_prompts_only(texts: Mapping[str, str]) -> tuple[str, Carried] | None:
    """Read an infotext that has only prompts. Raises InputError if it seems to have settings too."""
    text = texts.get("parameters", "")
    if len({plain_word(match[0].partition(":")[0]) for match in START.finditer(text)}) >= 3:
        raise InputError("its settings cannot be told from its prompt; give both as options")
    return ("A1111", carry_fields(*split_infotext(text))) if text.strip() else None


def carry_fields(prompt: str, negative: str, all_fields: Mapping[str, str], note: str = "") -> Carried:
    """Carry over what `split_infotext` returned; of models the names."""
    carried, fields, is_ours = Carried(), Fields(all_fields), tool_of(all_fields) == "sdapp"
    carried.notes += [note] if note else []
    carry = carried.verbatim if is_ours and "Lora hashes" not in all_fields else carried.prompts
    carry(prompt, negative, "plain" if all_fields.get("Emphasis") == "None" else "a1111")
    if fields.peek("Noise Schedule") == ZERO_SNR:
        carried.carry(*fields.take("Noise Schedule"), zero_snr="on")
    _move_noise(fields, carried, tool_of(all_fields))
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
    # Another blur stays there, and a note says that it is not used.
    if re.fullmatch(r"[1-5]?\d|6[0-4]", str(fields.peek("Mask blur"))):
        more["mask_blur"] = fields.take("Mask blur")[1]
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
