"""Settings by name: InvokeAI, kohya, plain JSON."""

import re
from collections.abc import Mapping
from typing import Any

from sdapp.metadata.carry import Carried


def read_named(data: Mapping[str, Any]) -> Carried:
    """Settings by name: InvokeAI's metadata (invocations/metadata.py), kohya's PNG texts (gen_img.py), plain JSON."""
    found, rest = Carried(), dict(data)
    prompt = rest.pop("positive_prompt", None) or rest.pop("prompt", None)
    found.prompts(prompt, rest.pop("negative_prompt", None) or rest.pop("negative-prompt", None))
    for name in ("scheduler", "sampler"):
        if name in rest:
            found.scheduler(rest.pop(name))
    take_named(found, rest)
    if {"width", "height"} <= rest.keys():
        found.take(
            "size", [rest["width"], rest["height"]], width=rest.pop("width"), height=rest.pop("height")
        )
    kind = re.sub(r"^.*_", "", str(rest.get("generation_mode", ""))).replace("outpaint", "inpaint")
    if kind in ("img2img", "inpaint") and "strength" in rest:
        found.task(kind, "strength", rest.pop("strength"))
    for name, value in rest.items():
        if value not in (None, False, 0, "", "cpu", [], {}) and name not in NAMES_SILENT:
            found.leave(name, value)
    return found


# The settings in the words of A1111, InvokeAI, kohya and plain JSON.
NAMES = {
    "Steps": "steps", "CFG scale": "guidance_scale", "Seed": "seed", "Eta DDIM": "eta", "steps": "steps", "seed": "seed",
    "num_inference_steps": "steps", "cfg_scale": "guidance_scale", "cfg": "guidance_scale", "scale": "guidance_scale",
    "guidance_scale": "guidance_scale", "clip_skip": "clip_skip", "noise_seed": "seed",
}  # fmt: skip
NAMES_SILENT = {"app_version", "generation_mode", "raw-prompt", "model_hash", "type"}
KOHYA = ("prompt", "negative-prompt", "seed", "sampler", "steps", "scale", "negative-scale", "clip-prompt")


def take_named(found: Carried, fields: dict[str, Any]) -> None:
    """Move the settings of `NAMES` out of the fields."""
    for name in [name for name in NAMES if name in fields]:
        found.take(name, fields[name], **{NAMES[name]: fields.pop(name)})
