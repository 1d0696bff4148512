"""File names from templates: safe on every system, and inside their folder."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from sdapp.images import IMAGE_SUFFIXES
from sdapp.jobs import Job
from sdapp.settings.output import LABELS

MAX_NAME_BYTES = 200
NUMBERS_OF_JOB = ("seed", "steps", "width", "height", "final_width", "final_height")
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


def file_stem(
    template: str, job: Job, index: int, number: str = "", labels: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Fill the placeholders of a file-name template: one safe name without suffix, of at most 200 bytes.

    `number` and `labels` are those of a Result. `{line}` is the number, without one the index. `{id}` is the
    line's label, without one the job's id; `{tag}` and `{filename}` are `none` for a line without them.
    """
    now = datetime.now().astimezone()
    values = {
        "prompt": _slug(job.prompt, 80) or "empty",
        "index": f"{index:04d}",
        "line": number or f"{index:04d}",
        "scheduler": job.scheduler.name,
        "guidance_scale": f"{job.guidance_scale:g}",
        "model": _slug(Path(job.model).name.removesuffix(".safetensors"), 60),
        "task": job.task.kind,
        "id": job.id,
        "date": f"{now:%Y-%m-%d}",
        "time": f"{now:%H%M%S}",
        "image": _slug(Path(job.task.image).stem, 80) if job.task.kind != "txt2img" else "",
    } | {key: str(getattr(job, key)) for key in NUMBERS_OF_JOB}
    for label in LABELS:
        text = labels.get(label, "")
        text = text.removesuffix(Path(text).suffix) if Path(text).suffix.lower() in IMAGE_SUFFIXES else text
        values[label] = _slug(text, 80) or values.get(label, "none")
    stem = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], unicodedata.normalize("NFC", template))
    stem = _truncate(stem, MAX_NAME_BYTES).rstrip(" .").lstrip(" .-~") or "image"
    base, dot, rest = stem.partition(".")
    return f"{base.rstrip()}_{dot}{rest}" if base.strip().lower() in RESERVED else stem


def _slug(text: str, size: int) -> str:
    """Keep letters, marks and digits of any script, and a dash for the rest; at most `size` bytes."""
    kept = "".join(
        c if unicodedata.category(c)[0] in "LMN" else " " for c in unicodedata.normalize("NFC", text)
    )
    return _truncate("-".join(kept.split()), size).strip("-")


def _truncate(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")
