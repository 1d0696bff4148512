"""Watch a run: what each call of the UNet reads and predicts, and where its attention is."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sdapp.diffusion.preview import clean_latents, latents_read, predicted_latents

Cells = tuple[int, int]  # height and width in latents


@dataclass(frozen=True)
class Call:
    """A call of the UNet, of the first image of a batch: float32 on the CPU, each [C, h, w]."""

    timestep: float
    read: torch.Tensor  # √ᾱ·clean + √(1 − ᾱ)·noise, whatever the scheduler
    towards: torch.Tensor  # its output with the prompt
    away: torch.Tensor | None  # its output with the negative prompt; None without guidance
    clean: torch.Tensor  # the clean latents that both together mean, which the scheduler steps towards
    clean_towards: torch.Tensor
    clean_away: torch.Tensor | None


class Watcher:
    """Keeps what the UNet does while pipelines run, without changing it. It costs a copy of latents a call.

    With attention, it also adds up where each token of the prompt at the first call is looked at, which
    computes these maps once more.
    """

    def __init__(self, with_attention: bool = False) -> None:
        self._with_attention = with_attention
        self.begin()

    def begin(self) -> None:
        """Forget what was seen: the images are painted again, with less memory."""
        self.calls: list[Call] = []
        self.scheduler: Any = None
        self.embeds: torch.Tensor | None = None  # what the UNet reads of the prompt, [T, D]
        self._maps: dict[Cells, torch.Tensor] = {}  # sums over heads, layers and calls, [T, h, w]
        self._layers = 0  # that were added up
        self._cells: Cells = (0, 0)
        self._is_first_prompt = True  # else the prompt has changed, and its tokens are others

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        """Watch a pipeline. Enter it last, so that the outputs are as the pipeline gets them."""
        self.scheduler = pipe.scheduler
        raw: list[torch.Tensor] = []

        def begin(_unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._cells = args[0].shape[-2], args[0].shape[-1]
            embeds = kwargs["encoder_hidden_states"][-1].float().cpu()
            self.embeds = embeds if self.embeds is None else self.embeds
            self._is_first_prompt = torch.equal(embeds, self.embeds)

        def keep_raw(_unet: Any, _args: Any, output: tuple[torch.Tensor]) -> None:
            raw[:] = [output[0]]  # before guidance is rescaled, or left out

        def keep(_unet: Any, args: tuple[Any, ...], output: tuple[torch.Tensor]) -> None:
            self.calls.append(_call(pipe, args[0], float(args[1]), raw[0], output[0]))

        with ExitStack() as stack:
            for hook in (
                pipe.unet.register_forward_pre_hook(begin, with_kwargs=True),
                pipe.unet.register_forward_hook(keep_raw, prepend=True),
                pipe.unet.register_forward_hook(keep),
                *(self._hooks_on_attention(pipe.unet) if self._with_attention else ()),
            ):
                stack.enter_context(hook)
            yield

    def attention(self, cells: Cells) -> torch.Tensor | None:
        """The mean attention [T, h, w] to each token, enlarged to so many cells; None if there was none.

        Over the tokens it adds up to 1 in each cell. The mean is over heads, layers and calls (DAAM, Tang et
        al. 2022, arXiv:2210.04885).
        """
        if not self._layers:
            return None
        large = [
            torch.nn.functional.interpolate(each[None], cells, mode="bilinear")[0]
            for each in self._maps.values()
        ]
        return torch.stack(large).sum(0) / self._layers

    def _hooks_on_attention(self, unet: Any) -> Iterator[Any]:
        for name, module in unet.named_modules():
            if name.endswith("attn2"):  # the attention to the prompt
                yield module.register_forward_pre_hook(self._add_map, with_kwargs=True)

    def _add_map(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, context = args[0][-1:], kwargs.get("encoder_hidden_states")
        cells = _cells_of(hidden.shape[1], self._cells)
        if context is None or cells is None or not self._is_first_prompt:
            return
        query = layer.head_to_batch_dim(layer.to_q(hidden))
        key = layer.head_to_batch_dim(layer.to_k(context[-1:]))
        shares = layer.get_attention_scores(query, key).float().mean(0)  # [h × w, T]
        found = shares.T.reshape(-1, *cells).cpu()
        self._maps[cells] = self._maps[cells] + found if cells in self._maps else found
        self._layers += 1


def _cells_of(number: int, whole: Cells) -> Cells | None:
    """The height and width of a layer with so many cells, which halve from layer to layer."""
    for halvings in range(8):
        cells = math.ceil(whole[0] / 2**halvings), math.ceil(whole[1] / 2**halvings)
        if cells[0] * cells[1] == number:
            return cells
    return None


def _call(pipe: Any, sample: torch.Tensor, timestep: float, raw: torch.Tensor, output: torch.Tensor) -> Call:
    """What a call did for the first image of its batch; `raw` is the output of the UNet by itself."""
    images = len(output) // 2 if pipe.do_classifier_free_guidance else len(output)
    read = latents_read(sample, images, output.shape[1])
    towards = raw[-images][None].float()
    away = raw[:1].float() if len(raw) > images else None

    def clean(said: torch.Tensor) -> torch.Tensor:
        return clean_latents(pipe.scheduler, read, timestep, said)[0].cpu()

    return Call(
        timestep,
        read[0].cpu(),
        towards[0].cpu(),
        None if away is None else away[0].cpu(),
        predicted_latents(pipe, sample, timestep, output)[0].cpu(),
        clean(towards),
        None if away is None else clean(away),
    )
