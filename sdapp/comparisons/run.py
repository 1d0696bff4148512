"""Run a comparison: paint its images, keep their latents, measure them, and write the report."""

import time
from collections.abc import Generator
from itertools import cycle
from pathlib import Path

from sdapp.batches.executors import Executor
from sdapp.batches.run import Batch, Wait
from sdapp.comparisons.cells import TABLE, Comparison, write_comparison
from sdapp.comparisons.folder import keep_latents
from sdapp.comparisons.measure import measure_folder
from sdapp.comparisons.pace import Pace, write_paces
from sdapp.comparisons.plan import ComparisonPlan, all_steps
from sdapp.comparisons.report.report import build_report
from sdapp.comparisons.report.sheets import build_sheets
from sdapp.errors import UnavailableError
from sdapp.jobs import Job, Work
from sdapp.outputs.files import check_folder
from sdapp.records import OnStep, Result
from sdapp.settings.sampling import SchedulerChoice


def paint_comparison(
    plan: ComparisonPlan,
    executor: Executor,
    on_step: OnStep | None = None,
    wait: Wait = lambda _: time.sleep(0.5),
) -> Generator[Result, None, None]:
    """Paint the images that the folder of a comparison lacks, and yield each once it is published.

    An image that fails is a result with its error. Raises SdappError.
    """
    plan = with_paces(plan, executor, on_step)
    check_folder(plan.folder)
    write_comparison(plan.comparison, plan.folder)
    batch = comparison_batch(plan, executor)
    batch.begin()
    found = batch.survey()
    if found.left:
        warm_up(plan, executor, on_step)
    yield from batch.paint(executor, found, on_step, wait)


def finish(folder: Path) -> tuple[Comparison, list[Path]]:
    """Measure what is in the folder of a comparison, finished or not; write report, sheets and tables.

    Returns the results and the files to look at. Raises MissingInputError, InputError, OutputError.
    """
    comparison = measure_folder(folder)
    return comparison, [build_report(folder), *build_sheets(folder), folder / TABLE]


def with_paces(plan: ComparisonPlan, executor: Executor, on_step: OnStep | None = None) -> ComparisonPlan:
    """Time the schedulers that have no pace yet, if columns are seconds; return the plan with all paces."""
    if not plan.unpaced:
        return plan
    check_folder(plan.folder)
    paces = dict(plan.paces)
    for name in plan.unpaced:
        seconds = [_seconds(job, plan, executor, on_step) for job in plan.pace_jobs(name)]
        paces[name] = Pace.measured(*seconds[1:])
    write_paces(plan.folder, paces)
    return ComparisonPlan(plan.layers, plan.command)


def _seconds(job: Job, plan: ComparisonPlan, executor: Executor, on_step: OnStep | None = None) -> float:
    [result] = executor.paint(Work(plan.load, [job]), on_step)
    if result.record is None:
        raise UnavailableError(f"{job.scheduler.name} cannot be timed: {result.error}")
    return result.record.seconds


def comparison_batch(plan: ComparisonPlan, executor: Executor) -> Batch:
    """Make a batch of the images; it keeps their latents, and times each as often as the plan says."""
    items = plan.items()

    def keep(result: Result) -> None:
        work = Work(plan.load, [result.job] * (plan.grid.timings - 1 if result.image else 0))
        again = [each.record.seconds for each in executor.paint(work) if each.record] if work.jobs else []
        keep_latents(plan.folder, result, again)

    return Batch(lambda: items, plan.config, plan.load, retry_failed=True, keep=keep)


def warm_up(plan: ComparisonPlan, executor: Executor, on_step: OnStep | None = None) -> None:
    """Use each scheduler and prompt once, so that no image is slower because it is the first."""
    jobs = [item.job for item in plan.items()]
    kinds = {(job.prompt, job.negative_prompt, job.clip_skip, job.width, job.height): job for job in jobs}
    names = list(dict.fromkeys(job.scheduler.name for job in jobs))
    pairs = zip(cycle(kinds.values()), cycle(names), range(max(len(kinds), len(names))), strict=False)
    for job, name, _ in pairs:
        change = {
            "scheduler": SchedulerChoice(name=name),
            "steps": 2,
            "eta": None,
            "task": all_steps(job.task),
        }
        list(executor.paint(Work(plan.load, [job.model_copy(update=change)], keep_going=True), on_step))
