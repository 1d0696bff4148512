"""The command line: parse flags, call, print, exit code."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdapp import config as configs
from sdapp.batch import NAME, PromptFile, paint_rest, survey, tidy
from sdapp.cli_config import config_app
from sdapp.config import RunConfig
from sdapp.console import Commands, announce, explain_scheduler, interruptible, progress, scheduler_table, tell
from sdapp.errors import JobsFailedError
from sdapp.flags import Prompt, Strength, all_layers, with_flags
from sdapp.jobs import Job, plan
from sdapp.layers import Layer, merge, override
from sdapp.ledger import LEDGER, base_seed, finished, sweep
from sdapp.ledger import failed as failed_jobs
from sdapp.models import BUILT_IN, Model, locate, unknown_words
from sdapp.outputs import Result, check_folder, read_picture
from sdapp.variants import Seeds

if TYPE_CHECKING:
    from sdapp.pipelines import Painter

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug · 2 settings or usage · 3 some pictures failed · 65 an input file cannot be used · "
    "66 an input file is missing · 69 model, device or package unavailable · 73 cannot write · 74 disk full · "
    "130, 143 interrupted"
)


app = typer.Typer(cls=Commands, help="Stable Diffusion from the shell.", epilog=EXIT_CODES, no_args_is_help=True)
app.add_typer(config_app, name="config")


# --- painting ------------------------------------------------------------------------------------------------------


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sdapp {version('sdapp')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Stable Diffusion from the shell."""


@app.command()
@with_flags
def generate(flags: dict[str, Any], prompt: Prompt = None) -> None:
    """Paint pictures from a prompt, or whatever a config or a picture (--config) asks for.

    Examples:

    sdapp generate "a red house on a beach at sunset" --seed 7

    sdapp generate --config outputs/a-red-house-7.png --steps 50
    """
    paint(flags, [override("prompt", prompt, "PROMPT")] if prompt is not None else [])


@app.command()
@with_flags
def img2img(
    flags: dict[str, Any],
    image: Annotated[Path, typer.Argument(help="The picture to start from.", show_default=False)],
    prompt: Prompt = None,
    strength: Strength = None,
) -> None:
    """Paint a picture anew in the spirit of a prompt.

    Example:

    sdapp img2img house.png "a red house in the snow" --strength 0.6
    """
    paint(flags, _task_layers("img2img", prompt, strength, image=image))


@app.command()
@with_flags
def inpaint(
    flags: dict[str, Any],
    image: Annotated[Path, typer.Argument(help="The picture to mend.", show_default=False)],
    mask: Annotated[Path, typer.Argument(help="White is painted anew, black stays.", show_default=False)],
    prompt: Prompt = None,
    strength: Strength = None,
) -> None:
    """Paint the white part of a mask anew; every other pixel stays as it is.

    Example:

    sdapp inpaint house.png mask.png "a black cat"
    """
    paint(flags, _task_layers("inpaint", prompt, strength, image=image, mask=mask))


def _task_layers(kind: str, prompt: str | None, strength: float | None, **files: Path) -> list[Layer]:
    found = [override("task.kind", kind, f"sdapp {kind}")]
    found += [override(f"task.{name}", str(path), name.upper()) for name, path in files.items()]
    found += [override("task.strength", strength, "--strength")] if strength is not None else []
    return found + ([override("prompt", prompt, "PROMPT")] if prompt is not None else [])


def paint(flags: dict[str, Any], own: list[Layer]) -> None:
    """Load settings, plan, load the model, paint, save, print. All input is checked before torch is imported."""
    merged = merge(all_layers(flags, own))
    for note in merged.notes:
        tell(note)
    config = configs.validate(merged)
    model = locate(config.model, config.revision)
    jobs = plan(config, model)
    check_folder(Path(config.output.dir))
    say_first(config, model, jobs[0])
    failed: list[str] = []
    with (
        interruptible(lambda: "finished pictures are kept") as check,
        progress(len(jobs), model.name) as on_step,
    ):
        painter = load_painter(model, config, flags["verbose"])
        check()

        def step(*where: int) -> None:
            check()
            on_step(*where)

        for result in painter.paint(jobs, config.batch_size, step):
            announce(result, result.save(config.output) if result.picture else None, flags["json"])
            failed += [f"seed {result.job.seed}: {result.error}"] if result.error else []
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} pictures failed:\n" + "\n".join(failed))


def say_first(config: RunConfig, model: Model, job: Job) -> None:
    """What the user should know before the first picture."""
    if words := unknown_words(model, f"{job.prompt} {job.negative_prompt}"):
        tell(
            f"{BUILT_IN} does not know: {', '.join(words)}. It knows the words of its small world (in its MODEL_CARD.md); "
            "for anything else use a real checkpoint: --model stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    for note in config.scheduler.resolve().told:
        tell(note)
    if job.negative_prompt and job.guidance_scale <= 1:
        tell("the negative prompt has no effect at a guidance_scale of 1 or below")
    if job.width * job.height > 4 * model.size**2:
        tell(
            f"{job.width}x{job.height} is far more than the {model.size}x{model.size} that {model.name} was trained on: it "
            "takes long, and things repeat; --size makes it smaller"
        )
    if job.task.kind != "txt2img":
        tell(f"{job.steps_to_run} of {job.steps} steps run at strength {job.task.strength:g}")


def load_painter(model: Model, config: RunConfig, verbose: bool) -> "Painter":
    """Load the weights; torch and diffusers are imported here and not before."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")  # read while it is imported
    if not verbose:
        warnings.simplefilter("ignore")  # upstream's own
    from sdapp.loading import load, quiet

    quiet(verbose)
    return load(model, config)


# --- prompt files ---------------------------------------------------------------------------------------------------


@app.command()
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
    config = configs.validate(merge(base))
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


# --- everything else -----------------------------------------------------------------------------------------------


@app.command()
def schedulers(
    name: Annotated[str | None, typer.Argument(help="Any spelling; explains what it becomes.", show_default=False)] = None,
) -> None:
    """List the schedulers, or explain one name: class, options, UNet calls."""
    typer.echo(explain_scheduler(name) if name else scheduler_table())


@app.command()
def show(
    image: Annotated[Path, typer.Argument(help="A picture painted by sdapp.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of YAML.")] = False,
) -> None:
    """Print the job and the record inside a picture."""
    import yaml

    content = read_picture(image)
    text = json.dumps(content, ensure_ascii=False) if as_json else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    typer.echo(text.rstrip())


@app.command()
def doctor() -> None:
    """Say what is installed, which devices are there, what is wrong and how to mend it."""
    from sdapp.doctor import examine

    facts, problems = examine()
    for name, value in facts:
        typer.echo(f"{name:<24}{value}")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    typer.echo("nothing is wrong" if not problems else f"{len(problems)} to mend")


if __name__ == "__main__":
    app()
