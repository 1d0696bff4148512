"""The Python functions: generate, stream, batch, compare, grid, explain, replay and upscale.

They print nothing and change nothing process-wide.
"""

import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from sdapp.arguments import as_layer
from sdapp.batches.cluster import choose_executor
from sdapp.batches.executors import Executor, LocalExecutor
from sdapp.batches.items import Item, Shard
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.run import Batch
from sdapp.config import RunConfig
from sdapp.errors import JobsFailedError, gathered
from sdapp.grids.axes import AxisGiven, read_axes
from sdapp.jobs import LoadKey, Work
from sdapp.keywords import BatchKeywords, CompareKeywords, GenerateKeywords
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.notes import LineNotes, Notes, OnNote, notes_before_painting, notes_on_labels, notes_on_line
from sdapp.outputs.films import check_film
from sdapp.outputs.painted import Painted
from sdapp.planning import plan
from sdapp.prompts.seeds import Seeds
from sdapp.records import OnStep, Result
from sdapp.replays import paint_replays, plan_replays
from sdapp.settings.grid import Grid
from sdapp.settings.layers import Layer, merge
from sdapp.upscales import plan_upscales
from sdapp.validation import validate

if TYPE_CHECKING:
    from sdapp.comparisons.cells import Comparison
    from sdapp.explanations.run import Explanation
    from sdapp.grids.folder import ImageGrid


@overload
def generate(
    prompt: str | None = None,
    *,
    film: str | Path | None = None,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[GenerateKeywords],
) -> Painted: ...
@overload
def generate(
    prompt: str | None = None,
    *,
    count: int,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[GenerateKeywords],
) -> list[Painted]: ...
def generate(
    prompt: str | None = None, *, count: int | None = None, **options: Any
) -> Painted | list[Painted]:
    """Paint an image and return it: `generate("a red house", seed=7).image.show()`.

    With `count`, a list of so many images, whose seeds follow each other. `settings` are the keys of a
    config; `image` makes it img2img, and a `mask` (or `mask_prompt`) as well inpaint: paths or images of
    Pillow.
    `on_step(first, images, step, steps)` is called after each step of a batch of `images` images, of which
    `first` is the index of the first one; `steps` changes when a `detail` has more places than one, or none.
    `film` is a .gif, .webp or .mp4 of how the only image was painted.
    Raises SdappError; JobsFailedError, with all `results`, if an image
    failed.
    """
    results = list(stream(prompt, count=1 if count is None else count, **options))
    if failed := [f"seed {each.job.seed}: {each.error}" for each in results if each.image is None]:
        raise JobsFailedError("\n".join(failed), results)
    painted = [Painted.of(result) for result in results]
    return painted[0] if count is None else painted


def stream(
    prompt: str | None = None,
    *,
    count: int = 1,
    film: str | Path | None = None,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[GenerateKeywords],
) -> "Stream":
    """Paint images and give each as soon as it is there: `for result in stream("a red house", count=1000)`.

    As `generate`, but an image that fails is a result with its error. The settings are checked when this is
    called; the loop paints. Raises SdappError.
    """
    given = {} if prompt is None else {"prompt": prompt}
    planned = plan_images([as_layer({**settings, **given, "count": count})], film)
    Notes(on_note).tell(planned.notes)
    executor = executor or LocalExecutor({planned.work.load: planned.model})
    return Stream(planned.paint(executor, on_step), "stream")


def batch(  # noqa: PLR0913 - an option is an argument
    file: str | Path,
    *,
    seeds: Seeds | None = None,
    shard: str = "1/1",
    skip_invalid: bool = False,
    retry_failed: bool = False,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[BatchKeywords],
) -> "Stream":
    """Paint the images of a prompt file that its folder lacks: `for result in batch("prompts.txt"):
    print(result.path)`.

    `settings` are for all lines that do not set them. The file is checked when this is called; the loop
    paints. An image that fails is a result with its error. With `skip_invalid`, lines with errors are noted
    and left out. Raises SdappError.
    """
    prompts = PromptFile.open(Path(file), [as_layer(settings)], seeds, skip_invalid)
    run = Batch.of(prompts, Shard.parse(shard), retry_failed)
    notes, line_notes = Notes(on_note), LineNotes()

    def look(item: Item) -> None:
        line_notes.add(item.line, item.notes)
        line_notes.add(item.line, notes_on_line(run.config, prompts.model, item.job))
        line_notes.add(item.line, notes_on_labels(item.labels, run.config.output.name))

    found = run.survey(look)
    run.begin()
    if prompts.keep_seeds():
        found = run.survey()
    notes.tell(f"skipped: {line}" for line in str(run.skipped()).splitlines())
    notes.tell(line_notes.texts())
    executor = executor or choose_executor(run.config.executor, {run.load: prompts.model})
    return Stream(run.paint(executor, found, on_step, notes.wait), "batch")


def compare(
    *prompts: str,
    out: str | Path = "comparison",
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[CompareKeywords],
) -> "Comparison":
    """Compare schedulers and return the results: `compare("a castle", schedulers=["ddim", "dpm++2m"],
    steps=[10, 20])`.

    `settings` are the keys of a config and of its `compare:`. The folder `out` gets the report, contact
    sheets and tables; images that are in it already are not painted again. Raises SdappError.
    """
    from sdapp.comparisons.plan import ComparisonPlan
    from sdapp.comparisons.run import finish, paint_comparison

    grid = {key: value for key, value in settings.items() if key in Grid.model_fields}
    grid |= {"prompts": list(prompts)} if prompts else {}
    others = {key: value for key, value in settings.items() if key not in grid}
    planned = ComparisonPlan([as_layer({**others, "compare": grid, "output": {"dir": str(out)}})])
    notes = Notes(on_note)
    notes.tell(planned.notes)
    executor = executor or choose_executor(planned.config.executor, {planned.load: planned.model})
    for _ in paint_comparison(planned, executor, on_step, notes.wait):
        pass
    return finish(planned.folder)[0]


def grid(  # noqa: PLR0913 - an axis is an argument
    prompt: str | None = None,
    *,
    x: AxisGiven,
    y: AxisGiven | None = None,
    z: AxisGiven | None = None,
    out: str | Path = "grid",
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[GenerateKeywords],
) -> "ImageGrid":
    """Paint an image for each combination of values and return the grid: `grid("a castle",
    x="guidance_scale=1-20", y={"scheduler": ["euler-a", "unipc"]})`.

    An axis is a text as for `sdapp grid`, or one setting and its values. The folder `out` gets a page,
    contact sheets and the images; images that are in it already are not painted again. An image that fails is
    a cell with its reason. Raises SdappError.
    """
    from sdapp.grids.plan import GridPlan
    from sdapp.grids.run import finish_grid, paint_grid

    given: dict[str, Any] = {**settings} | ({} if prompt is None else {"prompt": prompt})
    layer = as_layer(given | {"output": {**given.get("output", {}), "dir": str(out)}})
    planned = GridPlan([layer], read_axes({"x": x, "y": y, "z": z}))
    notes = Notes(on_note)
    notes.tell(planned.notes)
    executor = executor or LocalExecutor(planned.models)
    for _ in paint_grid(planned, executor, on_step, notes.wait):
        pass
    return finish_grid(planned.folder)[0]


def explain(
    prompt: str | None = None,
    *,
    out: str | Path = "explain",
    arrays: bool = False,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    **settings: Unpack[GenerateKeywords],
) -> "Explanation":
    """Paint an image and write a page that shows how: `explain("a red house", seed=7).path`.

    The folder `out` gets explain.html and, with `arrays`, arrays.safetensors. Raises SdappError;
    JobsFailedError if the image failed.
    """
    from sdapp.explanations.run import plan_explanation, write_explanation

    given: dict[str, Any] = {**settings} | ({} if prompt is None else {"prompt": prompt})
    layer = as_layer(given | {"output": {**given.get("output", {}), "dir": str(out)}})
    planned = plan_explanation([layer])
    Notes(on_note).tell(planned.notes)
    painter = LocalExecutor({planned.work.load: planned.model}).painter(planned.work)
    return write_explanation(planned, painter, arrays, on_step)


def replay(
    *images: str | Path,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Unpack[BatchKeywords],
) -> "Stream":
    """Paint images again from the settings inside them: `for result in replay("a.png"): result.image.show()`.

    A .txt file has paths of images, one a line. `settings` replace those of all images. `result.source` is
    the path of the image. Images are checked when this is called; the loop paints, and loads each model when
    its turn comes. An image that fails is a result with its error. Raises SdappError.
    """
    replays, errors = plan_replays([Path(image) for image in images], [as_layer(settings)], Notes(on_note))
    if errors:
        raise gathered(errors)
    models = {each.load: each.model for each in replays}
    return Stream(paint_replays(replays, executor or LocalExecutor(models), on_step), "replay")


class Stream(Iterator[Result]):
    """Results that are painted while they are read. Warns if they are dropped before the first is read."""

    def __init__(self, results: Generator[Result, None, None], name: str) -> None:
        self._results, self._name, self._is_begun = results, name, False

    def __next__(self) -> Result:
        self._is_begun = True
        return next(self._results)

    def close(self) -> None:
        """Stop painting."""
        self._is_begun = True
        self._results.close()

    def __repr__(self) -> str:
        return f"<sdapp.{self._name}: read it to paint, such as `for result in sdapp.{self._name}(…)`>"

    def __del__(self) -> None:
        if not self._is_begun:
            text = (
                f"sdapp.{self._name} painted nothing, because its results were not read; read them in a loop"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def upscale(
    *images: str | Path,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Stream:
    """Make images larger, with the settings inside them: `for result in upscale("a.png", upscale=1.5):
    result.image.show()`.

    `settings` replace those of all images; `upscale` is the factor (2 if not given), or all keys of that
    group. `result.source` is the path of the image. Everything is checked when this is called. An image that
    fails is a result with its error. Raises SdappError.
    """
    planned, errors = plan_upscales([Path(image) for image in images], [as_layer(settings)], Notes(on_note))
    if errors:
        raise gathered(errors)
    models = {each.load: each.model for each in planned}
    return Stream(paint_replays(planned, executor or LocalExecutor(models), on_step), "upscale")


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


def plan_images(layers: Sequence[Layer], film: str | Path | None = None) -> PlannedImages:
    """Check layers of settings, and the file of a film, and plan the images, without torch.

    Raises SdappError.
    """
    merged = merge([*layers])
    config = validate(merged)
    model = locate_model(config.model, config.revision, config.vae, config.base)
    jobs = plan(config, model)
    work = Work(
        LoadKey.of(config, model),
        jobs,
        config.batch_size,
        unet_calls=jobs.unet_calls,
        preview=config.preview_file,
        film=None if film is None else str(check_film(str(film), len(jobs), jobs[0].whole_calls)),
    )
    return PlannedImages(config, model, work, tuple(notes_before_painting(config, model, jobs[0])))


# --- deprecated names ---------------------------------------------------------------------------------------


def paint(**settings: Any) -> Iterator[Result]:
    """Deprecated: call `generate` or `stream`."""
    warnings.warn("sdapp.paint is now sdapp.generate and sdapp.stream", DeprecationWarning, stacklevel=2)
    return stream(**settings)


def paint_file(file: str | Path, **settings: Any) -> Iterator[Result]:
    """Deprecated: call `batch`."""
    warnings.warn("sdapp.paint_file is now sdapp.batch", DeprecationWarning, stacklevel=2)
    return batch(file, **settings)
