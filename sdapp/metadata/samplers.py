"""Names of samplers and schedules in other tools."""

import re
from typing import Any

from sdapp.scheduler_table import SIGMAS

Values = dict[str, Any]

# What A1111, or else Forge, calls each scheduler; `DPM Solver`, `DPM++ 2S` and `TCD` are words of ours.
LABELS = {
    "pndm": "PLMS", "ddim": "DDIM", "ddpm": "DDPM", "lms": "LMS", "euler": "Euler", "euler-a": "Euler a", "heun": "Heun",
    "dpm2": "DPM2", "dpm2-a": "DPM2 a", "dpm": "DPM Solver", "dpm++2m": "DPM++ 2M", "dpm++2m-sde": "DPM++ 2M SDE",
    "dpm++2m-sde-heun": "DPM++ 2M SDE Heun", "dpm++3m-sde": "DPM++ 3M SDE", "dpm++2s": "DPM++ 2S", "dpm++sde": "DPM++ SDE",
    "unipc": "UniPC", "deis": "DEIS", "sa-solver": "SA Solver", "lcm": "LCM", "tcd": "TCD",
}  # fmt: skip
# What A1111 makes of `Schedule type: Automatic` where that is not uniform.
AUTOMATIC = dict.fromkeys(("dpm++2m", "dpm++sde", "dpm2", "dpm2-a"), "karras") | dict.fromkeys(
    ("dpm++2m-sde", "dpm++2m-sde-heun", "dpm++3m-sde"), "exponential"
)
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
