"""What every command that paints does: say what should be known, load the model, paint, save, print."""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdapp.config import RunConfig, validate
from sdapp.console import announce, interruptible, progress, tell
from sdapp.errors import JobsFailedError
from sdapp.flags import all_layers
from sdapp.jobs import Job, plan
from sdapp.layers import Layer, merge
from sdapp.models import BUILT_IN, Model, locate, unknown_words
from sdapp.outputs import check_folder

if TYPE_CHECKING:
    from sdapp.pipelines import Painter


def paint(flags: dict[str, Any], own: list[Layer]) -> None:
    """Load settings, plan, load the model, paint, save, print. All input is checked before torch is imported."""
    merged = merge(all_layers(flags, own))
    for note in merged.notes:
        tell(note)
    config = validate(merged)
    model = locate(config.model, config.revision)
    jobs = plan(config, model)
    check_folder(Path(config.output.dir))
    say_first(config, model, jobs[0])
    failed: list[str] = []
    with (
        interruptible(lambda: "finished pictures are kept") as check,
        progress(len(jobs), model.name) as on_step,
    ):
        painter = load_painter(model, config, flags["verbose"])
        check()

        def step(*where: int) -> None:
            check()
            on_step(*where)

        for result in painter.paint(jobs, config.batch_size, step):
            announce(replace(result, path=result.save(config.output) if result.picture else None), flags["json"])
            failed += [f"seed {result.job.seed}: {result.error}"] if result.error else []
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} pictures failed:\n" + "\n".join(failed))


def say_first(config: RunConfig, model: Model, job: Job) -> None:
    """What the user should know before the first picture."""
    if words := unknown_words(model, f"{job.prompt} {job.negative_prompt}"):
        tell(
            f"{BUILT_IN} does not know: {', '.join(words)}. It knows the words of its small world (in its MODEL_CARD.md); "
            "for anything else use a real checkpoint: --model stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    for note in config.scheduler.resolve().told:
        tell(note)
    if job.negative_prompt and job.guidance_scale <= 1:
        tell("the negative prompt has no effect at a guidance_scale of 1 or below")
    if job.width * job.height > 4 * model.size**2:
        tell(
            f"{job.width}x{job.height} is far more than the {model.size}x{model.size} that {model.name} was trained on: it "
            "takes long, and things repeat; --size makes it smaller"
        )
    if job.task.kind != "txt2img":
        tell(f"{job.steps_to_run} of {job.steps} steps run at strength {job.task.strength:g}")


def load_painter(model: Model, config: RunConfig, verbose: bool) -> "Painter":
    """Load the weights; torch and diffusers are imported here and not before."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")  # read while it is imported
    if not verbose:
        warnings.simplefilter("ignore")  # upstream's own
    from sdapp.loading import load, quiet

    quiet(verbose)
    return load(model, config)
