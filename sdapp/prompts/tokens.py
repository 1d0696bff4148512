"""What of a prompt the text encoder does not read, without loading the encoder."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from sdapp.jobs import Job
from sdapp.models.locate import Model

MOST_SHOWN = 300  # characters


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer  # brings no torch

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def cut(job: Job, model: Model) -> tuple[str, ...]:
    """What of a job's prompts lies beyond the 77 tokens, in words; nothing of a single file, which has no tokenizer."""
    folder = model.path / "tokenizer"
    return cut_by(_tokenizer(folder), job) if _may_be_long(job) and folder.is_dir() else ()


def cut_by(tokenizer: Any, job: Job) -> tuple[str, ...]:
    """The same by a loaded tokenizer."""
    notes = []
    for name, text in (("prompt", job.prompt), ("negative_prompt", job.negative_prompt)):
        limit = tokenizer.model_max_length
        ids = tokenizer(text, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            lost = tokenizer.decode(ids[limit - 1 : -1])
            shown = lost if len(lost) <= MOST_SHOWN else f"{lost[:MOST_SHOWN]} …"
            notes.append(f"{name}: the text encoder reads {limit} tokens; not read: {shown!r}")
    return tuple(notes)


def _may_be_long(job: Job) -> bool:
    """Every token has a byte at least, and two of the 77 stand for beginning and end."""
    return max(len(job.prompt.encode()), len(job.negative_prompt.encode())) > 75
