"""The commands `sdapp compare` and `sdapp report`: schedulers held against each other, to look at and to compute with."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdapp.batches.run import Batch
from sdapp.commands.estimates import Estimate, History
from sdapp.commands.notes import notes_before_painting
from sdapp.commands.options import all_layers, without
from sdapp.commands.running import load_painter, paint_batch
from sdapp.commands.terminal import print_note
from sdapp.config import validate
from sdapp.errors import ConfigError, JobsFailedError
from sdapp.outputs.files import check_folder
from sdapp.schedulers import resolve
from sdapp.settings.files import parse_override
from sdapp.settings.grid import Match
from sdapp.settings.layers import Layer, merge, override
from sdapp.settings.ranges import numbers

if TYPE_CHECKING:  # what imports numpy and more
    from sdapp.comparisons.cells import Comparison
    from sdapp.comparisons.plan import ComparisonPlan
    from sdapp.pipelines import Painter


@without("steps", "scheduler", "seed", "count")
def compare(  # noqa: PLR0913 - a flag is an argument
    flags: dict[str, Any],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to paint.", show_default=False)
    ] = None,
    schedulers: Annotated[
        str | None,
        typer.Option(
            "--schedulers", metavar="LIST", help="Names, such as pndm,ddim,dpm++2m.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", metavar="LIST", help="Budgets, such as 5,10,20-50:10.", show_default=False),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="LIST", help="Seeds, such as 1,2,3 or 1-8.", show_default=False),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="KEY=LIST", help="Another key, such as guidance_scale=3,5,7.5."),
    ] = None,
    match: Annotated[
        Match | None,
        typer.Option("--match", help="What is equal within a column.", show_default="unet-calls"),
    ] = None,
    timings: Annotated[
        int | None, typer.Option("--timings", help="Time each image so often; the median counts.")
    ] = None,
    truth: Annotated[
        bool, typer.Option("--truth", help="Without a model: errors where the exact end is known.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what it would take, and stop.")
    ] = False,
) -> None:
    """Compare schedulers: a report to look at, contact sheets to paste, tables to compute with.

    Stop it whenever you like and run it again: it goes on with what is not done.

    Examples:

    sdapp compare "a castle on a beach at night" --schedulers pndm,ddim,lms,dpm++2m --steps 5,10,20,50 --seeds 1,2,3

    sdapp compare --config configs/compare-schedulers.yaml

    sdapp compare --truth
    """
    said = {"schedulers": schedulers, "steps": steps, "seeds": seeds, "match": match, "timings": timings}
    own = [override(f"compare.{key}", value, f"--{key}") for key, value in said.items() if value is not None]
    own += [override("compare.prompts", prompts, "PROMPT")] if prompts else []
    own += [_vary(vary)] if vary else []
    layers = all_layers(flags, own)
    if truth:
        typer.echo(_truth(layers))
    else:
        _compare(layers, dry_run, flags["verbose"], flags["json"])


def _compare(layers: list[Layer], dry_run: bool, verbose: bool, as_json: bool) -> None:
    from sdapp.comparisons import cells as results
    from sdapp.comparisons import measure
    from sdapp.comparisons.plan import ComparisonPlan

    contest = ComparisonPlan(layers)
    for note in notes_before_painting(contest.config, contest.model, next(contest.orders()).job):
        print_note(note)
    print_note(_describe_size(contest))
    if dry_run:
        return
    check_folder(contest.folder)
    if contest.unpaced:
        contest.measure_paces(load_painter(contest.model, contest.config, verbose))
        contest = ComparisonPlan(layers)
        print_note(_describe_size(contest))
    results.write_comparison(contest.comparison, contest.folder)
    _paint(contest, verbose)
    comparison = measure.measure_folder(contest.folder)
    _show(contest.folder, comparison, as_json)
    if failed := [cell for cell in comparison.cells if cell.status == "failed"]:
        raise JobsFailedError(f"{len(failed)} of {len(comparison.cells)} images failed; the report says why")


def report_again(
    folder: Annotated[
        Path, typer.Argument(help="The folder of a comparison, finished or not.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an image on stdout.")] = False,
) -> None:
    """Make the report and the contact sheets of a comparison anew, from what is in its folder.

    Example:

    sdapp report comparison
    """
    from sdapp.comparisons import measure

    _show(folder, measure.measure_folder(folder), as_json)


# --- settings -----------------------------------------------------------------------------------------------------


def _vary(texts: list[str]) -> Layer:
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise ConfigError(
                f"--vary: write it as KEY=VALUE,VALUE, such as guidance_scale=3,5,7.5, not {text!r}"
            )
        if key in found:
            raise ConfigError(f"--vary: {key} is given twice; put all of its values behind one --vary {key}=")
        try:
            found[key] = list(numbers(values))
        except ValueError:  # no numbers
            found[key] = [
                parse_override(f"value={value.strip()}").values["value"] for value in values.split(",")
            ]
    return override("compare.vary", found, "--vary")


def _truth(layers: list[Layer]) -> str:
    """The truth bench for the schedulers that were asked for, or for all."""
    from sdapp.comparisons import analytic
    from sdapp.comparisons.plan import ComparisonPlan

    merged = merge(layers)
    asked = merged.values.get("compare") or {}
    asked.setdefault("schedulers", list(analytic.deterministic()))
    grid = validate(merge([Layer({"compare": asked}, merged.origins)])).compare
    if grid is None or grid.match == "seconds":
        raise ConfigError("--truth: there are no seconds on the truth bench; match unet-calls or steps")
    if random := [name for name in grid.schedulers if resolve(name).stochastic]:
        steady = ",".join(name for name in grid.schedulers if name not in random)
        mend = f"--schedulers {steady}" if steady else "leave --schedulers out to see all that have one"
        raise ConfigError(
            f"--truth: {', '.join(random)}: new noise in every step leads to no exact end, so no error; {mend}"
        )
    columns = {}
    for budget in map(int, grid.steps):
        steps = ((name, ComparisonPlan.steps_of(grid, name, budget)) for name in grid.schedulers)
        columns[budget] = analytic.measure_all((name, count) for name, count in steps if count)
    return analytic.render_table(columns)


# --- painting -----------------------------------------------------------------------------------------------------


def _describe_size(contest: "ComparisonPlan") -> str:
    """What it will take, before torch is imported: images, UNet calls, time, disk, sheets. Raises ConfigError."""
    from sdapp.comparisons.report import sheets
    from sdapp.comparisons.report.format import counted

    comparison, times = contest.comparison, contest.grid.timings
    orders = list(contest.orders())
    night, estimate = Batch(lambda: orders, contest.config), Estimate(History(contest.config.device))
    found = night.survey(lambda order: estimate.add(order.job, times))
    size = (orders[0].job.width, orders[0].job.height)
    planned = sheets.plan_sheets(
        size, comparison.schedulers, len(comparison.columns), len(comparison.references)
    )
    sizes = ", ".join(f"{width}x{height}" for width, height in planned)
    if contest.unpaced:
        work = (
            "how many steps fit into the seconds, and what that takes, is known when each scheduler was timed"
        )
    else:
        work = (
            f"{found.images} images, {found.done} done, {found.left} to paint with {times * found.unet_calls} UNet calls; "
            f"{estimate.told(contest.folder)}"
        )
    return (
        f"{counted(len(comparison.cells), 'cell')} and {counted(len(comparison.references), 'reference')}: {work}; "
        f"contact sheet{'s' if len(planned) > 1 else ''} of {sizes}"
    )


def _paint(contest: "ComparisonPlan", verbose: bool) -> None:
    painter: list[Painter] = []

    def prepare(loaded: "Painter") -> None:
        painter.append(loaded)
        contest.warm_up(loaded)

    night = contest.batch(lambda: painter[0])
    night.begin()
    found = night.survey()
    if found.left:
        with closing(paint_batch(night, contest.model, verbose, found, prepare)) as painted:
            for result in painted:
                for note in result.record.notes if result.record else ():
                    print_note(note)


# --- showing ------------------------------------------------------------------------------------------------------


def _show(folder: Path, comparison: "Comparison", as_json: bool) -> None:
    """Build report and sheets, print their paths (or each cell), and say who came nearest."""
    from sdapp.comparisons import cells as results
    from sdapp.comparisons.report import report, sheets

    made = [report.build_report(folder), *sheets.build_sheets(folder), folder / results.TABLE]
    for line in map(results.to_json, comparison.cells) if as_json else made:
        typer.echo(line)
    typer.echo(_ranking(comparison), err=True)


def _ranking(comparison: "Comparison") -> str:
    """The schedulers at the last budget, nearest to the reference first."""
    from sdapp.comparisons.report.format import budget
    from sdapp.comparisons.statistics import band, rank, summarise

    column = comparison.columns[-1]
    summaries = {summary.scheduler: summary for summary in summarise(comparison) if summary.column == column}
    below = band(comparison)
    lines = [
        f"at {budget(column, comparison.match)}"
        + (f" (errors below {below:.3g} say nothing)" if below else "")
        + ":"
    ]
    for place, name in enumerate(rank(comparison, column), 1):
        error, seconds = summaries[name].solver_error, summaries[name].seconds
        far = (
            "stochastic"
            if summaries[name].stochastic
            else f"error {error.median:.4f}"
            if error
            else "nothing measured"
        )
        lines.append(f"{place:3} {name:<22}{far:<18}" + (f"{seconds.median:.2f} s" if seconds else ""))
    return "\n".join(lines)
