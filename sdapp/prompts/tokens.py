"""Find the part of a prompt that the text encoder does not read, without loading the encoder."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from sdapp.jobs import Job
from sdapp.models.locate import Model

MAX_SHOWN = 300  # characters


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer  # brings no torch

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def cut(job: Job, model: Model) -> tuple[str, ...]:
    """Notes on what a job's prompts have beyond 77 tokens; none for a single file: it has no tokenizer."""
    folder = model.path / "tokenizer"
    return cut_by(_tokenizer(folder), job) if _may_be_long(job) and folder.is_dir() else ()


def cut_by(tokenizer: Any, job: Job) -> tuple[str, ...]:
    """The same with a loaded tokenizer."""
    notes = []
    for name, text in (("prompt", job.prompt), ("negative_prompt", job.negative_prompt)):
        limit = tokenizer.model_max_length
        ids = tokenizer(text, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            unread = tokenizer.decode(ids[limit - 1 : -1])
            shown = unread if len(unread) <= MAX_SHOWN else f"{unread[:MAX_SHOWN]} …"
            notes.append(f"{name}: the text encoder reads {limit} tokens; not read: {shown!r}")
    return tuple(notes)


def _may_be_long(job: Job) -> bool:
    """Every token has at least one byte, and two of the 77 are the begin and end tokens."""
    return max(len(job.prompt.encode()), len(job.negative_prompt.encode())) > 75
