"""The Python functions: generate, batch, compare and replay.

They print nothing and change nothing process-wide.
"""

import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdapp.batches.executors import Executor, LocalExecutor
from sdapp.batches.items import Item, Shard
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.run import Batch
from sdapp.config import RunConfig, validate
from sdapp.errors import gathered
from sdapp.jobs import LoadKey, Work, plan
from sdapp.models.locate import Model
from sdapp.models.vae import locate_model
from sdapp.notes import LineNotes, Notes, OnNote, notes_before_painting, notes_on_line
from sdapp.prompts.seeds import Seeds
from sdapp.records import OnStep, Result
from sdapp.replays import paint_replays, plan_replays
from sdapp.settings.grid import Grid
from sdapp.settings.layers import Layer, merge

if TYPE_CHECKING:
    from sdapp.comparisons.cells import Comparison


def generate(
    *,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Iterator[Result]:
    """Paint images: `for result in generate(prompt="a red house", seed=7, count=2): result.image.show()`.

    `settings` are the keys of a config, paths as text. They are checked when this is called; the model is
    loaded when the loop begins. `on_step(first, images, step, steps)` is called after each step of a batch
    of `images` images, of which `first` is the index of the first one. Raises SdappError.
    """
    planned = plan_images([Layer(settings)])
    Notes(on_note).tell(planned.notes)
    return planned.paint(executor or LocalExecutor({planned.work.load: planned.model}), on_step)


def batch(
    file: str | Path,
    *,
    seeds: Seeds | None = None,
    shard: str = "1/1",
    retry_failed: bool = False,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Iterator[Result]:
    """Paint the images of a prompt file that its folder lacks: `for result in batch("prompts.txt"):
    print(result.path)`.

    `settings` are for all lines that do not set them. The file is checked when this is called; the model is
    loaded when the loop begins. An image that fails is a result with its error. Raises SdappError.
    """
    prompts = PromptFile.open(Path(file), [Layer(settings)], seeds)
    run = Batch.of(prompts, Shard.parse(shard), retry_failed)
    notes, line_notes = Notes(on_note), LineNotes()

    def look(item: Item) -> None:
        line_notes.add(item.line, notes_on_line(run.config, prompts.model, item.job))

    found = run.survey(look)
    run.begin()
    if prompts.keep_seeds():
        found = run.survey()
    notes.tell(line_notes.texts())
    executor = executor or LocalExecutor({run.load: prompts.model})
    return run.paint(executor, found, on_step, notes.wait)


def compare(
    *prompts: str,
    out: str | Path = "comparison",
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> "Comparison":
    """Compare schedulers and return the results: `compare("a castle", schedulers=["ddim", "dpm++2m"],
    steps=[10, 20])`.

    `settings` are the keys of a config and of its `compare:`. The folder `out` gets the report, contact
    sheets and tables; images that are in it already are not painted again. Raises SdappError.
    """
    from sdapp.comparisons.plan import ComparisonPlan
    from sdapp.comparisons.run import finish, paint_comparison

    grid = {key: settings.pop(key) for key in list(settings) if key in Grid.model_fields}
    grid |= {"prompts": list(prompts)} if prompts else {}
    planned = ComparisonPlan([Layer(settings | {"compare": grid, "output": {"dir": str(out)}})])
    notes = Notes(on_note)
    notes.tell(planned.notes)
    executor = executor or LocalExecutor({planned.load: planned.model})
    for _ in paint_comparison(planned, executor, on_step, notes.wait):
        pass
    return finish(planned.folder)[0]


def replay(
    *images: str | Path,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Iterator[Result]:
    """Paint images again from the settings inside them: `for result in replay("a.png"): result.image.show()`.

    `settings` replace those of all images. `result.source` is the path of the image. Images are checked
    when this is called; each model is loaded when its turn comes. An image that fails is a result with its
    error. Raises SdappError.
    """
    replays, errors = plan_replays([Path(image) for image in images], [Layer(settings)], Notes(on_note))
    if errors:
        raise gathered(errors)
    models = {each.load: each.model for each in replays}
    return paint_replays(replays, executor or LocalExecutor(models), on_step)


# --- planning ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedImages:
    """The images that `generate` paints."""

    config: RunConfig
    model: Model
    work: Work
    notes: tuple[str, ...]

    def paint(self, executor: Executor, on_step: OnStep | None = None) -> Generator[Result, None, None]:
        """Paint them; nothing is written. Raises SdappError."""
        yield from executor.paint(self.work, on_step)


def plan_images(layers: Sequence[Layer]) -> PlannedImages:
    """Check layers of settings and plan the images, without torch. Raises SdappError."""
    merged = merge([*layers])
    config = validate(merged)
    model = locate_model(config.model, config.revision, config.vae)
    jobs = plan(config, model)
    work = Work(LoadKey.of(config, model), jobs, config.batch_size, unet_calls=jobs.unet_calls)
    return PlannedImages(config, model, work, tuple(notes_before_painting(config, model, jobs[0])))


# --- deprecated names ---------------------------------------------------------------------------------------


def paint(**settings: Any) -> Iterator[Result]:
    """Deprecated: call `generate`."""
    warnings.warn("sdapp.paint is now sdapp.generate", DeprecationWarning, stacklevel=2)
    return generate(**settings)


def paint_file(file: str | Path, **settings: Any) -> Iterator[Result]:
    """Deprecated: call `batch`."""
    warnings.warn("sdapp.paint_file is now sdapp.batch", DeprecationWarning, stacklevel=2)
    return batch(file, **settings)
