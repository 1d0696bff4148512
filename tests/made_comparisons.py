"""Comparisons made up for tests: the files of a finished grid, with images and errors that look like real ones."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from sdapp.comparisons.cells import Cell, Comparison, Reference, Value, write_comparison

# name → error at one call, order of convergence, UNet calls a step; an order of 0 is a stochastic scheduler
SOLVERS = {
    "ddim": (0.7, 0.9, 1), "euler": (0.9, 0.9, 1), "euler-karras": (0.8, 1.0, 1), "heun": (1.2, 1.3, 2), "pndm": (0.6, 1.2, 1),
    "lms": (1.5, 1.3, 1), "dpm2": (1.4, 1.3, 2), "dpm++2m": (0.8, 1.2, 1), "dpm++2m-karras": (0.5, 1.6, 1),
    "dpm++2s": (1.0, 1.4, 1), "unipc": (0.6, 1.5, 1), "unipc-karras": (0.5, 1.7, 1), "deis": (0.9, 1.3, 1),
    "euler-a": (0.5, 0, 1), "dpm++2m-sde-karras": (0.6, 0, 1), "lcm": (0.7, 0, 1),
}  # fmt: skip
HOSTILE = (
    "</script><img src=x onerror=alert(1)>", "<script>alert(1)</script>", "{{7*7}} {% raw %}", "${7*7} #{7*7} <%= 7*7 %>",
    "line\u2028separator\u2029paragraph", "\u202eright to left\u202c after", "مرحبا بالعالم", "日本語の絵 🎨",
    "\"double\" 'single' `back`", "null\0byte\x1bescape\x7f", "&lt;b&gt; &amp; &#x3c;", "<!-- --><!--", "]]><![CDATA[",
    '=HYPERLINK("http://x")', "@SUM(A1)", "\\u003cimg\\u003e \\", "javascript:alert(1)", "' onmouseover='alert(1)",
    "line\nbreak\ttab", "word " * 400,
)  # fmt: skip


def make(
    folder: Path,
    schedulers: Sequence[str] = tuple(SOLVERS),
    columns: Sequence[float] = (5, 10, 20, 40),
    seeds: Sequence[int] = (1, 2),
    prompts: Sequence[str] = ("a red house on a beach", "a white ship at night"),
    varied: Mapping[str, Sequence[Value]] | None = None,
    size: int = 64,
) -> Comparison:
    """Write a whole comparison into `folder` and return it."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    keys = dict(varied or {})
    cells, references = [], []
    for number, (prompt, seed, *values) in enumerate(product(prompts, seeds, *keys.values())):
        chosen = dict(zip(keys, values, strict=True))
        image = _landscape(number, size)
        file = f"pictures/reference-{number}.png"
        Image.fromarray(image).save(folder / file)
        references.append(
            Reference(
                "0" * 12,
                "1" * 12,
                seed,
                prompt,
                chosen,
                "DDIM, 999 steps",
                file,
                999,
                0.003 + 0.001 * (number % 3),
                "DPM++ 2M, 200 steps",
            )
        )
        for scheduler, column in product(schedulers, columns):
            cells.append(_cell(folder, image, Cell(
                f"{len(cells):012x}", scheduler, column, int(column) // SOLVERS[scheduler][2], seed, prompt, chosen, "done",
                f"pictures/{len(cells):012x}.png", int(column), None, (), 2**28, SOLVERS[scheduler][1] == 0,
                None, None, None, None,
            )))  # fmt: skip
    comparison = Comparison(
        "Schedulers, call by call", "unet-calls", tuple(schedulers), tuple(columns), tuple(seeds), tuple(prompts),
        {key: tuple(values) for key, values in keys.items()}, "postcards-64", "a made-up machine", "float32",
        {"sdapp": "0.1.0", "diffusers": "0.42.1"}, "sdapp compare grid.yaml", "2026-11-21T12:00:00+00:00",
        tuple(cells), tuple(references),
    )  # fmt: skip
    write_comparison(comparison, folder)
    return comparison


def _landscape(number: int, size: int) -> np.ndarray:
    """[size, size, 3] of 8 bits: a sky, a sun and hills."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    hue = np.array([np.sin(number), np.sin(number + 2), np.sin(number + 4)]) * 60
    image = (150 + hue) * (1 - y[..., None] * 0.6) + 40
    image[(x - 0.3 - 0.1 * (number % 4)) ** 2 + (y - 0.3) ** 2 < 0.02] = (255, 236, 170)
    for depth in range(3):
        ridge = 0.55 + 0.14 * depth + 0.06 * np.sin(x * (9 - 2 * depth) + number + depth * 2)
        image[y > ridge] = np.array([40, 90, 60]) + hue / 4 + 20 * depth
    return image.clip(0, 255).astype(np.uint8)


def _cell(folder: Path, target: np.ndarray, plan: Cell) -> Cell:
    """The cell painted: a shifted and noisy image, the worse the larger its error."""
    scale, order, _ = SOLVERS[plan.scheduler]
    luck = random.Random(f"{plan.id}")
    error = scale * max(plan.column, 1) ** -order * math.exp(luck.gauss(0, 0.25))
    noise = np.random.default_rng(int(plan.id, 16)).normal(0, 60 * error, target.shape)
    moved = np.roll(target, int(error * 40), axis=1)
    painted = (moved + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(painted).save(folder / str(plan.file), compress_level=1)
    seconds = 0.04 * plan.column + 0.02 * luck.random()
    mean_square = float(((painted.astype(float) - target) ** 2).mean())
    return replace(
        plan,
        seconds=seconds,
        timings=(seconds * 0.98, seconds, seconds * 1.03),
        solver_error=None if plan.stochastic else error,
        psnr=10 * math.log10(255**2 / mean_square) if mean_square else None,
        ssim=max(0.0, 1 - error),
    )
