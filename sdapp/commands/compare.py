"""The commands `sdapp compare` and `sdapp report`."""

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdapp.batches.run import Batch
from sdapp.commands import completion
from sdapp.commands.estimates import Estimate, History
from sdapp.commands.gallery import open_page, report_gallery
from sdapp.commands.grid import report_grid
from sdapp.commands.options import RAY, RUN, DryRun, all_layers, option, out_folder, with_options
from sdapp.commands.running import CONTINUE, Session
from sdapp.commands.terminal import count, print_line, print_note, say
from sdapp.errors import ConfigError, JobsFailedError
from sdapp.grids.folder import GRID_FILE
from sdapp.schedulers import resolve
from sdapp.settings.files import parse_override
from sdapp.settings.grid import Match
from sdapp.settings.layers import Layer, merge
from sdapp.settings.ranges import numbers
from sdapp.validation import validate

if TYPE_CHECKING:  # these import numpy
    from sdapp.comparisons.cells import Comparison
    from sdapp.comparisons.plan import ComparisonPlan
    from sdapp.comparisons.statistics import Summary

GRID = "Comparison"  # a group of options in --help
GRID_OPTIONS: dict[str, Any] = {
    "executor.address": RAY,
    "compare.schedulers": option(
        str,
        "--schedulers",
        metavar="LIST",
        help="Names, such as ddim,unipc; default: those used most.",
        complete=completion.listed(completion.SCHEDULERS),
        panel=GRID,
    ),
    "compare.steps": option(
        str, "--steps", metavar="LIST", help="Budgets, such as 5,10,20-50:10.", panel=GRID
    ),
    "compare.seeds": option(str, "--seeds", metavar="LIST", help="Seeds, such as 1,2,3 or 1-8.", panel=GRID),
    "compare.match": Annotated[
        Match | None,
        typer.Option(
            "--match",
            help="What is equal within a column; default: unet-calls.",
            show_default=False,
            rich_help_panel=GRID,
        ),
    ],
    "compare.timings": option(
        int,
        "--timings",
        help="Paint each image this many times; the median of the seconds counts.",
        panel=GRID,
    ),
    "output.dir": out_folder("comparison"),
}
Prompts = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="What to paint.", show_default=False)
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=LIST",
        help="Repeat the comparison at values of a setting, such as guidance_scale=3,7. Can be repeated.",
        autocompletion=completion.varied_keys,
        rich_help_panel=GRID,
    ),
]
Truth = Annotated[
    bool,
    typer.Option(
        "--truth", help="Without a model: errors where the exact solution is known.", rich_help_panel=RUN
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON for each image instead of the paths.")
]
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="A folder of a comparison, a grid, a batch or images.", show_default=False
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]

TRUTH_KEYS = {"schedulers", "steps", "match"}  # of the grid; --truth uses no other setting


@with_options("steps", "scheduler", "seed", "count", own=GRID_OPTIONS)
def compare(
    options: dict[str, Any],
    prompts: Prompts = None,
    vary: Vary = None,
    truth: Truth = False,
    dry_run: DryRun = False,
) -> None:
    """Compare schedulers by measured error: a verdict, a report to look at, contact sheets, tables.

    Stop it at any time and run it again: it continues with what is missing.

    Without --schedulers it compares those that are used most.

    To see many values of another setting, `sdapp grid` needs fewer images.

    Examples:

    sdapp compare "a castle at night"

    sdapp compare "a castle at night" --schedulers pndm,ddim,lms,dpm++2m --steps 5,10,20,50 --seeds 1,2,3

    sdapp compare --config configs/compare-schedulers.yaml

    sdapp compare --truth
    """
    own = {"compare.prompts": prompts or None, "compare.vary": _varied(vary) if vary else None}
    layers = all_layers(options, own)
    if truth and options["json"]:
        raise ConfigError("--json: --truth prints a table; leave out one of the two")
    if truth:
        print_line(_truth(layers))
    else:
        _compare(layers, dry_run, options)


def report(folder: Folder, as_json: AsJson = False, show_page: Open = False) -> None:
    """Make a page of what is in a folder: the report of a comparison, the page of a grid, or a gallery of
    a batch or of any images with settings inside. They may be unfinished.

    Examples:

    sdapp report comparison

    sdapp report night --open
    """
    if (folder / "comparison.json").exists():
        from sdapp.comparisons.run import finish

        comparison, files = finish(folder)
        _print_comparison(comparison, files, as_json)
        page = next(path for path in files if path.suffix == ".html")
    elif (folder / GRID_FILE).exists():
        page = report_grid(folder, as_json)
    else:
        page = report_gallery(folder, as_json)
    if show_page:
        open_page(page)


def _compare(layers: list[Layer], dry_run: bool, options: dict[str, Any]) -> None:
    from sdapp.comparisons.cells import to_json
    from sdapp.comparisons.plan import ComparisonPlan
    from sdapp.comparisons.run import finish, paint_comparison, with_paces
    from sdapp.comparisons.verdict import unranked

    plan = ComparisonPlan(layers, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    session = Session(options["verbose"], CONTINUE)
    session.notes.tell(plan.notes)
    images = _tell_size(plan)
    if dry_run:
        if random := unranked(plan.comparison):  # else the verdict says it
            print_note(random)
        for cell in plan.comparison.cells if options["json"] else ():
            print_line(to_json(cell))
        return
    where = plan.config.executor
    with session.begin({plan.load: plan.model}, images, History(plan.load), where=where):
        if plan.unpaced:
            plan = with_paces(plan, session.executor, session.on_step)
            session.images = _tell_size(plan)
        with closing(paint_comparison(plan, session.executor, session.on_step, session.wait)) as results:
            for result in results:
                session.tell_result(result)
    comparison, files = finish(plan.folder)
    _print_comparison(comparison, files, options["json"])
    if failed := [cell for cell in comparison.cells if cell.status == "failed"]:
        raise JobsFailedError(f"{len(failed)} of {len(comparison.cells)} images failed; the report says why")


# --- settings -----------------------------------------------------------------------------------------------


def _varied(texts: list[str]) -> dict[str, list[Any]]:
    varied: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            way = "write it as KEY=VALUE,VALUE, such as guidance_scale=3,5,7.5"
            raise ConfigError(f"--vary: {way}, not {text!r}")
        if key in varied:
            raise ConfigError(f"--vary: {key} is given twice; put all its values into one --vary {key}=")
        try:
            varied[key] = list(numbers(values))
        except ValueError:  # not numbers
            parts = [value.strip() for value in values.split(",")]
            read = [parse_override(f"value={part}").values["value"] for part in parts]
            # `[a|b]` is a list to YAML, but part of a prompt here.
            varied[key] = [
                part if isinstance(each, list) else each for each, part in zip(read, parts, strict=True)
            ]
    return varied


def _truth(layers: list[Layer]) -> str:
    """The errors on data with a known solution, for the schedulers that were asked for, or for all."""
    from sdapp.comparisons import analytic
    from sdapp.comparisons.plan import most_steps

    merged = merge(layers)
    asked = merged.values.get("compare") or {}
    unused = [*(merged.values.keys() - {"compare"}), *(f"compare.{key}" for key in asked.keys() - TRUTH_KEYS)]
    if unused:
        print_note(f"no effect with --truth: {', '.join(sorted(unused))}")
    asked.setdefault("schedulers", list(analytic.deterministic()))
    grid = validate(merge([Layer({"compare": asked}, merged.origins)])).compare
    if grid is None or grid.match == "seconds":
        raise ConfigError("--truth: it measures no seconds; match unet-calls or steps")
    if random := [name for name in grid.schedulers if resolve(name).stochastic]:
        steady = ",".join(name for name in grid.schedulers if name not in random)
        way = f"--schedulers {steady}" if steady else "leave out --schedulers to see all that have one"
        raise ConfigError(
            f"--truth: {', '.join(random)}: new noise in every step leads to no exact end, so no error; {way}"
        )
    columns = {}
    for budget in map(int, grid.steps):
        steps = ((name, most_steps(grid, name, budget)) for name in grid.schedulers)
        columns[budget] = analytic.measure_all((name, number) for name, number in steps if number)
    return analytic.render_table(columns)


# --- printing -----------------------------------------------------------------------------------------------


def _tell_size(plan: "ComparisonPlan") -> int:
    """Print what a comparison needs: images, UNet calls, time, disk. Return how many images are left."""
    from sdapp.comparisons.report import sheets

    comparison, items, times = plan.comparison, plan.items(), plan.grid.timings
    batch, estimate = Batch(lambda: items, plan.config, plan.load), Estimate(History(plan.load))
    found = batch.survey(lambda item: estimate.add(item.job, times))
    size = (items[0].job.final_width, items[0].job.final_height)
    planned = sheets.plan_sheets(
        size, comparison.schedulers, len(comparison.columns), len(comparison.references)
    )
    work = (
        f"{found.images} images, {found.done} done, {found.left} to paint "
        f"with {times * found.unet_calls} UNet calls; {estimate.in_words(plan.folder)}"
    )
    if plan.unpaced:
        work = "the steps and the time they need will be known when each scheduler was timed"
    cells = count(len(comparison.cells), "cell")
    references = count(2 * len(comparison.references), "reference image")
    sizes = ", ".join(f"{width}x{height}" for width, height in planned)
    print_note(f"{cells} and {references}: {work}; contact sheet{'s' if len(planned) > 1 else ''} of {sizes}")
    return found.left


def _print_comparison(comparison: "Comparison", files: list[Path], as_json: bool) -> None:
    """Print the paths of report, sheets and table, or each cell as JSON; verdict and ranking on stderr."""
    from sdapp.comparisons.cells import to_json
    from sdapp.comparisons.verdict import verdict

    for line in map(to_json, comparison.cells) if as_json else files:
        print_line(line)
    say(f"{_ranking(comparison)}\n{verdict(comparison)}")


def _ranking(comparison: "Comparison") -> str:
    """List the schedulers in the column that the report is sorted by, tied ones with the same place."""
    from sdapp.comparisons.cells import budget
    from sdapp.comparisons.statistics import middle, rank, summarise

    column = middle(comparison)
    summaries = {item.scheduler: item for item in summarise(comparison) if item.column == column}
    names = rank(comparison, column)
    width, places = max(map(len, [*names, "scheduler"])), [item.place for item in summaries.values()]
    lines = [
        f"at {budget(column, comparison.match)}, by median solver error:",
        f"{'':4} {'scheduler':<{width}}  {'solver error':<16}  seconds",
    ]
    for item in (summaries[name] for name in names):
        tied = places.count(item.place) > 1
        place = f"{item.place}{'=' if tied else ' '}" if item.place else ""
        seconds = f"{item.seconds.median:.2f}" if item.seconds else ""
        lines.append(f"{place:>4} {item.scheduler:<{width}}  {_error(item):<16}  {seconds}".rstrip())
    return "\n".join(lines)


def _error(item: "Summary") -> str:
    if item.solver_error is None:
        return "stochastic" if item.stochastic else "not measured"
    partly = f" ({item.measured} of {item.of})" if item.is_partial else ""
    return f"{item.solver_error.median:.4f}{partly}"
