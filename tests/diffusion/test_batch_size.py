from typing import Any

import psutil
import pytest
import torch

from sdapp.diffusion.batch_size import MAX_BATCH, BatchSizes
from sdapp.diffusion.memory import is_shortage, memory_in_use
from sdapp.jobs import Job
from sdapp.models.locate import locate
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.validation import validate

CPU = torch.device("cpu")


def job(**settings: Any) -> Job:
    config = validate(Layer({"prompt": "a cat", "seed": 7} | settings))
    return plan(config, locate(config.model))[0]


def sizes(seconds: dict[int, float], before: int | None = None) -> list[int]:
    """The sizes that auto takes one after the other, where an image takes so long at each."""
    found, chosen = BatchSizes(CPU), []
    for _ in range(8):
        chosen.append(found.of(job(), "auto"))
        found.learn(job(), chosen[-1], seconds[chosen[-1]], memory_in_use(CPU) if before is None else before)
    return chosen


def test_a_size_is_doubled_while_an_image_gets_faster_and_then_the_best_stays() -> None:
    assert sizes({1: 1.0, 2: 0.7, 4: 0.5, 8: 0.6}) == [1, 2, 4, 8, 4, 4, 4, 4]


def test_there_is_a_largest_size() -> None:
    assert max(sizes({2**n: 1 / 2**n for n in range(8)})) == MAX_BATCH


def test_what_does_not_fit_into_memory_twice_is_not_doubled() -> None:
    assert sizes({1: 1.0, 2: 0.5}, before=-psutil.virtual_memory().total) == [1] * 8


def test_what_memory_ran_out_for_is_not_tried_again() -> None:
    found = BatchSizes(CPU)
    found.largest = 2
    assert found.of(job(), 8) == 2


def test_another_size_of_image_is_learned_anew() -> None:
    found = BatchSizes(CPU)
    found.learn(job(), 1, 1.0, memory_in_use(CPU))
    assert (found.of(job(), "auto"), found.of(job(width=128, height=128), "auto")) == (2, 1)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])  # fmt: skip
def test_a_shortage_is_known_by_its_type_or_words(error: Exception) -> None:
    assert is_shortage(error)
    assert not is_shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
