"""Paint a grid: the images that its folder lacks, and the sheets and the page of what is there."""

import time
from collections.abc import Generator
from pathlib import Path

from sdapp.batches.executors import Executor
from sdapp.batches.run import Batch, Wait
from sdapp.grids.folder import ImageGrid, read_grid, write_grid
from sdapp.grids.page import build_page
from sdapp.grids.plan import GridPlan
from sdapp.grids.sheets import draw_grid
from sdapp.outputs.files import check_folder
from sdapp.records import OnStep, Result


def grid_batch(plan: GridPlan) -> Batch:
    """Make a batch of the images of a grid; what failed before is tried again."""
    items = plan.items()
    return Batch(lambda: items, plan.config, plan.load, retry_failed=True)


def paint_grid(
    plan: GridPlan,
    executor: Executor,
    on_step: OnStep | None = None,
    wait: Wait = lambda _: time.sleep(0.5),
) -> Generator[Result, None, None]:
    """Paint the images that the folder of a grid lacks, and yield each once it is published.

    An image that fails is a result with its error. Raises SdappError.
    """
    check_folder(plan.folder)
    write_grid(plan.grid, plan.folder)
    batch = grid_batch(plan)
    batch.begin()
    yield from batch.paint(executor, batch.survey(), on_step, wait)


def finish_grid(folder: Path) -> tuple[ImageGrid, list[Path]]:
    """Make the page and the sheets of a grid, finished or not, from what is in its folder.

    Returns the grid and the files to look at. Raises MissingInputError, InputError, OutputError.
    """
    grid = read_grid(folder)
    write_grid(grid, folder)
    return grid, [build_page(grid, folder), *draw_grid(grid, folder)]
