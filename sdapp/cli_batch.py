"""The command `sdapp batch`: prompt files that finish, however often they are stopped."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.batch import NAME, PromptFile, paint_rest, survey, tidy
from sdapp.config import RunConfig, validate
from sdapp.console import announce, interruptible, progress, tell
from sdapp.errors import JobsFailedError
from sdapp.flags import all_layers, with_flags
from sdapp.jobs import Job
from sdapp.layers import merge, override
from sdapp.ledger import LEDGER, base_seed, finished, sweep
from sdapp.ledger import failed as failed_jobs
from sdapp.models import locate
from sdapp.outputs import Result, check_folder
from sdapp.painting import load_painter
from sdapp.variants import Seeds


@with_flags
def batch(
    flags: dict[str, Any],
    file: Annotated[Path, typer.Argument(help="Prompts: .txt, .csv, .tsv, .jsonl or .yaml; - for stdin.", show_default=False)],
    seeds: Annotated[Seeds, typer.Option("--seeds", help="How lines without a seed get theirs.")] = "derived",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be painted, and stop.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.")] = False,
) -> None:
    """Paint every line of a prompt file. Stop it whenever you like and run it again: it goes on with what is not done.

    Examples:

    sdapp batch prompts.txt --out night

    sdapp batch prompts.csv --out night --set batch_size=4 --scheduler unipc --seed 7
    """
    base = [override("output.name", NAME, "sdapp batch"), *all_layers(flags, [])]
    config = validate(merge(base))
    model, folder = locate(config.model, config.revision), Path(config.output.dir)
    begun = base_seed(folder, config.seed, keep=False)
    prompts = PromptFile(sys.stdin.buffer.read() if file == Path("-") else file, base, model, seeds, begun)
    done, failed = finished(folder), set() if retry_failed else failed_jobs(folder)
    found = survey(prompts.orders(), done, failed)
    tell(
        f"{found.pictures} picture{'' if found.pictures == 1 else 's'}: {found.done} done, {found.failed} failed before, "
        f"{found.left} to paint with {found.unet_calls} UNet calls"
    )
    if dry_run:
        for order in prompts.orders():
            if order.job.id not in done and order.job.id not in failed:
                typer.echo(f"line {order.line}\tseed {order.job.seed}\t{order.job.prompt}")
        return
    check_folder(folder)
    base_seed(folder, begun)  # kept only now, when the file is known to be good
    sweep(folder)
    if found.left:
        paint_batch(prompts, config, flags, found.left, {*done, *failed})
    tidy(prompts.orders(), folder)
    if broken := failed_jobs(folder):
        raise JobsFailedError(f"{len(broken)} of {found.pictures} pictures failed; {folder / LEDGER} says why; "
                              "--retry-failed tries them again")  # fmt: skip


def paint_batch(prompts: PromptFile, config: RunConfig, flags: dict[str, Any], left: int, past: set[str]) -> None:
    """Paint what is left of a prompt file; a signal ends it between two steps."""
    painted = 0

    def told() -> str:
        return f"{painted} done, {left - painted} left; run the same command again to go on"

    with interruptible(told) as check, progress(left, prompts.model.name) as on_step:
        painter = load_painter(prompts.model, config, flags["verbose"])
        check()

        def step(_first: int, together: int, number: int, of: int) -> None:
            check()
            on_step(painted, together, number, of)

        def paint_jobs(jobs: list[Job]) -> Iterator[Result]:
            return painter.paint(jobs, config.batch_size, step, keep_going=True)

        for result, path in paint_rest(prompts.orders(), past, config.output, paint_jobs):
            painted += 1
            announce(result, path, flags["json"])
