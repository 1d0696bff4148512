"""Encode prompts as embeddings, each text once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sdapp.errors import ConfigError
from sdapp.markup import PromptSyntax, Token, chunk

KEPT_EMBEDS = 128  # 30 MB with Stable Diffusion 1.5 in float32


class _Embedding(NamedTuple):
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
        self._known: dict[tuple[str, int, PromptSyntax], _Embedding] = {}

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        clip_skip: int,
        syntax: PromptSyntax = "plain",
    ) -> Conditioning:
        """Encode a batch; `negative_prompts` is None without guidance. Raises ConfigError for a clip_skip.

        An empty negative prompt becomes zeros if the model was trained so (`force_zeros_for_empty_prompt`).
        """
        n = len(prompts)
        embeds, pooled = self.embed([*prompts, *(negative_prompts or ())], clip_skip, syntax)
        given = torch.tensor([bool(text) for text in negative_prompts or ()], device=embeds.device)
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
        self, texts: Sequence[str], clip_skip: int, syntax: PromptSyntax = "plain"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [B, 77 × chunks, D] and pooled ones [B, P]; texts encoded before are not encoded again.

        Shorter texts are filled up with encoded empty chunks to the length of the longest.
        """
        keys = [(text, clip_skip, syntax) for text in texts]
        if fresh := [key for key in dict.fromkeys(keys) if key not in self._known]:
            encoded = self._encode([text for text, *_ in fresh], clip_skip, syntax)
            self._known |= zip(fresh, encoded, strict=True)
        for key in dict.fromkeys(keys):  # what is used moves to the end and stays longest
            self._known[key] = self._known.pop(key)
        found = [self._known[key] for key in keys]
        for old in list(self._known)[:-KEPT_EMBEDS]:
            del self._known[old]
        embeds, lengths = [each.embeds for each in found], [len(each.embeds) for each in found]
        if min(lengths) < max(lengths):
            [empty] = self.embed([""], clip_skip, syntax)[0]
            missing = [(max(lengths) - length) // len(empty) for length in lengths]
            embeds = [torch.cat([each, *[empty] * n]) for each, n in zip(embeds, missing, strict=True)]
        pooled = [each.pooled for each in found if each.pooled is not None]
        return torch.stack(embeds), torch.stack(pooled) if pooled else None

    def forget(self) -> None:
        """Encode all texts anew: the weights have changed."""
        self._known.clear()

    def _encode(self, texts: list[str], clip_skip: int, syntax: PromptSyntax) -> list[_Embedding]:
        """Encode each chunk by itself; the pooled output is that of the first one."""
        embeds = []
        for tokenizer, encoder in self.parts:
            chunks = [chunk(text, tokenizer, syntax) for text in texts]
            rows = [row for each in chunks for row in each]
            ids = torch.tensor([_framed(row, tokenizer) for row in rows])
            output = encoder(ids.to(self._pipe._execution_device), output_hidden_states=True)
            hidden = self._hidden(output, encoder, clip_skip)
            weighted = [emphasize(*each) for each in zip(hidden, rows, strict=True)]
            embeds.append(torch.stack(weighted))
        counts = [len(each) for each in chunks]
        whole = [each.flatten(0, 1) for each in torch.split(torch.cat(embeds, dim=-1), counts)]
        if len(self.parts) == 1:
            return [_Embedding(each) for each in whole]
        pooled = [each[0] for each in torch.split(output.text_embeds, counts)]
        return [_Embedding(*each) for each in zip(whole, pooled, strict=True)]

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
    ids = [tokenizer.bos_token_id, *(token.id for token in tokens), tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))


def emphasize(hidden: torch.Tensor, tokens: Sequence[Token]) -> torch.Tensor:
    """Weigh the embeddings [77, D] of a chunk as A1111's emphasis "Original": their mean stays what it was.

    `tokens` are those between the marks of start and end; all else has a weight of 1.
    """
    if all(token.weight == 1 for token in tokens):
        return hidden
    weights = torch.ones(len(hidden), 1, device=hidden.device)
    weights[1 : len(tokens) + 1, 0] = torch.tensor([token.weight for token in tokens])
    weighted = hidden.float() * weights
    return (weighted * (hidden.float().mean() / weighted.mean())).to(hidden.dtype)
