"""Encode prompts as embeddings, each text once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdapp.errors import ConfigError

KEPT_EMBEDS = 128  # 30 MB with Stable Diffusion 1.5 in float32


@dataclass(frozen=True)
class Conditioning:
    """What the text encoders of a model give for a batch; the field names are the pipelines' argument names.

    Embeddings have the shape [B, 77, D], pooled ones [B, P]; pooled ones are None for models without them,
    negative ones where guidance does not use them.
    """

    prompt_embeds: torch.Tensor
    negative_prompt_embeds: torch.Tensor | None = None
    pooled_prompt_embeds: torch.Tensor | None = None
    negative_pooled_prompt_embeds: torch.Tensor | None = None

    def arguments(self) -> dict[str, torch.Tensor]:
        """The arguments for the call of a pipeline."""
        return {name: value for name, value in vars(self).items() if value is not None}


class TextEncoder:
    """The text encoder of a loaded pipeline; its weights may be offloaded."""

    def __init__(self, pipe: Any) -> None:
        self.tokenizer, self.encoder, self._pipe = pipe.tokenizer, pipe.text_encoder, pipe
        self._embeds: dict[tuple[str, int], torch.Tensor] = {}

    def encode(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, clip_skip: int
    ) -> Conditioning:
        """Encode a batch; `negative_prompts` is None without guidance. Raises ConfigError for a clip_skip."""
        embeds = self.embed([*prompts, *(negative_prompts or ())], clip_skip)
        negative = embeds[len(prompts) :] if negative_prompts is not None else None
        return Conditioning(embeds[: len(prompts)], negative)

    def embed(self, texts: list[str], clip_skip: int) -> torch.Tensor:
        """Embeddings [B, 77, D]; texts encoded before, such as the empty one, are not encoded again."""
        fresh = [text for text in dict.fromkeys(texts) if (text, clip_skip) not in self._embeds]
        if fresh:
            rows = self._encode(fresh, clip_skip)
            self._embeds |= {(text, clip_skip): row for text, row in zip(fresh, rows, strict=True)}
        for text in dict.fromkeys(texts):  # what is used moves to the end and stays longest
            self._embeds[text, clip_skip] = self._embeds.pop((text, clip_skip))
        found = torch.stack([self._embeds[text, clip_skip] for text in texts])
        for old in list(self._embeds)[:-KEPT_EMBEDS]:
            del self._embeds[old]
        return found

    def _encode(self, texts: list[str], clip_skip: int) -> torch.Tensor:
        """Encode without the pipelines' own clip_skip, which crashes with transformers 5.6 and later."""
        limit = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        output = self.encoder(tokens.input_ids.to(self._pipe._execution_device), output_hidden_states=True)
        if clip_skip == 0:
            return output.last_hidden_state  # type: ignore[no-any-return]
        layers = len(output.hidden_states) - 1
        if clip_skip >= layers:
            raise ConfigError(f"clip_skip: this text encoder has {layers} layers; leave at least one")
        norm = getattr(self.encoder, "text_model", self.encoder).final_layer_norm
        return norm(output.hidden_states[-(clip_skip + 1)])  # type: ignore[no-any-return]
