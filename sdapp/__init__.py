"""Stable Diffusion for shells and scripts: a thin layer over diffusers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdapp.comparisons.cells import Comparison
    from sdapp.config import RunConfig
    from sdapp.models.locate import Model
    from sdapp.pipelines import Painter
    from sdapp.prompts.seeds import Seeds
    from sdapp.records import Result

__all__ = ["compare", "paint", "paint_file"]
__version__ = "0.1.0"


def paint(**settings: Any) -> Iterator["Result"]:
    """Paint with the settings of a config: `for result in paint(prompt="a red house", seed=7): result.image.show()`.

    Checks the settings and loads the model before it returns; then each turn of the loop paints. Raises SdappError.
    """
    from sdapp.config import validate
    from sdapp.jobs import plan
    from sdapp.models.vae import locate_model
    from sdapp.settings.layers import Layer

    config = validate(Layer(settings))
    model = locate_model(config.model, config.revision, config.vae)
    jobs = plan(config, model)
    return _load(model, config, sum(job.unet_calls for job in jobs)).paint(jobs, config.batch_size)


def paint_file(
    file: str | Path,
    *,
    seeds: "Seeds | None" = None,
    shard: str = "1/1",
    retry_failed: bool = False,
    **settings: Any,
) -> Iterator["Result"]:
    """Paint a prompt file into a folder, or what is left of it: `for result in paint_file("prompts.txt")`.

    Checks the whole file and loads the model before it returns; then each turn of the loop paints, and `result.path` is where
    the image was published. Raises SdappError.
    """
    from sdapp.batches.items import Shard
    from sdapp.batches.prompt_file import PromptFile
    from sdapp.batches.run import Batch
    from sdapp.settings.layers import Layer

    prompts = PromptFile.open(Path(file), [Layer(settings)], seeds)
    night = Batch(prompts.orders, prompts.config, Shard.parse(shard), retry_failed)
    found = night.survey()
    night.begin()
    if prompts.keep() != prompts:  # another run has just begun the folder, with another base seed
        return paint_file(file, seeds=seeds, shard=shard, retry_failed=retry_failed, **settings)
    return night.paint(_load(prompts.model, prompts.config, found.unet_calls)) if found.left else iter(())


def compare(*prompts: str, out: str | Path = "comparison", **settings: Any) -> "Comparison":
    """Compare schedulers, with the settings of `compare:` in a config and those of the images, and return the results.

    `compare("a castle", schedulers=["ddim", "dpm++2m"], steps=[10, 20], seeds=[1, 2])` fills the folder `out` with report,
    sheets and tables; what is there already is not painted again. Raises SdappError.
    """
    from sdapp.comparisons import cells as results
    from sdapp.comparisons import measure
    from sdapp.comparisons.plan import ComparisonPlan
    from sdapp.comparisons.report import report, sheets
    from sdapp.outputs.files import check_folder
    from sdapp.settings.grid import Grid
    from sdapp.settings.layers import Layer

    grid = {key: settings.pop(key) for key in list(settings) if key in Grid.model_fields}
    grid |= {"prompts": list(prompts)} if prompts else {}
    layers = [Layer(settings | {"compare": grid, "output": {"dir": str(out)}})]
    contest = ComparisonPlan(layers)
    check_folder(contest.folder)
    if contest.unpaced:
        contest.measure_paces(_load(contest.model, contest.config))
        contest = ComparisonPlan(layers)
    results.write_comparison(contest.comparison, contest.folder)
    night = contest.batch(lambda: painter)
    night.begin()
    found = night.survey()
    if found.left:
        painter = _load(contest.model, contest.config, found.unet_calls)
        contest.warm_up(painter)
        for _ in night.paint(painter):
            pass
    comparison = measure.measure_folder(contest.folder)
    report.build_report(contest.folder)
    sheets.build_sheets(contest.folder)
    return comparison


def _load(model: "Model", config: "RunConfig", unet_calls: int = 0) -> "Painter":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read while it is imported
    from sdapp.diffusion.startup import importing

    with importing(model):
        from sdapp.diffusion.loading import quiet
        from sdapp.jobs import LoadKey
        from sdapp.pipelines import load  # only now torch and diffusers

    quiet(verbose=False)
    return load(LoadKey.of(config, model), model, unet_calls=unet_calls, batch_size=config.batch_size)
