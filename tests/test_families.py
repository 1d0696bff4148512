"""Each family, as a folder and as a single file, in float16 and float32, with tiny parts of random weights.

All tasks with all schedulers of Stable Diffusion 1 and SDXL in float32 are in test_pipelines.py and test_sdxl.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from original_layout import random_original, save_original
from sdapp.diffusion.loading import load_pipeline
from sdapp.models.families import FAMILIES
from sdapp.models.locate import locate
from sdapp.pipelines import Painter
from sdapp.scheduler_table import TABLE
from sdapp.settings.hardware import Memory
from sdapp.stages.loaded_model import LoadedModel
from test_pipelines import paint, pixels, settings, tasks

HALF, FULL = torch.float16, torch.float32
TASKS = ("txt2img", "img2img", "inpaint")
# The tiny model, and the tasks that are not in another file: (options of `tiny`, dtype, task).
LEFT: list[tuple[dict[str, Any], torch.dtype, str]] = [
    *(({"prediction_type": kind}, HALF, task) for kind in ("epsilon", "v_prediction") for task in TASKS),
    *(({"prediction_type": "v_prediction"}, FULL, task) for task in TASKS),
    *(({"in_channels": 9}, dtype, "inpaint") for dtype in (HALF, FULL)),
    *(({"is_xl": True}, HALF, task) for task in TASKS),
    *(({"is_xl": True, "in_channels": 9}, dtype, "inpaint") for dtype in (HALF, FULL)),
]


def painter_in(dtype: torch.dtype, path: Path) -> Painter:
    """A painter on the CPU in any dtype; the commands refuse float16 there, because it is slow."""
    model = locate(str(path))
    return Painter(LoadedModel(load_pipeline(model, dtype), model.family, torch.device("cpu"), Memory()))


@pytest.mark.parametrize(("options", "dtype", "task"), LEFT, ids=str)
def test_every_scheduler_gives_a_finite_image(
    options: dict[str, Any],
    dtype: torch.dtype,
    task: str,
    tiny: Callable[..., Path],
    house: Path,
    mask: Path,
) -> None:
    path = tiny(**options)
    painter = painter_in(dtype, path)
    asked = settings(path, width=64, height=64, steps=2, task=tasks(house, mask)[task])
    errors = {row.name: paint(asked | {"scheduler": row.name}, painter)[0].error for row in TABLE}
    assert {name: error for name, error in errors.items() if error} == {}


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def test_a_single_file_is_its_folder_to_the_bit(
    number: int, channels: int, tmp_path: Path, house: Path, mask: Path
) -> None:
    """In both dtypes: the same weights, and the same image."""
    pipe = random_original(number, in_channels=channels)
    folder, file = tmp_path / "model", tmp_path / "model.safetensors"
    pipe.save_pretrained(folder)
    save_original(pipe, file)
    for dtype in (FULL, HALF):
        one, other = (load_pipeline(locate(str(path)), dtype) for path in (folder, file))
        for part in FAMILIES[number].weight_folders:
            ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
            assert ours.keys() == theirs.keys()
            for name, weight in ours.items():
                assert torch.equal(weight, theirs[name]), (part, name)
    task = tasks(house, mask)["inpaint" if channels == 9 else "txt2img"]
    asked = {"width": 64, "height": 64, "steps": 1, "task": task}
    images = [pixels(paint(settings(path, **asked), painter_in(FULL, path))[0]) for path in (folder, file)]
    assert (
        np.abs(images[0] - images[1]).max() <= 1
    )  # where weights lie in memory decides how sums are rounded
