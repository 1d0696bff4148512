"""The command `sdapp grid`: one image for each combination of the values of up to three settings."""

import json
import shlex
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdapp.commands import completion
from sdapp.commands.estimates import Estimate, History
from sdapp.commands.options import DryRun, all_layers, out_folder, with_options
from sdapp.commands.running import CONTINUE, Session
from sdapp.commands.terminal import count, print_line, print_note, print_result
from sdapp.errors import JobsFailedError
from sdapp.grids.axes import read_axes
from sdapp.grids.plan import GridPlan

if TYPE_CHECKING:
    from sdapp.batches.run import Survey

AXIS = "such as guidance_scale=1-20 or prompt:castle=castle,house."
AXES = "Axes"  # a group of options in --help
GridPrompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to paint; else the config's prompt.", show_default=False),
]


AXIS_OPTION: dict[str, Any] = {
    "metavar": "KEY=LIST",
    "rich_help_panel": AXES,
    "autocompletion": completion.axis_keys,
}
X = Annotated[str | None, typer.Option("--x", help=f"What changes from left to right, {AXIS}", **AXIS_OPTION)]
Y = Annotated[str | None, typer.Option("--y", help="What changes from top to bottom.", **AXIS_OPTION)]
Z = Annotated[str | None, typer.Option("--z", help="What changes from table to table.", **AXIS_OPTION)]


@with_options("count", own={"output.dir": out_folder("grid")})
def grid(
    options: dict[str, Any],
    prompt: GridPrompt = None,
    x: X = None,
    y: Y = None,
    z: Z = None,
    dry_run: DryRun = False,
) -> None:
    """Paint a grid: an image for each combination of values, a labelled sheet and a page to compare them.

    An axis is any setting of an image: scheduler, steps, model, vae, loras …

    Also: prompt:WORD (what stands in its place), lora:NAME (its weights), size.

    Ranges: 1-20, 5-50:5 (every fifth), 1-10[4] (four values).

    Stop it at any time and run it again: it continues with what is missing.

    Examples:

    sdapp grid "a castle at night" --x guidance_scale=1-20 --y scheduler=euler-a,unipc

    sdapp grid "a red house" --x prompt:red=red,blue,white --y steps=5,10,20 --z seed=1-3 --out houses
    """
    axes = read_axes({"x": x, "y": y, "z": z})
    layers = all_layers(options, {"prompt": prompt})
    plan = GridPlan(layers, axes, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    session = Session(options["verbose"], CONTINUE)
    session.notes.tell(plan.notes)
    found = _tell_work(plan)
    if dry_run:
        _list(plan, options["json"])
    else:
        _paint_missing(plan, session, found, as_json=options["json"])


def _paint_missing(plan: GridPlan, session: Session, found: "Survey", as_json: bool) -> None:
    from sdapp.grids.run import finish_grid, paint_grid

    if found.left:
        with (
            session.begin(dict(plan.models), found.left, History(plan.load)),
            closing(paint_grid(plan, session.executor, session.on_step, session.wait)) as results,
        ):
            for result in results:
                session.tell_result(result)
                if as_json:
                    print_result(result, as_json)
    else:
        [*paint_grid(plan, session.executor)]  # writes what the grid is
    grid, files = finish_grid(plan.folder)
    for file in [] if as_json else files:
        print_line(file)
    if failed := [cell for cell in grid.cells if cell.status == "failed"]:
        raise JobsFailedError(
            f"{len(failed)} of {count(len(grid.cells), 'image')} failed; {files[0]} says why; "
            "run the same command again to try them again"
        )


def report_grid(folder: Path, as_json: bool) -> Path:
    """Make the page and the sheets of a grid again; print their paths, or each cell as JSON."""
    from sdapp.grids.run import finish_grid

    grid, files = finish_grid(folder)
    cells = (
        {
            "axes": dict(zip((axis.name for axis in grid.axes), grid.labels_at(cell), strict=True)),
            **asdict(cell),
        }
        for cell in grid.cells
    )
    for line in map(json.dumps, cells) if as_json else files:
        print_line(line)
    return next(path for path in files if path.suffix == ".html")


def _list(plan: GridPlan, as_json: bool) -> None:
    """List the cells with their values, as the dry run shows them."""
    for cell in plan.cells:
        values = {axis.name: axis.labels[index] for axis, index in zip(plan.axes, cell.place, strict=True)}
        text = "\t".join(f"{name} {value}" for name, value in values.items())
        facts = {"axes": values, "seed": cell.job.seed, "job": cell.job.to_data()}
        print_line(json.dumps(facts, ensure_ascii=False) if as_json else f"{text}\tseed {cell.job.seed}")


def _tell_work(plan: GridPlan) -> "Survey":
    """Print what a grid needs: images, models, UNet calls, time, disk, sheets; return what is left."""
    from sdapp.grids.run import grid_batch
    from sdapp.grids.sheets import plan_grid_sheets

    estimate = Estimate(History(plan.load))
    found = grid_batch(plan).survey(lambda item: estimate.add(item.job))
    shape = " × ".join(str(len(axis.values)) for axis in plan.axes) + " = " if len(plan.axes) > 1 else ""
    parts = [f"{shape}{count(plan.size, 'cell')}: {count(found.images, 'image')}"]
    parts += [f"{found.done} done, {found.left} to paint with {found.unet_calls} UNet calls"]
    parts += [f"{len(plan.models)} loads of a model"] if len(plan.models) > 1 else []
    parts += [estimate.in_words(plan.folder)] if found.left else []
    jobs = [cell.job for cell in plan.cells]
    largest = max(job.final_width for job in jobs), max(job.final_height for job in jobs)
    sheets = [f"{width}x{height}" for width, height in plan_grid_sheets(plan.grid, largest)]
    parts += [f"contact sheet{'s' if len(sheets) > 1 else ''} of {', '.join(sheets)}"]
    print_note("; ".join(parts))
    return found
