"""Where images are saved, and under which names."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sdapp.settings.types import FilePath, Frozen, Setting

LABELS = ("tag", "id", "filename")  # what a line of a prompt file can have beside its settings
PLACEHOLDERS = (
    "prompt", "seed", "line", "index", "scheduler", "steps", "guidance_scale", "width", "height",
    "final_width", "final_height", "image", "model", "task", "id", "tag", "filename", "date", "time",
)  # fmt: skip
PLACEHOLDER_LIST = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def _check_template(template: str) -> str:
    rest = re.sub(r"\{(\w+)\}", lambda match: "" if match[1] in PLACEHOLDERS else match[0], template)
    if "{" in rest or "}" in rest:
        raise ValueError(f"the placeholders are {PLACEHOLDER_LIST}")
    if not template.strip(" .") or re.search(r'[/\\:*?"<>|\x00-\x1f\x7f]', rest):
        raise ValueError("must be a file name without folders; choose the folder with output.dir")
    return template


class Output(Frozen):
    """Where images are saved, and under which names."""

    dir: Annotated[FilePath, Field(description="The folder; created if it does not exist.")] = "outputs"
    name: Annotated[
        str,
        AfterValidator(_check_template),
        Field(description=f"File-name template of {PLACEHOLDER_LIST} and plain text."),
        Setting("text"),
    ] = "{prompt}-{seed}"
    format: Annotated[
        Literal["png", "jpeg", "webp"], Field(description="All of them contain the record; png is lossless.")
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100, description="JPEG and WebP; WebP is lossless at 100.")] = 95
    shared: Annotated[
        bool,
        Field(description="On a cluster: all nodes see this folder, and workers save images themselves."),
    ] = False
