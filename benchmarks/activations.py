"""The memory that one call of a UNet or an autoencoder takes beyond its weights, counted without running it:
python benchmarks/activations.py [--model sdxl] [--dtype float16] [--size 1024] [--rows 2]

Counts all tensors that live at the same time on the meta device, which has shapes and no numbers. Attention
is counted as on a GPU, where it keeps no table of all pairs. An image with guidance has two `rows`.
"""

import argparse
import weakref
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import SHAPES, build
from sdapp.diffusion.devices import DTYPES


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that live at the same time; `peak` is their most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            id(each.untyped_storage())
            for each in tree_leaves((args, kwargs))
            if isinstance(each, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and id(storage := each.untyped_storage()) not in before:
                before.add(id(storage))
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_of(call: Any) -> int:
    """The most bytes that a call has at the same time, its result included."""

    def attention(query: torch.Tensor, _: Any, value: torch.Tensor, *__: Any, **___: Any) -> torch.Tensor:
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    place = "torch.nn.functional.scaled_dot_product_attention"
    with torch.no_grad(), mock.patch(place, attention), Living() as living:
        call()
    return living.peak


def measure(pipe: Any, dtype: torch.dtype, size: int, rows: int) -> tuple[int, int, int]:
    """The bytes of a call of the UNet, of decoding and of encoding one image of `size` × `size` pixels."""
    config, side = pipe.unet.config, size // 8
    pipe.unet.to(dtype)
    inputs = torch.empty(rows, config.in_channels, side, side, device="meta", dtype=dtype)
    text = torch.empty(rows, 77, config.cross_attention_dim, device="meta", dtype=dtype)
    added = {}
    if config.addition_embed_type:
        pooled = torch.empty(rows, pipe.text_encoder_2.config.projection_dim, device="meta", dtype=dtype)
        added = {"text_embeds": pooled, "time_ids": torch.empty(rows, 6, device="meta", dtype=dtype)}
    time = torch.empty((), device="meta")
    unet = peak_of(lambda: pipe.unet(inputs, time, text, added_cond_kwargs=added))
    own = torch.float32 if config.addition_embed_type and dtype == torch.float16 else dtype
    pipe.vae.to(own)
    latents = torch.empty(1, 4, side, side, device="meta", dtype=own)
    pixels = torch.empty(1, 3, size, size, device="meta", dtype=own)
    return unet, peak_of(lambda: pipe.vae.decode(latents)), peak_of(lambda: pipe.vae.encode(pixels))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="sdxl")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--rows", type=int, default=2)
    asked = parser.parse_args()
    pipe = build(SHAPES[asked.model], "meta")
    for size in asked.size:
        found = measure(pipe, DTYPES[asked.dtype], size, asked.rows)
        named = zip((f"UNet with {asked.rows} rows", "decode", "encode"), found, strict=True)
        print(
            f"{asked.model} {asked.dtype} {size}:",
            *(f"{name} {taken / 2**20:.0f} MiB" for name, taken in named),
        )
