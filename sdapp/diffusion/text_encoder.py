"""Encode prompts as embeddings, each text once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sdapp.errors import ConfigError

KEPT_EMBEDS = 128  # 30 MB with Stable Diffusion 1.5 in float32


class _Embedding(NamedTuple):
    """What the text encoders give for one text."""

    embeds: torch.Tensor  # [77, D]
    pooled: torch.Tensor | None = None  # [P]


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
    """The text encoders of a loaded pipeline: one, or the two of SDXL; their weights may be offloaded."""

    def __init__(self, pipe: Any) -> None:
        self.tokenizer, self._pipe = pipe.tokenizer, pipe
        self.parts = [
            (getattr(pipe, tokenizer), getattr(pipe, encoder))
            for encoder, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
            if getattr(pipe, encoder, None) is not None
        ]
        self._known: dict[tuple[str, int], _Embedding] = {}

    def encode(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, clip_skip: int
    ) -> Conditioning:
        """Encode a batch; `negative_prompts` is None without guidance. Raises ConfigError for a clip_skip.

        An empty negative prompt becomes zeros if the model was trained so (`force_zeros_for_empty_prompt`).
        """
        n = len(prompts)
        embeds, pooled = self.embed([*prompts, *(negative_prompts or ())], clip_skip)
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

    def embed(self, texts: Sequence[str], clip_skip: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [B, 77, D] and pooled ones [B, P]; texts encoded before are not encoded again."""
        fresh = [text for text in dict.fromkeys(texts) if (text, clip_skip) not in self._known]
        if fresh:
            keys = [(text, clip_skip) for text in fresh]
            self._known |= zip(keys, self._encode(fresh, clip_skip), strict=True)
        for text in dict.fromkeys(texts):  # what is used moves to the end and stays longest
            self._known[text, clip_skip] = self._known.pop((text, clip_skip))
        found = [self._known[text, clip_skip] for text in texts]
        for old in list(self._known)[:-KEPT_EMBEDS]:
            del self._known[old]
        pooled = [each.pooled for each in found if each.pooled is not None]
        return torch.stack([each.embeds for each in found]), torch.stack(pooled) if pooled else None

    def forget(self) -> None:
        """Encode all texts anew: the weights have changed."""
        self._known.clear()

    def _encode(self, texts: list[str], clip_skip: int) -> list[_Embedding]:
        """Encode without the pipelines' own clip_skip, which crashes with transformers 5.6 and later.

        SDXL reads the last layer but one of both encoders without the final norm, and the second one's pooled
        output. Skipping one layer is what it does anyway, so a clip_skip of 0 or 1 is the same there.
        """
        outputs = []
        whole = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        for tokenizer, encoder in self.parts:
            ids = tokenizer(texts, max_length=tokenizer.model_max_length, **whole).input_ids
            outputs.append(encoder(ids.to(self._pipe._execution_device), output_hidden_states=True))
            if clip_skip >= (layers := len(outputs[-1].hidden_states) - 1):
                raise ConfigError(f"clip_skip: this text encoder has {layers} layers; leave at least one")
        if len(outputs) == 2:
            skipped = max(clip_skip, 1)
            embeds = torch.cat([output.hidden_states[-(skipped + 1)] for output in outputs], dim=-1)
            return [_Embedding(*each) for each in zip(embeds, outputs[1].text_embeds, strict=True)]
        [output], [(_, encoder)] = outputs, self.parts
        if clip_skip == 0:
            return [_Embedding(each) for each in output.last_hidden_state]
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        return [_Embedding(each) for each in norm(output.hidden_states[-(clip_skip + 1)])]
