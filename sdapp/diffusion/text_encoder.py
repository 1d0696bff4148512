"""Prompts as embeddings, each text encoded once."""

from typing import Any

import torch

from sdapp.errors import ConfigError

KEPT_EMBEDS = 128  # 30 MB with Stable Diffusion 1.5 in float32


class TextEncoder:
    """The text encoder of a loaded pipeline, wherever its weights lie."""

    def __init__(self, pipe: Any) -> None:
        self.tokenizer, self.encoder, self._pipe = pipe.tokenizer, pipe.text_encoder, pipe
        self._embeds: dict[tuple[str, int], torch.Tensor] = {}

    def embed(self, texts: list[str], clip_skip: int) -> torch.Tensor:
        """[B, 77, D]; a text that was encoded lately, such as the empty one, is not encoded again."""
        fresh = [text for text in dict.fromkeys(texts) if (text, clip_skip) not in self._embeds]
        if fresh:
            self._embeds |= {
                (text, clip_skip): row
                for text, row in zip(fresh, self._encode(fresh, clip_skip), strict=True)
            }
        for text in dict.fromkeys(texts):  # what is used stays longest, such as a negative prompt
            self._embeds[text, clip_skip] = self._embeds.pop((text, clip_skip))
        found = torch.stack([self._embeds[text, clip_skip] for text in texts])
        for old in list(self._embeds)[:-KEPT_EMBEDS]:
            del self._embeds[old]
        return found

    def _encode(self, texts: list[str], clip_skip: int) -> torch.Tensor:
        """Encode by hand: the pipelines' own clip_skip crashes with transformers 5.6 and later."""
        ids = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        output = self.encoder(ids.to(self._pipe._execution_device), output_hidden_states=True)
        if clip_skip == 0:
            return output.last_hidden_state  # type: ignore[no-any-return]
        if clip_skip >= len(output.hidden_states) - 1:
            raise ConfigError(
                f"clip_skip: this text encoder has {len(output.hidden_states) - 1} layers; leave at least one"
            )
        norm = getattr(self.encoder, "text_model", self.encoder).final_layer_norm
        return norm(output.hidden_states[-(clip_skip + 1)])  # type: ignore[no-any-return]
