"""Find the part of a prompt that the text encoder does not read, without loading the encoder."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from sdapp.jobs import Job
from sdapp.models.locate import Model
from sdapp.models.originals import clip_tokenizer

MAX_REST = 300  # characters of it in a note


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer  # does not import torch

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def cut(job: Job, model: Model) -> tuple[str, ...]:
    """Notes on the text of a job's prompts beyond the 77 tokens of the text encoder."""
    if not _may_be_long(job):
        return ()
    return cut_by(clip_tokenizer() if model.is_file else _tokenizer(model.path / "tokenizer"), job)


def cut_by(tokenizer: Any, job: Job) -> tuple[str, ...]:
    """The same notes, with a tokenizer that is loaded already."""
    notes = []
    for name, text in (("prompt", job.prompt), ("negative_prompt", job.negative_prompt)):
        limit = tokenizer.model_max_length
        ids = tokenizer(text, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            rest = tokenizer.decode(ids[limit - 1 : -1])
            shown = rest if len(rest) <= MAX_REST else f"{rest[:MAX_REST]} …"
            notes.append(f"{name}: the text encoder reads {limit} tokens; not read: {shown!r}")
    return tuple(notes)


def _may_be_long(job: Job) -> bool:
    """Whether there may be more than 77 tokens: each has at least one byte, and two mark the ends."""
    return max(len(job.prompt.encode()), len(job.negative_prompt.encode())) > 75
