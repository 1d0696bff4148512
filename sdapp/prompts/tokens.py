"""Say how long prompts are in tokens, and what of them is not read, without loading the text encoder."""

from collections.abc import Iterator
from typing import Any

from sdapp import markup
from sdapp.jobs import Job
from sdapp.models.embedding_files import vector_counts
from sdapp.models.model import Model

MAX_REST = 300  # characters of what is not read, in a note


def notes_on_length(job: Job, model: Model) -> Iterator[str]:
    """Notes on prompts of more than one chunk of tokens, or on what of plain ones is not read."""
    prompts = {"prompt": job.prompt, "negative_prompt": job.negative_prompt}
    if all(map(markup.is_short, prompts.values())) and not job.embeddings:
        return
    yield from cut_by(model.tokenizer, job)
    counts = vector_counts(job.embeddings)
    for name, text in prompts.items() if job.prompt_syntax == "a1111" else ():
        every = dict.fromkeys(job.texts_by_call(text))
        chunks = max((markup.chunk(each, model.tokenizer, embeddings=counts) for each in every), key=len)
        if len(chunks) > 1:
            sizes = " + ".join(str(len(each)) for each in chunks)
            yield f"{name}: {len(chunks)} chunks of up to 75 tokens: {sizes}"


def cut_by(tokenizer: Any, job: Job) -> Iterator[str]:
    """Notes on the text of plain prompts beyond the 77 tokens of the text encoder."""
    if job.prompt_syntax != "plain":
        return
    for name, text in (("prompt", job.prompt), ("negative_prompt", job.negative_prompt)):
        limit = tokenizer.model_max_length
        ids = tokenizer(text, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            rest = tokenizer.decode(ids[limit - 1 : -1])
            shown = rest if len(rest) <= MAX_REST else f"{rest[:MAX_REST]} …"
            yield f"{name}: the text encoder reads {limit} tokens; not read: {shown!r}"
