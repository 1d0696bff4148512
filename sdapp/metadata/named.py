"""Read settings that are stored by name: InvokeAI, kohya, and the JSON of diffusers workflows."""

import re
from collections.abc import Mapping
from typing import Any

from sdapp.errors import InputError
from sdapp.metadata.carry import Carried, json_object

# sdapp's keys by the names in A1111, InvokeAI, kohya and plain JSON.
KEYS_BY_NAME = {
    "Steps": "steps", "steps": "steps", "num_inference_steps": "steps",
    "CFG scale": "guidance_scale", "cfg_scale": "guidance_scale", "cfg": "guidance_scale",
    "scale": "guidance_scale", "guidance_scale": "guidance_scale", "Eta DDIM": "eta",
    "Seed": "seed", "seed": "seed", "noise_seed": "seed", "clip_skip": "clip_skip",
}  # fmt: skip
NO_EFFECT = {"app_version", "generation_mode", "raw-prompt", "model_hash", "type"}
KOHYA = ("prompt", "negative-prompt", "seed", "sampler", "steps", "scale", "negative-scale", "clip-prompt")


def read_invokeai(info: Mapping[Any, Any]) -> tuple[str, Carried] | None:
    """Read InvokeAI's metadata (its invocations/metadata.py). Raises InputError if it is broken."""
    if "invokeai_metadata" not in info:
        return None
    data = json_object(info["invokeai_metadata"])
    if not data:
        raise InputError("the metadata of InvokeAI is broken")
    return "InvokeAI", _carry_named(data)


def read_kohya(info: Mapping[Any, Any]) -> tuple[str, Carried] | None:
    """Read the PNG texts of kohya's gen_img.py, which do not include the size."""
    if not isinstance(info.get("prompt"), str) or not {"sampler", "scale", "steps"} & info.keys():
        return None
    return "kohya", _carry_named({key: info[key] for key in KOHYA if key in info})


def read_workflow(info: Mapping[Any, Any]) -> tuple[str, Carried] | None:
    """Read the JSON that diffusers-workflow writes where A1111 writes its infotext."""
    data = json_object(info.get("parameters"))
    return ("diffusers-workflow", _carry_named(data)) if data else None


def _carry_named(data: Mapping[str, Any]) -> Carried:
    carried, rest = Carried(), dict(data)
    prompt = rest.pop("positive_prompt", None) or rest.pop("prompt", None)
    carried.prompts(prompt, rest.pop("negative_prompt", None) or rest.pop("negative-prompt", None))
    for name in ("scheduler", "sampler"):
        if name in rest:
            carried.scheduler(rest.pop(name))
    move_named(rest, carried)
    if {"width", "height"} <= rest.keys():
        size = {side: rest.pop(side) for side in ("width", "height")}
        carried.carry("size", list(size.values()), **size)
    kind = re.sub(r"^.*_", "", str(rest.get("generation_mode", ""))).replace("outpaint", "inpaint")
    if kind in ("img2img", "inpaint") and "strength" in rest:
        carried.task(kind, "strength", rest.pop("strength"))
    for name, value in rest.items():
        if value not in (None, False, 0, "", "cpu", [], {}) and name not in NO_EFFECT:
            carried.leave_out(name, value)
    return carried


def move_named(fields: dict[str, Any], carried: Carried) -> None:
    """Carry over the fields of `KEYS_BY_NAME` and remove them from `fields`."""
    for name, key in KEYS_BY_NAME.items():
        if name in fields:
            carried.carry(name, fields[name], **{key: fields.pop(name)})
