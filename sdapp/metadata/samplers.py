"""Names of samplers and schedules in other tools; A1111's names of schedulers are in scheduler_table.py."""

import re
from typing import Any

from sdapp.scheduler_table import SIGMAS

Values = dict[str, Any]  # with the keys of a config

# A1111's schedule types, by our suffixes.
SCHEDULES = {name: name.title() for name in SIGMAS} | {"trailing": "SGM Uniform", "leading": "DDIM"}
# Our suffixes, by the schedules of every tool (see `plain_word`); None if diffusers has no such schedule.
SCHEDULE_WORDS: dict[str, str | None] = {
    **dict.fromkeys(("", "uniform", "normal", "discrete", "default"), ""),
    **{name: name for name in SIGMAS}, "automatic": "automatic",
    "sgmuniform": "trailing", "simple": "trailing", "ddim": "leading", "ddimuniform": "leading",
    **dict.fromkeys((
        "alignyoursteps", "alignyoursteps11", "alignyoursteps32", "ays", "ays32", "beta57", "bongtangent",
        "gits", "kloptimal", "lcm", "linearquadratic", "native", "polyexponential", "smoothstep", "turbo",
    )),
}  # fmt: skip
# Samplers that a tool runs with other options: UniPC in A1111 and ComfyUI, the 3M without noise in InvokeAI.
SAMPLERS: dict[str, tuple[str, Values]] = {
    "uni_pc": ("unipc", {"solver_type": "bh1", "solver_order": 3}),
    "uni_pc_bh2": ("unipc", {"solver_order": 3}),
    "dpmpp_3m": ("dpm++2m", {"solver_order": 3}),
    "dpmpp_3m_k": ("dpm++2m-karras", {"solver_order": 3}),
}


def plain_word(text: str) -> str:
    """Return a name in lower case without spaces, signs and letters that are not ASCII."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def split_schedule(sampler: str) -> tuple[str, str]:
    """Return a joined name, such as `Euler a_karras` or `DPM++ 2M (Beta)`, as sampler and schedule or ""."""
    for border in re.finditer(r"\s+\+\s+|[\s_/:,;()|-]+", sampler):
        schedule = plain_word(sampler[border.end() :])
        if border.start() and schedule and schedule in SCHEDULE_WORDS:
            return sampler[: border.start()], sampler[border.end() :].rstrip(" )")
    return sampler, ""
