"""Encode prompts as embeddings, each text once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import load_file

from sdapp.errors import ConfigError, UnavailableError
from sdapp.jobs import Job
from sdapp.markup import Emphasis, PromptSyntax, Token, chunk
from sdapp.models.embedding_files import examine_embedding, vector_counts
from sdapp.settings.additions import Embedding

KEPT_EMBEDS = 128  # 30 MB with Stable Diffusion 1.5 in float32


class PromptText(NamedTuple):
    """A text and how it is read."""

    text: str
    clip_skip: int = 0
    syntax: PromptSyntax = "plain"
    emphasis: Emphasis = "original"
    embeddings: tuple[Embedding, ...] = ()

    @classmethod
    def of(cls, job: Job, text: str) -> Self:
        return cls(text, job.clip_skip, job.prompt_syntax, job.emphasis, tuple(job.embeddings))


class _Encoded(NamedTuple):
    """What the text encoders give for one text."""

    embeds: torch.Tensor  # [77 × chunks, D]
    pooled: torch.Tensor | None = None  # [P]


@dataclass(frozen=True)
class Conditioning:
    """What the text encoders of a model give for a batch; the field names are the pipelines' argument names.

    Embeddings have the shape [B, 77 × chunks, D], pooled ones [B, P]; pooled ones are None for models without
    them, negative ones where guidance does not use them.
    """

    prompt_embeds: torch.Tensor
    negative_prompt_embeds: torch.Tensor | None = None
    pooled_prompt_embeds: torch.Tensor | None = None
    negative_pooled_prompt_embeds: torch.Tensor | None = None

    def arguments(self) -> dict[str, torch.Tensor]:
        """The arguments for the call of a pipeline."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def during_call(self, is_guided: bool, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a pipeline's loop has of it, under its names there: with guidance, negative rows come first.

        `like` has the dtype and device.
        """
        pairs = {
            "prompt_embeds": (self.negative_prompt_embeds, self.prompt_embeds),
            "add_text_embeds": (self.negative_pooled_prompt_embeds, self.pooled_prompt_embeds),
        }
        rows = {name: [each for each in pair if each is not None] for name, pair in pairs.items()}
        return {
            name: torch.cat(found if is_guided else found[-1:]).to(like)
            for name, found in rows.items()
            if found
        }


class TextEncoder:
    """Turns prompts into embeddings, with the text encoder of a loaded pipeline, or the two of SDXL.

    The weights may be offloaded.
    """

    def __init__(self, pipe: Any) -> None:
        self.tokenizer, self._pipe = pipe.tokenizer, pipe
        self.parts = [
            (getattr(pipe, tokenizer), getattr(pipe, encoder))
            for encoder, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
            if getattr(pipe, encoder, None) is not None
        ]
        self._known: dict[PromptText, _Encoded] = {}

    def encode(
        self,
        prompts: Sequence[PromptText],
        negative_prompts: Sequence[PromptText] | None,
        chunks: int = 1,
    ) -> Conditioning:
        """Encode a batch with one clip_skip; `negative_prompts` is None without guidance.

        Texts are filled up to `chunks`. An empty negative prompt becomes zeros if the model was trained so
        (`force_zeros_for_empty_prompt`).
        Raises ConfigError for a clip_skip, UnavailableError for a file of an embedding that has changed.
        """
        n = len(prompts)
        embeds, pooled = self.embed([*prompts, *(negative_prompts or ())], chunks)
        given = torch.tensor([bool(each.text) for each in negative_prompts or ()], device=embeds.device)
        if self._pipe.config.get("force_zeros_for_empty_prompt"):
            embeds[n:] *= given[:, None, None]
            pooled[n:] *= given[:, None]  # type: ignore[index]
        return Conditioning(
            embeds[:n],
            None if negative_prompts is None else embeds[n:],
            None if pooled is None else pooled[:n],
            None if pooled is None or negative_prompts is None else pooled[n:],
        )

    def embed(
        self, prompts: Sequence[PromptText], chunks: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [B, 77 × chunks, D] and pooled ones [B, P]; texts encoded before are not encoded again.

        Shorter texts are filled up with encoded empty chunks to the length of the longest, or to `chunks`.
        """
        if fresh := [each for each in dict.fromkeys(prompts) if each not in self._known]:
            self._known |= zip(fresh, self._encode(fresh), strict=True)
        for each in dict.fromkeys(prompts):  # what is used moves to the end and stays longest
            self._known[each] = self._known.pop(each)
        found = [self._known[each] for each in prompts]
        for old in list(self._known)[:-KEPT_EMBEDS]:
            del self._known[old]
        embeds, lengths = [each.embeds for each in found], [len(each.embeds) for each in found]
        longest = max(*lengths, chunks * self.tokenizer.model_max_length)
        if min(lengths) < longest:
            [empty] = self.embed([prompts[0]._replace(text="", embeddings=())])[0]
            missing = [(longest - length) // len(empty) for length in lengths]
            embeds = [torch.cat([each, *[empty] * n]) for each, n in zip(embeds, missing, strict=True)]
        pooled = [each.pooled for each in found if each.pooled is not None]
        return torch.stack(embeds), torch.stack(pooled) if pooled else None

    def forget(self) -> None:
        """Encode all texts anew: the weights have changed."""
        self._known.clear()

    def _encode(self, prompts: Sequence[PromptText]) -> list[_Encoded]:
        """Encode each chunk by itself; the pooled output is that of the first one."""
        embeds = []
        for i, (tokenizer, encoder) in enumerate(self.parts):
            chunks = [
                chunk(each.text, tokenizer, each.syntax, vector_counts(each.embeddings)) for each in prompts
            ]
            rows = [(row, each) for each, parts in zip(prompts, chunks, strict=True) for row in parts]
            ids = torch.tensor([_framed(row, tokenizer) for row, _ in rows])
            with _with_vectors(encoder, i, rows):
                output = encoder(ids.to(self._pipe._execution_device), output_hidden_states=True)
            hidden = self._hidden(output, encoder, prompts[0].clip_skip)
            weighted = [
                emphasize(each, row, prompt.emphasis)
                for each, (row, prompt) in zip(hidden, rows, strict=True)
            ]
            embeds.append(torch.stack(weighted))
        counts = [len(each) for each in chunks]
        whole = [each.flatten(0, 1) for each in torch.split(torch.cat(embeds, dim=-1), counts)]
        if len(self.parts) == 1:
            return [_Encoded(each) for each in whole]
        pooled = [each[0] for each in torch.split(output.text_embeds, counts)]
        return [_Encoded(*each) for each in zip(whole, pooled, strict=True)]

    def _hidden(self, output: Any, encoder: Any, clip_skip: int) -> torch.Tensor:
        """What the UNet reads, without the pipelines' own clip_skip, which crashes with transformers 5.6.

        SDXL reads the last layer but one of both encoders without the final norm, so a clip_skip of 0 or 1 is
        the same there.
        """
        if clip_skip >= (layers := len(output.hidden_states) - 1):
            raise ConfigError(f"clip_skip: this text encoder has {layers} layers; leave at least one")
        if len(self.parts) == 2:
            return output.hidden_states[-(max(clip_skip, 1) + 1)]  # type: ignore[no-any-return]
        if clip_skip == 0:
            return output.last_hidden_state  # type: ignore[no-any-return]
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        return norm(output.hidden_states[-(clip_skip + 1)])  # type: ignore[no-any-return]


def _framed(tokens: list[Token], tokenizer: Any) -> list[int]:
    """The ids of a chunk between the marks of start and end, padded."""
    ids = [tokenizer.bos_token_id, *(max(token.id, 0) for token in tokens), tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))


@contextmanager
def _with_vectors(encoder: Any, part: int, rows: Sequence[tuple[list[Token], PromptText]]) -> Iterator[None]:
    """Let an encoder see the vectors of embeddings where the tokens of a chunk are such vectors.

    `part` is the number of the encoder, `rows` are its chunks, each with its prompt. It sees them instead of
    what it has for its own tokens, so neither the tokenizer nor the table of tokens grows.
    """
    places = [
        (row, column, load_vectors(prompt.embeddings, token.embedding, part)[token.vector])
        for row, (tokens, prompt) in enumerate(rows)
        for column, token in enumerate(tokens, 1)
        if token.embedding
    ]

    def write(_table: Any, _ids: Any, output: torch.Tensor) -> torch.Tensor:
        for row, column, vector in places:
            output[row, column] = vector.to(output)
        return output

    table = getattr(encoder, "text_model", encoder).embeddings.token_embedding
    with table.register_forward_hook(write):
        yield


def load_vectors(embeddings: Sequence[Embedding], name: str, part: int) -> torch.Tensor:
    """The vectors [n, D] of an embedding for one text encoder. Raises UnavailableError for a changed file."""
    path, sha256 = next((Path(each.file), each.sha256) for each in embeddings if each.name == name)
    contents = examine_embedding(path, name)
    if contents.sha256 != sha256:
        raise UnavailableError(f"embeddings: {path} has changed since this run was planned")
    return load_file(path)[contents.tensors[part]].reshape(contents.vectors, -1)


def emphasize(hidden: torch.Tensor, tokens: Sequence[Token], emphasis: Emphasis = "original") -> torch.Tensor:
    """Weigh the embeddings [77, D] of a chunk as A1111 does.

    With its emphasis "Original" their mean stays what it was; with "No norm" it does not. `tokens` are those
    between the marks of start and end; all else has a weight of 1.
    """
    if all(token.weight == 1 for token in tokens):
        return hidden
    weights = torch.ones(len(hidden), 1, device=hidden.device)
    weights[1 : len(tokens) + 1, 0] = torch.tensor([token.weight for token in tokens])
    weighted = hidden.float() * weights
    if emphasis == "no-norm":
        return weighted.to(hidden.dtype)
    return (weighted * (hidden.float().mean() / weighted.mean())).to(hidden.dtype)
