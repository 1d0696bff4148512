"""What the trainer is fed: the drawings on the disk, and batches of them and of captions."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from captions import caption_with_position
from drawing import draw
from scenes import Scene, sample_scene

os.environ.setdefault(
    "TOKENIZERS_PARALLELISM", "false"
)  # of the library, whose threads do not survive a fork
EMPTY_CAPTIONS = 0.1  # share; classifier-free guidance needs them (Ho & Salimans 2022)
Batch = tuple[torch.Tensor, torch.Tensor]


def scene(index: int, config: dict[str, Any]) -> Scene:
    return sample_scene(Random(f"{config['seed']}/{index}"), natural=config["natural"])


def drawing(index: int, config: dict[str, Any]) -> np.ndarray:
    """The image of scene `index`: uint8, [size, size, 3]."""
    rng = Random(f"{config['seed']}/{index}")
    return np.asarray(draw(sample_scene(rng, natural=config["natural"]), config["size"], rng))


def draw_all(config: dict[str, Any], folder: Path) -> np.ndarray:
    """All training drawings, uint8 [N, size, size, 3], mapped from disk."""
    path, count = folder / "drawings.npy", config["drawings"]
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            images = np.stack(list(pool.map(partial(drawing, config=config), range(count), chunksize=500)))
        np.save(path.with_suffix(".part.npy"), images)
        path.with_suffix(".part.npy").replace(path)
    return np.load(path, mmap_mode="r")


def batches(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Endless shuffled indices, a batch at a time; every drawing once an epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield np.sort(order[start : start + batch]).tolist()


def to_tensor(images: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """uint8 [N, H, W, 3] → float [N, 3, H, W] in -1 … 1, in channels_last as the images lie in memory."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1


class Captions(Dataset[Any]):
    """Batches of indices with fresh captions of their scenes."""

    def __init__(self, config: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The indices [B], and their captions as token ids [B, 77].

        The same batch has the same captions, whoever makes it.
        """
        rng = Random(f"{self._config['seed']}/{indices}")
        texts = [
            "" if rng.random() < EMPTY_CAPTIONS else caption_with_position(scene(i, self._config), rng)
            for i in indices
        ]
        ids = self._tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return torch.tensor(indices), ids


def captioned(config: dict[str, Any], count: int, tokenizer: CLIPTokenizer) -> Iterator[Batch]:
    """Endless batches of `Captions`, made ahead by other processes: wording 256 scenes takes as long as
    learning from them.
    """
    return iter(
        DataLoader(
            Captions(config, tokenizer),
            batch_sampler=batches(count, config["unet"]["batch"], config["seed"] + 1),
            num_workers=max(1, min(12, (os.cpu_count() or 1) // 2)),
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
