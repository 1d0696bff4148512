"""Names of samplers and schedules in other tools."""

import re
from typing import Any

from sdapp.scheduler_table import SIGMAS

Values = dict[str, Any]

SCHEDULES = {name: name.title() for name in SIGMAS} | {"trailing": "SGM Uniform", "leading": "DDIM"}
# Every tool's schedules as suffixes of ours; None where diffusers has no such schedule.
SCHEDULE_WORDS: dict[str, str | None] = {
    **dict.fromkeys(("", "uniform", "normal", "discrete", "default"), ""), **{name: name for name in SIGMAS},
    "automatic": "automatic", "sgmuniform": "trailing", "simple": "trailing", "ddim": "leading", "ddimuniform": "leading",
    **dict.fromkeys(("ays", "gits", "smoothstep", "kloptimal", "polyexponential", "bongtangent", "turbo", "lcm")),
}  # fmt: skip
# Samplers that others run with other options: UniPC in A1111 and ComfyUI, the 3M without noise in InvokeAI.
SAMPLERS: dict[str, tuple[str, Values]] = {
    "uni_pc": ("unipc", {"solver_type": "bh1", "solver_order": 3}), "uni_pc_bh2": ("unipc", {"solver_order": 3}),
    "dpmpp_3m": ("dpm++2m", {"solver_order": 3}), "dpmpp_3m_k": ("dpm++2m-karras", {"solver_order": 3}),
}  # fmt: skip


def _word(text: str) -> str:
    return re.sub(r"[\s_-]", "", text.lower())
