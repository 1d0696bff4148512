"""What every command that paints does: say what should be known, load the model, paint, save, print."""

import gc
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdapp.batches.run import Batch, Survey
from sdapp.commands.doctor import lacks_bfloat16
from sdapp.commands.estimates import History
from sdapp.commands.options import all_layers
from sdapp.commands.terminal import announce, interruptible, progress, tell
from sdapp.config import RunConfig, validate
from sdapp.diffusion.startup import importing
from sdapp.errors import JobsFailedError
from sdapp.jobs import Job, plan
from sdapp.models.locate import BUILT_IN, Model, unknown_words
from sdapp.models.vae import located
from sdapp.outputs.files import Result, check_folder
from sdapp.outputs.writer import published, saved
from sdapp.profiling import timed
from sdapp.settings.layers import Layer, merge

if TYPE_CHECKING:
    from sdapp.pipelines import OnStep, Painter

KEPT = "finished pictures are kept"


@dataclass(frozen=True)
class Load:
    """What one load of a model paints."""

    model: Model
    config: RunConfig
    jobs: Sequence[Job]


def paint(flags: dict[str, Any], own: list[Layer]) -> None:
    """Load settings, plan, load the model, paint, save, print. All input is checked before torch is imported."""
    merged = merge(all_layers(flags, own))
    for note in merged.notes:
        tell(note)
    config = validate(merged)
    model = located(config)
    jobs = plan(config, model)
    check_folder(Path(config.output.dir))
    for note in worth_knowing(config, model, jobs[0]):
        tell(note)
    failed, history = list[str](), History(config.device)
    with closing(paint_loads([Load(model, config, jobs)], flags["verbose"])) as results:
        output = config.output
        for result in published(results, lambda result: result.encoded(output), lambda result: saved(result, output)):
            announce(result, flags["json"])
            history.add(result)
            failed += [f"seed {result.job.seed}: {result.error}"] if result.error else []
    history.save()
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} pictures failed:\n" + "\n".join(failed))


def paint_loads(
    loads: Sequence[Load], verbose: bool, keep_going: bool = False, told: str = KEPT
) -> Generator[Result, None, None]:
    """Paint the jobs of one load after the other, with a bar; the indices of the results count through them all.

    A signal ends it at the next step with InterruptedRunError. Close it when done, which takes the bar away.
    """
    painted = 0
    with (
        interruptible(lambda: told) as check,
        progress(sum(len(load.jobs) for load in loads), loads[0].model.name) as on_step,
    ):

        def step(first: int, *rest: int) -> None:
            check()
            on_step(painted + first, *rest)

        for load in loads:
            if painted:
                gc.collect()  # or two models are held at a time
            for result in _paint_load(load, verbose, step, check, keep_going):
                yield replace(result, index=painted + result.index)
            painted += len(load.jobs)


def _paint_load(load: Load, verbose: bool, step: "OnStep", check: Callable[[], None], keep_going: bool) -> Iterator[Result]:
    painter = load_painter(load.model, load.config, verbose, sum(job.unet_calls for job in load.jobs))
    check()
    yield from painter.paint(load.jobs, load.config.batch_size, step, keep_going)


def paint_batch(
    batch: Batch, model: Model, verbose: bool, found: Survey, prepare: Callable[["Painter"], None] | None = None
) -> Generator[Result, None, None]:
    """Paint what is left of a batch, with a bar, and remember how long it took; a signal ends it between two steps.

    `prepare` sees the painter before the first picture.
    """
    before, waited, history = len(batch.past.done), "", History(batch.config.device)

    def over() -> int:
        """Painted here, and by other runs since this one began."""
        return max(batch.painted, len(batch.past.done) - before)

    def told() -> str:
        return f"{over()} done, {found.left - over()} left; run the same command again to go on"

    with interruptible(told) as check, progress(found.left, model.name) as on_step:
        painter = load_painter(model, batch.config, verbose, found.unet_calls)
        check()

        def step(_first: int, together: int, number: int, of: int) -> None:
            check()
            on_step(over(), together, number, of)

        def wait(who: str) -> None:
            nonlocal waited
            check()
            if who != waited:
                tell(who)
            waited = who
            time.sleep(0.5)

        try:
            if prepare:
                prepare(painter)
            for result in batch.paint(painter, step, wait):
                history.add(result)
                yield result
        finally:
            history.save()


def worth_knowing(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """What the user should know before the first picture."""
    if words := unknown_words(model, f"{job.prompt} {job.negative_prompt}"):
        yield (
            f"{BUILT_IN} does not know: {', '.join(words)}. It knows the words of its small world (in its MODEL_CARD.md); "
            "for anything else use a real checkpoint: --model stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    yield from config.scheduler.resolve().told
    if job.negative_prompt and job.guidance_scale <= 1:
        yield "the negative prompt has no effect at a guidance_scale of 1 or below"
    if job.guidance_scale <= 1 and "guidance_interval" in job.shortcuts:
        yield "guidance_interval has no effect at a guidance_scale of 1 or below"
    if job.width * job.height > 4 * model.size**2:
        yield (
            f"{job.width}x{job.height} is far more than the {model.size}x{model.size} that {model.name} was trained on: it "
            "takes long, and things repeat; --size makes it smaller"
        )
    if job.task.kind != "txt2img":
        yield f"{job.steps_to_run} of {job.steps} steps run at strength {job.task.strength:g}"
    if config.compile == "on" and "cache_interval" in job.shortcuts:
        yield "compile has no effect with a cache_interval above 1"
    elif config.compile == "on":
        yield "the UNet is compiled at the first step of each size, which can take minutes"
    if config.output.format == "png" and "quality" in config.output.model_fields_set:
        yield "output.quality has no effect on PNG, which is lossless"


def load_painter(model: Model, config: RunConfig, verbose: bool, unet_calls: int = 0) -> "Painter":
    """Load the weights; torch and diffusers are imported here and not before."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")  # read while it is imported
    if not verbose:
        warnings.simplefilter("ignore")  # upstream's own
    with timed("import"), importing(model, ours=True):
        from sdapp.diffusion.loading import load, quiet

    quiet(verbose)
    with timed("load"):
        painter = load(model, config, unet_calls)
    if painter.device.type == "cpu" and config.dtype == "bfloat16" and lacks_bfloat16():
        tell("this CPU has no bfloat16 of its own: --dtype float32 is many times as fast")
    return painter
