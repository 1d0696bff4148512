"""The command `sdapp tokens`."""

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Annotated, Any

import typer

from sdapp import markup
from sdapp.commands import completion
from sdapp.commands.options import OPTIONS
from sdapp.commands.terminal import print_note
from sdapp.config import read_user_config
from sdapp.models.embedding_files import find_embeddings, vector_counts
from sdapp.models.originals import clip_tokenizer
from sdapp.models.vae import locate_model
from sdapp.settings.layers import merge, override
from sdapp.validation import validate

OnePrompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="A prompt, as for `sdapp generate`.", show_default=False)
]
TokenizerOf = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Whose tokenizer; default: CLIP's, which all models but postcards use.",
        autocompletion=completion.model_names,
        show_default=False,
    ),
]
EmbeddingFiles: Any = OPTIONS["embeddings"]


def tokens(
    prompt: OnePrompt,
    model: TokenizerOf = None,
    embeddings: EmbeddingFiles = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each chunk.")] = False,
) -> None:
    """Show how a prompt is read: its chunks, and the weight of each token. A word goes on after `·`.

    If the prompt changes during a run, it shows at which calls of the UNet (with the steps of your config).

    Example:

    sdapp tokens "a (red:1.3) lighthouse, [snow] BREAK at night"
    """
    given = [] if embeddings is None else [override("embeddings", embeddings, "--embedding")]
    given += [] if model is None else [override("model", model, "--model")]
    config = validate(merge([*read_user_config(), *given]))
    found = None if model is None else locate_model(config.model, base=config.base)
    tokenizer = clip_tokenizer() if found is None else found.tokenizer
    markup.check("prompt", prompt)
    for note in markup.notes("prompt", prompt, "a1111"):
        print_note(note)
    counts = vector_counts(find_embeddings(config, [prompt], found))
    texts = markup.texts_by_call(prompt, config.scheduler.resolve().counted_calls(config.steps))
    for text, calls in groupby(range(1, len(texts) + 1), lambda call: texts[call - 1]):
        first, *others = calls
        when = f"calls {first} to {others[-1]}, " if others else f"call {first}, " if len(texts) > 1 else ""
        for number, chunk in enumerate(markup.chunk(text, tokenizer, embeddings=counts), 1):
            if as_json:
                facts = {"chunk": number, "tokens": [_facts(token, tokenizer) for token in chunk]}
                facts |= {"from_call": first} if when else {}
                typer.echo(json.dumps(facts, ensure_ascii=False))
            else:
                limit = tokenizer.model_max_length - 2
                words = " ".join(_shown(token, tokenizer, counts) for token in chunk if not token.vector)
                typer.echo(f"{when}chunk {number}, {len(chunk)} of {limit} tokens: {words}".rstrip())


def _facts(token: markup.Token, tokenizer: Any) -> dict[str, Any]:
    if token.embedding:
        return {"embedding": token.embedding, "vector": token.vector, "weight": token.weight}
    return {"id": token.id, "text": _word(token, tokenizer), "weight": token.weight}


def _word(token: markup.Token, tokenizer: Any) -> str:
    is_end = tokenizer.convert_ids_to_tokens(token.id).endswith("</w>")
    return str(tokenizer.decode([token.id]).strip() + ("" if is_end else "·"))


def _shown(token: markup.Token, tokenizer: Any, counts: Mapping[str, int]) -> str:
    """A token or a whole embedding, with its weight."""
    if token.embedding:
        count = counts[token.embedding]
        text = f"<{token.embedding}: {count} vector{'s' if count > 1 else ''}>"
    else:
        text = _word(token, tokenizer)
    color = typer.colors.GREEN if token.weight > 1 else typer.colors.RED
    return text if token.weight == 1 else typer.style(f"{text}×{token.weight:.4g}", fg=color)
