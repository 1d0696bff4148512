"""The command line: parse flags, call, print, exit code."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp import __version__
from sdapp.commands.batch import batch
from sdapp.commands.compare import compare, report_again
from sdapp.commands.config import config_app
from sdapp.commands.generate import paint
from sdapp.commands.options import PromptArgument, StrengthOption, with_flags
from sdapp.commands.replay import replay
from sdapp.commands.schedulers import explain_scheduler, scheduler_table
from sdapp.commands.terminal import Commands
from sdapp.diffusion.startup import leave
from sdapp.metadata.record import read_image
from sdapp.settings.layers import Layer, override

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug · 2 settings or usage · 3 some images failed or differ · 65 an input file cannot be used · "
    "66 an input file is missing · 69 model, device or package unavailable · 73 cannot write · 74 disk full · "
    "130, 143 interrupted"
)


app = typer.Typer(
    cls=Commands, help="Stable Diffusion from the shell.", epilog=EXIT_CODES, no_args_is_help=True
)
app.add_typer(config_app, name="config")


# --- painting ------------------------------------------------------------------------------------------------------


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sdapp {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Stable Diffusion from the shell."""


@app.command()
@with_flags
def generate(flags: dict[str, Any], prompt: PromptArgument = None) -> None:
    """Paint images from a prompt, or whatever a config or an image (--config) asks for.

    Examples:

    sdapp generate "a red house on a beach at sunset" --seed 7

    sdapp generate --config outputs/a-red-house-7.png --steps 50
    """
    paint(flags, [override("prompt", prompt, "PROMPT")] if prompt is not None else [])


@app.command()
@with_flags
def img2img(
    flags: dict[str, Any],
    image: Annotated[Path, typer.Argument(help="The image to start from.", show_default=False)],
    prompt: PromptArgument = None,
    strength: StrengthOption = None,
) -> None:
    """Paint an image anew in the spirit of a prompt.

    Example:

    sdapp img2img house.png "a red house in the snow" --strength 0.6
    """
    paint(flags, _task_layers("img2img", prompt, strength, image=image))


@app.command()
@with_flags
def inpaint(
    flags: dict[str, Any],
    image: Annotated[Path, typer.Argument(help="The image to mend.", show_default=False)],
    mask: Annotated[Path, typer.Argument(help="White is painted anew, black stays.", show_default=False)],
    prompt: PromptArgument = None,
    strength: StrengthOption = None,
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


app.command()(batch)
app.command()(replay)
app.command()(compare)
app.command("report")(report_again)


# --- everything else -----------------------------------------------------------------------------------------------


@app.command()
def schedulers(
    name: Annotated[
        str | None, typer.Argument(help="Any spelling; explains what it becomes.", show_default=False)
    ] = None,
) -> None:
    """List the schedulers, or explain one name: class, options, UNet calls."""
    typer.echo(explain_scheduler(name) if name else scheduler_table())


@app.command()
def show(
    image: Annotated[Path, typer.Argument(help="An image painted by sdapp.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of YAML.")] = False,
) -> None:
    """Print the job and the record inside an image."""
    import yaml

    content = read_image(image)
    text = (
        json.dumps(content, ensure_ascii=False)
        if as_json
        else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    )
    typer.echo(text.rstrip())


@app.command()
def doctor() -> None:
    """Say what is installed, which devices are there, what is wrong and how to mend it."""
    from sdapp.commands.doctor import examine

    facts, problems = examine()
    for name, value in facts:
        typer.echo(f"{name:<24}{value}")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    typer.echo("nothing is wrong" if not problems else f"{len(problems)} to mend")


def run() -> None:
    """The command line as a process of its own: what `sdapp` is in a shell."""
    try:
        app()
    except SystemExit as exc:
        if "torch" in sys.modules and isinstance(exc.code, int):
            leave(exc.code)
        raise


if __name__ == "__main__":
    run()
