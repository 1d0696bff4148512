"""Folders as `sdapp batch` leaves them, with drawn images: real records, names and ledger, without a model."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from sdapp.batches.ledger import LEDGER_FILE, Line
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.run import Batch
from sdapp.outputs.files import overwrite
from sdapp.outputs.writer import save
from sdapp.records import Record, Result
from sdapp.settings.layers import Layer

CREATED = "2026-11-27T04:00:00+00:00"
FAILED = "the latents became NaN; use --dtype float32"


def make_batch(file: Path, folder: Path, side: int = 64, failing: Iterable[int] = ()) -> list[Result]:
    """Fill a folder with the images of a prompt file; those of the lines in `failing` fail."""
    settings = {"model": "postcards", "output": {"dir": str(folder)}, "width": side, "height": side}
    prompts = PromptFile.open(file, [Layer(settings)])
    run, results, lines = Batch.of(prompts), list[Result](), list[bytes]()
    run.begin()
    prompts.keep_seeds()
    failing = set(failing)
    for item in run.items():
        job = item.job
        record = Record(job.id, "", {}, "cpu", "float32", job.unet_calls, 1, 1.5, CREATED, {"sdapp": "test"})
        said = {"line": item.line, "number": item.number, "labels": item.labels, "choices": item.choices}
        result = replace(Result(job, item.index, record, _draw(job.id, side)), **said)  # type: ignore[arg-type]
        if item.line in failing:
            result = replace(result, image=None, error=FAILED)
        path = save(result, prompts.config.output) if result.image else None
        lines.append(Line.of(result, path, (prompts.name,)).encode())
        results.append(replace(result, path=path))
    overwrite(folder / LEDGER_FILE, lines)
    return results


def _draw(job_id: str, side: int) -> Image.Image:
    """An image of one colour, which is as different from others as their ids."""
    number = int(job_id[:6], 16)
    return Image.new("RGB", (side, side), (number >> 16, number >> 8 & 255, number & 255))
