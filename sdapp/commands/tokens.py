"""The command `sdapp tokens`."""

import json
from typing import Annotated

import typer

from sdapp import markup
from sdapp.commands.terminal import print_note
from sdapp.models.originals import clip_tokenizer
from sdapp.models.vae import locate_model

PromptText = Annotated[str, typer.Argument(help="A prompt, as for `sdapp generate`.", show_default=False)]
TokenizerOf = Annotated[
    str | None,
    typer.Option("--model", help="Whose tokenizer; default: CLIP's, which all models but postcards use."),
]


def tokens(
    prompt: PromptText,
    model: TokenizerOf = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each chunk.")] = False,
) -> None:
    """Show how a prompt is read: its chunks, and the weight of each token. A word goes on after `·`.

    Example:

    sdapp tokens "a (red:1.3) lighthouse, [snow] BREAK at night"
    """
    tokenizer = clip_tokenizer() if model is None else locate_model(model, None, None).tokenizer
    markup.check("prompt", prompt)
    for note in markup.notes("prompt", prompt, "a1111"):
        print_note(note)
    for number, chunk in enumerate(markup.chunk(prompt, tokenizer), 1):
        names = tokenizer.convert_ids_to_tokens([token.id for token in chunk])
        ends = ["" if name.endswith("</w>") else "·" for name in names]
        texts = [tokenizer.decode([token.id]).strip() + end for token, end in zip(chunk, ends, strict=True)]
        if as_json:
            rows = zip(chunk, texts, strict=True)
            facts = [{"id": token.id, "text": text, "weight": token.weight} for token, text in rows]
            typer.echo(json.dumps({"chunk": number, "tokens": facts}, ensure_ascii=False))
        else:
            limit = tokenizer.model_max_length - 2
            words = " ".join(map(_with_weight, texts, (token.weight for token in chunk)))
            typer.echo(f"chunk {number}, {len(chunk)} of {limit} tokens: {words}".rstrip())


def _with_weight(text: str, weight: float) -> str:
    color = typer.colors.GREEN if weight > 1 else typer.colors.RED
    return text if weight == 1 else typer.style(f"{text}×{weight:.4g}", fg=color)
