"""The command `sdapp batch`: prompt files that can be stopped and continued."""

import itertools
import json
import math
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from sdapp.batches.cluster import TOGETHER
from sdapp.batches.items import Asked, Item, Shard
from sdapp.batches.ledger import LEDGER_FILE, Line
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.prune import find_strays
from sdapp.batches.run import WINDOW, Batch, Survey
from sdapp.batches.seed_state import STATE_FILE
from sdapp.batches.stream import Arriving, arriving_lines
from sdapp.commands.estimates import Estimate, History, duration
from sdapp.commands.options import (
    IMAGE,
    OUT_FOLDER,
    RAY,
    RUN,
    DryRun,
    all_layers,
    option,
    with_options,
)
from sdapp.commands.running import CONTINUE, Session
from sdapp.commands.terminal import count, print_line, print_note, print_result, say
from sdapp.errors import (
    ConfigError,
    InterruptedRunError,
    JobsFailedError,
    MissingInputError,
    OutputError,
    SdappError,
)
from sdapp.models.model import Model
from sdapp.notes import LineNotes, notes_on_labels, notes_on_line, notes_on_place
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.seeds import Seeds
from sdapp.prompts.tokens import notes_on_length
from sdapp.records import Result

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Prompts: .txt, .csv, .tsv, .jsonl or .yaml; - for stdin.", show_default=False
    ),
]
SeedsMode = Annotated[
    Seeds | None,
    typer.Option(
        "--seeds",
        metavar="HOW",
        help="Seeds of lines without one: derived (the default), increment or same.",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
ShardText = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Paint the I-th of N parts, each on its own machine.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.", rich_help_panel=RUN)
]
SkipInvalid = Annotated[
    bool,
    typer.Option(
        "--skip-invalid",
        help="Paint the lines that are right; the ledger lists the others.",
        rich_help_panel=RUN,
    ),
]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune", help="List the images that no line asks for any more, and stop.", rich_help_panel=RUN
    ),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch", help="Paint what changed each time the file is saved, until Ctrl-C.", rich_help_panel=RUN
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="With --prune: remove them.", rich_help_panel=RUN)]

FROM_TERMINAL = "reading prompts from the terminal; Ctrl-D ends them"
SEED = "Base that the seeds of lines without one are made from; random if not given."
LINE_OPTIONS = {
    "executor.address": RAY,
    "seed": option(int, "--seed", "-s", help=SEED, panel=IMAGE),
    "count": option(
        int, "--count", help="Images of each line, each with another seed; default: 1.", panel=IMAGE
    ),
    "output.dir": OUT_FOLDER,
}


@with_options(own=LINE_OPTIONS)
def batch(  # noqa: PLR0913 - an option is an argument
    options: dict[str, Any],
    file: File,
    seeds: SeedsMode = None,
    shard: ShardText = "1/1",
    dry_run: DryRun = False,
    skip_invalid: SkipInvalid = False,
    retry_failed: RetryFailed = False,
    prune: Prune = False,
    yes: Yes = False,
    watch: Watch = False,
) -> None:
    """Paint every line of a prompt file; run it again to continue with what is missing.

    Several runs may share a folder: each paints what no other run paints.

    Examples:

    sdapp batch prompts.txt --out images

    sdapp batch prompts.csv --out images --scheduler unipc --seed 7 --shard 1/4
    """
    if yes and not prune:
        raise ConfigError("--yes: it goes with --prune; leave it out, or add --prune")
    if watch and (file == Path("-") or dry_run or prune or retry_failed):
        raise ConfigError("--watch: needs a file, and goes without --dry-run, --prune and --retry-failed")
    if file == Path("-") and sys.stdin is None:
        raise MissingInputError("-: standard input is closed; pipe the prompts into it, or give a file")
    read = partial(PromptFile.open, seeds=seeds, skip_invalid=skip_invalid)
    if watch:
        _watch(file, options, read, Shard.parse(shard))
        return
    is_live = file == Path("-") and not (dry_run or prune or _is_regular(sys.stdin))
    prompts = read(_content(file, is_live), all_layers(options))
    run = Batch.of(prompts, Shard.parse(shard), retry_failed)
    if is_live:
        _paint_arriving(run, prompts, options)
    elif prune:
        _prune(run, prompts, remove=yes and not dry_run, as_json=options["json"])
    elif dry_run:
        _dry_run(run, prompts, as_json=options["json"])
    else:
        _paint(run, prompts, options)


def _content(file: Path, is_live: bool) -> Path | bytes:
    """The file, or what standard input has: nothing yet if its lines are painted as they come."""
    if file != Path("-") or is_live:
        return b"" if is_live else file
    if sys.stdin.isatty():
        print_note(FROM_TERMINAL)
    return sys.stdin.buffer.read()


def _dry_run(run: Batch, prompts: PromptFile, as_json: bool) -> None:
    """List what is left, with notes on its lines, and estimate what it takes."""
    try:
        _survey(run, prompts.model, _item_as_json if as_json else _item_as_text)
    finally:
        prompts.keep_dry_run()  # also if a line is wrong: the next run has the seeds that were listed
    if skipped := _skipped(run):
        raise JobsFailedError(*skipped)


def _paint(run: Batch, prompts: PromptFile, options: dict[str, Any]) -> None:
    found = _survey(run, prompts.model)
    run.begin()
    if prompts.keep_seeds():  # another run has just begun the folder with another base seed
        found = _survey(run, prompts.model)
    session = Session(options["verbose"], CONTINUE)
    models, where = {run.load: prompts.model}, run.config.executor
    session.begin(models, found.left, History(run.load), lambda: run.progress, where)
    with session:
        _print_results(
            run.paint(session.executor, found, session.on_step, session.wait), session, options, run
        )
    _raise_failures(run, found.asked, _skipped(run))


def _skipped(run: Batch) -> tuple[str, ...]:
    """How many lines were skipped, if any."""
    lines = {line for line, _ in run.skipped().rows}
    way = "mend them and run the same command again"
    return (f"{count(len(lines), 'line')} of the prompt file skipped; {way}",) if lines else ()


def _raise_failures(run: Batch, asked: Asked, more: tuple[str, ...] = ()) -> None:
    """Raise JobsFailedError if images failed, or if there is `more` to say."""
    or_flagged = "" if run.config.safety_checker == "off" else " or were flagged"
    failed, images = run.failures(asked)
    if failed:
        why = f"{run.folder / LEDGER_FILE} says why; --retry-failed tries them again"
        more = (*more, f"{failed} of {images} images failed{or_flagged}; {why}")
    if more:
        raise JobsFailedError("\n".join(more))


def _print_results(
    results: Generator[Result, None, None], session: Session, options: dict[str, Any], run: Batch
) -> None:
    """Print each result, and at the end what became of them."""
    session.notes.tell(notes_on_place(run.config, may_use_cluster=True))
    outcome = _Outcome()
    with closing(results):
        for result in results:
            session.tell_result(result)
            print_result(result, options["json"])
            outcome.add(Line.of(result, result.path))
    if outcome.counts:
        print_note(f"{outcome.in_words()}; images and {LEDGER_FILE} are in {run.folder}")


def _is_regular(stream: TextIO) -> bool:
    """Whether all lines of a stream are there already: it is a file, or not of the system."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return True


def _paint_arriving(run: Batch, prompts: PromptFile, options: dict[str, Any]) -> None:
    """Paint the lines of standard input as they come; tell their errors at once."""
    run.begin()
    prompts.keep_seeds()
    session = Session(options["verbose"], CONTINUE)
    models, where = {run.load: prompts.model}, run.config.executor
    session.begin(models, 0, History(run.load), lambda: run.progress, where)
    wrong = 0

    def tell(found: Survey, items: list[Item], errors: PromptFileError) -> None:
        nonlocal wrong
        wrong += errors.count
        session.images = run.progress + found.left
        notes = LineNotes()
        for item in items:
            notes.add(item.line, (*item.notes, *notes_on_line(run.config, prompts.model, item.job)))
        session.notes.tell(notes.texts())
        if found.done:
            print_note(f"{count(found.done, 'image')} done before")
        for line in str(errors).splitlines():
            say(f"error: {line}")

    with session:
        if sys.stdin.isatty():
            print_note(FROM_TERMINAL)
        # Not sys.stdin: a thread that waits for it would break the end of the interpreter.
        stdin = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
        texts = arriving_lines(stdin, session.rest)
        hooks = tell, session.on_step, session.wait
        arriving = Arriving(prompts, run)
        _print_results(arriving.paint(texts, session.executor, *hooks), session, options, run)
    left_out = (f"{count(wrong, 'error')} in lines, which were left out",) if wrong else ()
    _raise_failures(run, arriving.asked, left_out)


def _watch(file: Path, options: dict[str, Any], read: Callable[..., PromptFile], shard: Shard) -> None:
    """Paint what is missing each time the file is saved; tell its errors, and wait again."""
    session = Session(options["verbose"])
    with session:
        while True:
            saved = _saved(file)
            try:
                prompts = read(file, all_layers(options))
                run = Batch.of(prompts, shard)
                found = _survey(run, prompts.model)
                run.begin()
                if prompts.keep_seeds():
                    found = _survey(run, prompts.model)
                models, where = {run.load: prompts.model}, run.config.executor
                session.begin(models, found.left, History(run.load), where=where)
                results = run.paint(session.executor, found, session.on_step, session.wait)
                _print_results(results, session, options, run)
            except InterruptedRunError:
                raise
            except SdappError as exc:
                for line in str(exc).splitlines():
                    say(f"error: {line}")
            print_note(f"waiting until {file} is saved; Ctrl-C ends this")
            while _saved(file) == saved:
                session.rest(0.3)


def _saved(file: Path) -> tuple[int, ...]:
    """What changes when a file is saved, also by an editor that replaces it."""
    with suppress(OSError):
        found = file.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return ()


@dataclass
class _Outcome:
    """What became of the images of a run, the time that each took, and the line that took the longest."""

    begun: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)  # images, by what became of them
    timed: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)  # seconds, line

    def add(self, line: Line) -> None:
        self.counts[line.status] += 1
        if line.status == "done" and line.seconds is not None:
            self.timed, self.seconds = self.timed + 1, self.seconds + line.seconds
            self.slowest = max(self.slowest, (line.seconds, line.prompt_line))

    def in_words(self) -> str:
        kinds = (kind for kind in ("done", "failed", "flagged") if kind == "done" or self.counts[kind])
        taken = duration(time.monotonic() - self.begun)
        text = f"{', '.join(f'{self.counts[kind]} {kind}' for kind in kinds)} in {taken}"
        if self.timed:
            seconds, number = self.slowest
            pace = duration(self.seconds / self.timed)
            text += f", {pace} an image; the slowest, of line {number}, took {duration(seconds)}"
        return text


def _item_as_text(item: Item) -> str:
    return f"line {item.line}\tseed {item.job.seed}\t{' '.join(item.job.prompt.split())}"


def _item_as_json(item: Item) -> str:
    facts = {"line": item.line, "seed": item.job.seed, "choices": dict(item.choices)}
    facts |= {"labels": dict(item.labels)} if item.labels else {}
    facts |= {"job": item.job.to_data()}
    return json.dumps(facts, ensure_ascii=False)


def _survey(run: Batch, model: Model, listed: Callable[[Item], str] | None = None) -> Survey:
    """Count the images; print notes on the lines, how many images there are, and what they take.

    `listed` gives the text by which each image that is left is listed; then prompts that take more than one
    chunk of tokens are noted as well.
    """
    estimate, notes, alike = Estimate(History(run.load)), LineNotes(), Counter[tuple[int, int]]()
    numbers = itertools.count()

    def add(item: Item) -> None:
        alike[next(numbers) // WINDOW, hash(item.job.pack)] += 1  # a pack is a long text
        estimate.add(item.job)
        notes.add(item.line, (*item.notes, *notes_on_line(run.config, model, item.job)))
        notes.add(item.line, notes_on_labels(item.labels, run.config.output.name))
        if listed:
            print_line(listed(item))
            notes.add(item.line, notes_on_length(item.job, model))

    try:
        found = run.survey(add)
    except PromptFileError as exc:
        if alike and len(exc.rows) == exc.count:
            print_note("--skip-invalid paints the lines that are right")
        raise
    for line in str(run.skipped()).splitlines():
        print_note(f"skipped: {line}")
    for note in notes.texts():
        print_note(note)
    parts = [
        f"{count(found.images, 'image')}: {found.done} done, {found.failed} failed before, "
        f"{found.left} to paint with {found.unet_calls} UNet calls"
    ]
    parts += [f"{found.repeated} asked for more than once"] if found.repeated else []
    parts += [estimate.in_words(run.folder)] if found.left else []
    parts += [f"all images are in {run.folder}"] if found.images == found.done > 0 else []
    parts += ["there is no prompt to paint"] if not found.images else []
    print_note("; ".join(parts))
    if run.config.executor.kind == "ray" and found.left:
        size = TOGETHER if run.config.batch_size == "auto" else run.config.batch_size
        packs = sum(math.ceil(number / size) for number in alike.values())
        print_note(f"at least {count(packs, 'pack')} of up to {size} images; {estimate.on_workers()}")
    return found


def _prune(run: Batch, prompts: PromptFile, remove: bool, as_json: bool) -> None:
    """List or remove the images that no line asks for; images of other prompt files are left alone."""
    if not prompts.is_begun():
        raise OutputError(
            f"{run.folder}: {STATE_FILE} is missing, so it is unknown which images "
            "were asked for; give --seed"
        )
    strays = find_strays(run)
    if remove:
        strays.remove()
    for path in strays.paths:
        print_line(json.dumps({"path": str(path)}, ensure_ascii=False) if as_json else path)
    if remove and strays.paths:
        run.tidy(run.survey().asked)
    for name, images in strays.others.items():
        print_note(f"{count(images, 'image')} of another prompt file ({name}) in {run.folder}: left alone")
    way = "these were removed" if remove else "with the same options, --prune --yes removes these"
    found = f"images in the folder: {strays.asked} asked for, {len(strays.paths)} not"
    print_note(f"{found}; {way}" if strays.paths else found)
