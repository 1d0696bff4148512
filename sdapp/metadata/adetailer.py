"""What ADetailer, an extension of A1111, writes into infotext: places that are found and repainted."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdapp.metadata.carry import Carried
from sdapp.metadata.named import Fields
from sdapp.metadata.samplers import Values
from sdapp.models.files import BUILT_IN

EXTENSION = "ADetailer"
MOST = 10  # of its tabs
FIELDS = {  # with our settings
    "prompt": "prompt", "negative prompt": "negative_prompt", "confidence": "mask_threshold",
    "dilate erode": "mask_growth", "denoising strength": "strength", "inpaint padding": "padding",
    "mask blur": "mask_blur",
}  # fmt: skip
# Its models, by how their names begin, and words for what they find.
FOUND = {
    "face": "face", "mediapipe_face": "face", "hand": "hand", "person": "person", "deepfashion": "clothes",
}  # fmt: skip


def found_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of what is found by words in a Job's `model_dump()`.

    Those of the second and later details end with its number, such as `ADetailer prompt 2nd`.
    """
    fields = {"Mask prompt": values["task"].get("mask_prompt")}
    for end, each in zip(_ends(), values["detail"], strict=False):
        model = str(each["mask_model"]).partition("@")[0]
        name = Path(model).name if Path(model).exists() else model
        fields |= {f"{EXTENSION} model{end}": name, f"{EXTENSION} model classes{end}": each["mask_prompt"]}
        fields |= {f"{EXTENSION} {field}{end}": each[key] for field, key in FIELDS.items()}
        fields[f"{EXTENSION} inpaint only masked{end}"] = True
    return fields


def carry_details(fields: Fields, carried: Carried, is_ours: bool) -> None:
    """Carry over the places of ADetailer; its own models are pickled, so words stand for them."""
    details = list[Values]()
    fields.take(f"{EXTENSION} version")
    for end in _ends():
        name, model = fields.take(f"{EXTENSION} model{end}")
        if model in (None, "", "None"):
            break
        classes = fields.take(f"{EXTENSION} model classes{end}")[1]
        words = classes or next((word for sign, word in FOUND.items() if model.startswith(sign)), None)
        given = {key: fields.take(f"{EXTENSION} {field}{end}")[1] for field, key in FIELDS.items()}
        # Images of ours without this field are from before it, and had a hard edge.
        given["mask_blur"] = given["mask_blur"] or ("0" if is_ours else None)
        if str(fields.peek(f"{EXTENSION} inpaint only masked{end}")) == "True":
            fields.take(f"{EXTENSION} inpaint only masked{end}")
        if words is None:
            carried.leave_out(name, model, "sdapp has no words for what it finds")
            continue
        if is_ours and (model == BUILT_IN or re.fullmatch(r"[\w.-]+/[\w.-]+", model)):
            given["mask_model"] = model
        else:
            given["mask_threshold"] = None  # how sure its model was says nothing of another
            carried.leave_out(name, model, f"{words!r} is looked for by another model")
        for key in ("prompt", "negative_prompt"):
            if found := re.search(r"\[(SEP|SKIP)\]", given[key] or ""):
                carried.leave_out(f"{EXTENSION} {key.replace('_', ' ')}{end}", given.pop(key), found[0])
            else:
                given[key] = (given[key] or "").replace("[PROMPT]", carried.values.get(key, ""))
        if carried.carry(name, model, detail=[{"mask_prompt": words}]):
            own = {key: f"{EXTENSION} {field}{end}" for field, key in FIELDS.items()}
            _carry_one_by_one(carried, given, own | {"mask_model": name})
            details += carried.values["detail"]
    if details:
        carried.values["detail"] = details


def _carry_one_by_one(carried: Carried, given: Values, own: Mapping[str, str]) -> None:
    """Carry settings over into the one detail so far; one that is refused is left out by its `own` name."""
    for key, value in given.items():
        if value not in (None, ""):
            carried.carry(own[key], value, detail=[carried.values["detail"][0] | {key: value}])


def _ends() -> Iterator[str]:
    yield ""
    for number in range(2, MOST + 1):
        yield f" {number}{'nd' if number == 2 else 'rd' if number == 3 else 'th'}"
