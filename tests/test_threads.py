"""Loading and painting from several threads, and what the library leaves unchanged in a process."""

import gc
import importlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from diffusers.utils import torch_utils
from transformers.utils import logging as transformers_logging

from sdapp.jobs import LoadKey
from sdapp.models.locate import locate
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.validation import validate

Tiny = Callable[..., Path]
Pixels = list["np.ndarray[Any, Any]"]


def paint(model: Path, **changes: Any) -> Pixels:
    asked = {"model": str(model), "prompt": "a red house", "seed": 7, "steps": 4, "device": "cpu"} | changes
    config = validate(Layer(asked))
    found = locate(config.model)
    results = load(LoadKey.of(config, found), found).paint(plan(config, found), config.batch_size)
    return [np.asarray(result.image) for result in results]


def test_threads_that_load_and_paint_at_the_same_time_paint_what_one_alone_paints(tiny: Tiny) -> None:
    kinds: list[dict[str, Any]] = [
        {"dtype": dtype, "scheduler": scheduler, "count": 3}
        for dtype in ("float32", "bfloat16")
        for scheduler in ("euler-a", "ddim")
    ]
    alone = [paint(tiny(), **kind) for kind in kinds]
    barrier = threading.Barrier(len(kinds))

    def together(kind: dict[str, Any]) -> list[Pixels]:
        barrier.wait()
        return [paint(tiny(), **kind) for _ in range(4)]

    with ThreadPoolExecutor(len(kinds)) as pool:
        many = list(pool.map(together, kinds))
    for one, repeated in zip(alone, many, strict=True):
        for images in repeated:
            assert all((a == b).all() for a, b in zip(one, images, strict=True))


@pytest.fixture
def importing_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thread that imports modules of diffusers' name all the time, and forgets them."""
    package = tmp_path / "diffusers_extra"
    package.mkdir()
    (package / "__init__.py").touch()
    for i in range(50):
        (package / f"m{i}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for i in range(50):
                importlib.import_module(f"diffusers_extra.m{i}")
                sys.modules[f"diffusers.extra{i}"] = ModuleType(f"diffusers.extra{i}")
            for name in [name for name in sys.modules.copy() if "extra" in name]:
                sys.modules.pop(name, None)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns often
    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()
    sys.setswitchinterval(before)


def test_batches_are_painted_while_another_thread_imports_modules(tiny: Tiny, importing_thread: None) -> None:
    images = paint(tiny(), dtype="bfloat16", steps=1, count=200, guidance_scale=1.0, scheduler="euler-a")
    assert len(images) == 200


def state() -> dict[str, Any]:
    """What a caller may have set for the whole process."""
    libraries = (diffusers_logging, transformers_logging)
    return {
        "levels": [logging.getLogger(name).level for name in ("diffusers", "transformers", None)],
        "bars": [library.is_progress_bar_enabled() for library in libraries],
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "gc": (gc.isenabled(), gc.get_freeze_count()),
        "dtype": torch.get_default_dtype(),
        "noise": torch_utils.randn_tensor,
        "randn": torch.randn,
    }


def test_loading_and_painting_leave_the_process_as_it_was(tiny: Tiny) -> None:
    before = state()
    during = []
    model = str(tiny())
    config = validate(Layer({"model": model, "prompt": "a cat", "seed": 1, "steps": 1, "dtype": "bfloat16"}))
    painter = load(LoadKey.of(config, locate(model)))
    for _ in painter.paint(plan(config, locate(model)), on_step=lambda *_: during.append(state())):
        pass
    assert state() == before
    assert during == [before]


def test_loading_shows_no_bar(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    paint(tiny(), steps=1)
    assert "Loading" not in capfd.readouterr().err
