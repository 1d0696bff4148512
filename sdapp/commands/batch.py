"""The command `sdapp batch`: prompt files that finish, however often they are stopped."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.batches.items import Item, Shard
from sdapp.batches.ledger import LEDGER_FILE
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.run import Batch, Survey
from sdapp.batches.seed_state import STATE_FILE
from sdapp.commands.estimates import Estimate, History
from sdapp.commands.options import all_layers, with_flags
from sdapp.commands.running import paint_batch
from sdapp.commands.terminal import print_note, print_result
from sdapp.errors import ConfigError, JobsFailedError, OutputError
from sdapp.models.locate import Model
from sdapp.prompts.seeds import Seeds
from sdapp.prompts.tokens import cut

MOST_TOLD = 20  # prompts that are too long, one by one


@with_flags
def batch(  # noqa: PLR0913 - a flag is an argument
    flags: dict[str, Any],
    file: Annotated[
        Path,
        typer.Argument(help="Prompts: .txt, .csv, .tsv, .jsonl or .yaml; - for stdin.", show_default=False),
    ],
    seeds: Annotated[
        Seeds | None,
        typer.Option("--seeds", help="How lines without a seed get theirs.", show_default="derived"),
    ] = None,
    shard: Annotated[
        str,
        typer.Option("--shard", metavar="I/N", help="Paint the I-th of N parts, on a machine of its own."),
    ] = "1/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list what would be painted, and stop.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="List the images that no line asks for any more, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: remove them.")] = False,
) -> None:
    """Paint every line of a prompt file. Stop it whenever you like and run it again: it goes on with what is not done.

    Several runs may share a folder: each paints what no other does.

    Examples:

    sdapp batch prompts.txt --out night

    sdapp batch prompts.csv --out night --scheduler unipc --seed 7 --shard 1/4
    """
    if yes and not prune:
        raise ConfigError("--yes: what for? It goes with --prune")
    content = sys.stdin.buffer.read() if file == Path("-") else file
    prompts = PromptFile.open(content, all_layers(flags, []), seeds)
    night = Batch(prompts.orders, prompts.config, Shard.parse(shard), retry_failed)
    if prune:
        _prune(night, prompts, yes and not dry_run)
        return
    history = History(night.config.device)
    found = _survey(night, prompts.model, history, dry_run)
    if dry_run:
        if found.left and not prompts.is_begun():
            print_note("seeds, and what follows from them, will be drawn anew; --seed fixes them")
        return
    night.begin()
    if (kept := prompts.keep()) != prompts:  # another run has just begun the folder, with another base seed
        prompts, night = kept, Batch(kept.orders, kept.config, night.shard, retry_failed)
        found = _survey(night, prompts.model, history, dry_run)
    if found.left:
        with closing(paint_batch(night, prompts.model, flags["verbose"], found)) as results:
            for result in results:
                print_result(result, flags["json"])
    else:
        night.tidy()
    if broken := night.failures():
        raise JobsFailedError(f"{broken} of {found.images} images failed; {night.folder / LEDGER_FILE} says why; "
                              "--retry-failed tries them again")  # fmt: skip


def _survey(night: Batch, model: Model, history: History, dry_run: bool) -> Survey:
    """Count, estimate, and tell; a dry run lists what is left, and what of its prompts is too long."""
    estimate, long = Estimate(history), 0

    def look(order: Item) -> None:
        nonlocal long
        estimate.add(order.job)
        if dry_run:
            typer.echo(f"line {order.line}\tseed {order.job.seed}\t{order.job.prompt}")
            for note in cut(order.job, model):
                long += 1
                if long <= MOST_TOLD:
                    print_note(f"line {order.line}: {note}")

    found = night.survey(look)
    if long > MOST_TOLD:
        print_note(f"and {long - MOST_TOLD} more prompts that are too long")
    told = [
        f"{found.images} image{'' if found.images == 1 else 's'}: {found.done} done, {found.failed} failed before, "
        f"{found.left} to paint with {found.unet_calls} UNet calls"
    ]
    told += [f"{found.repeated} asked for more than once"] if found.repeated else []
    told += [estimate.told(night.folder)] if found.left else []
    print_note("; ".join(told))
    return found


def _prune(night: Batch, prompts: PromptFile, remove: bool) -> None:
    if not prompts.is_begun():
        raise OutputError(
            f"{night.folder}: {STATE_FILE} is missing, so nobody knows which images were asked for; say --seed"
        )
    strays = night.strays()
    for path in strays:
        if remove:
            path.unlink()
        typer.echo(path)
    if remove and strays:
        night.tidy()
    count = f"{len(strays)} image{'' if len(strays) == 1 else 's'} that no line asks for"
    print_note(f"{count}, removed" if remove else f"{count}; --prune --yes removes them" if strays else count)
