"""Paint one image, measure how, and write the page that explains it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdapp.errors import ConfigError, JobsFailedError
from sdapp.jobs import Job, LoadKey, Work
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.notes import notes_before_painting
from sdapp.outputs.files import check_folder, overwrite
from sdapp.planning import plan
from sdapp.records import OnStep, Result
from sdapp.settings.layers import Layer, merge, override
from sdapp.validation import validate

if TYPE_CHECKING:
    from sdapp.pipelines import Painter

FOLDER, PAGE, ARRAYS = "explain", "explain.html", "arrays.safetensors"


@dataclass(frozen=True)
class Explanation:
    """A page that was written, the arrays if they were asked for, and the image that it explains."""

    path: Path
    arrays: Path | None
    result: Result


@dataclass(frozen=True)
class ExplanationPlan:
    """The image whose making is explained, and the folder of the page."""

    folder: Path
    model: Model
    work: Work
    notes: tuple[str, ...]
    command: str = ""  # which the page shows

    @property
    def job(self) -> Job:
        return self.work.jobs[0]


def plan_explanation(layers: Sequence[Layer], command: str = "") -> ExplanationPlan:
    """Check layers of settings and plan the image, without torch. Raises SdappError."""
    config = validate(merge([override("output.dir", FOLDER, "sdapp explain"), *layers]))
    model = locate_model(config.model, config.revision, config.vae, config.base)
    if config.count > 1:
        raise ConfigError(f"count: one image is explained, not {config.count:,}; use count: 1")
    if config.task.kind in ("outpaint", "upscale") or config.upscale is not None or config.detail:
        key = "upscale" if config.upscale is not None else "detail" if config.detail else "task.kind"
        raise ConfigError(f"{key}: only one pass of denoising can be explained; leave it out")
    if config.compile == "on":
        raise ConfigError("compile: the layers of a compiled UNet cannot be watched; leave it out")
    [job] = plan(config, model)
    load = LoadKey.of(config, model).model_copy(update={"compile": "off"})
    work = Work(load, [job], unet_calls=job.unet_calls, preview=config.preview_file)
    notes = tuple(notes_before_painting(config, model, job))
    if command and config.seed is None:
        command = f"{command} --seed {job.seed}"
    return ExplanationPlan(Path(config.output.dir), model, work, notes, command)


def write_explanation(
    planned: ExplanationPlan, painter: "Painter", arrays: bool = False, on_step: OnStep | None = None
) -> Explanation:
    """Paint the image; write the page and, if asked for, the arrays. Raises JobsFailedError, OutputError."""
    from safetensors.torch import save

    from sdapp.diffusion.process import measure_process
    from sdapp.diffusion.watch import Watcher
    from sdapp.explanations.page import render

    check_folder(planned.folder)
    watcher = Watcher(with_attention=True)
    [result] = painter.paint(
        planned.work.jobs, on_step=on_step, preview=planned.work.preview, watcher=watcher
    )
    if result.image is None:
        raise JobsFailedError(f"seed {result.job.seed}: {result.error}", [result])
    process = measure_process(painter.model.pipelines["txt2img"], result, watcher)
    named = process.arrays()
    if arrays:
        overwrite(planned.folder / ARRAYS, [save(named)])
    page = planned.folder / PAGE
    shapes = {name: [*array.shape] for name, array in named.items()} if arrays else {}
    overwrite(page, render(process, result, painter.pictures, shapes, planned.command))
    return Explanation(page, planned.folder / ARRAYS if arrays else None, result)
