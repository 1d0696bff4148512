"""Write the settings of an image as infotext."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdapp import markup, schedulers
from sdapp.metadata.adetailer import found_fields
from sdapp.metadata.carry import Carried
from sdapp.metadata.infotext import EMPHASES, RNGS, UPSCALERS, ZERO_SNR, join_infotext
from sdapp.metadata.samplers import SCHEDULES, Values
from sdapp.profiles import PROFILES
from sdapp.scheduler_table import SIGMAS, TABLE


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
        "Mask blur": task.get("mask_blur") or None,
        **found_fields(values), "CFG rescale": values["guidance_rescale"] or None,
        "Noise Schedule": ZERO_SNR if values["zero_snr"] == "on" else None,
        **_own_fields(values), **second, "Outpaint": _sides_as_text(task.get("sides")),
        "Eta DDIM": values["eta"], "Scheduler options": json.dumps(options) if options else None,
        "Version": f"sdapp {version}",
    }  # fmt: skip
    return join_infotext(" ".join([prompt.strip(), *map(_lora_tag, loras)]), negative, fields)


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
