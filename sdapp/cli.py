"""The command line: registers the commands; `run` is what `sdapp` is in a shell."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sdapp import __version__
from sdapp.commands.batch import batch
from sdapp.commands.compare import compare, report
from sdapp.commands.config import config_app
from sdapp.commands.doctor import doctor
from sdapp.commands.explain import explain
from sdapp.commands.generate import generate, img2img, inpaint, outpaint
from sdapp.commands.grid import grid
from sdapp.commands.models import models, pull
from sdapp.commands.options import Command
from sdapp.commands.replay import replay
from sdapp.commands.schedulers import schedulers
from sdapp.commands.shell import shell
from sdapp.commands.show import show
from sdapp.commands.terminal import Commands, end_without_stdout, open_streams
from sdapp.commands.tokens import tokens
from sdapp.commands.upscale import upscale
from sdapp.diffusion.startup import leave
from sdapp.errors import MissingInputError

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug · 2 settings or usage · 3 some images failed or differ · "
    "65 an input file cannot be used · 66 an input file is missing · "
    "69 model, device or package unavailable · 73 cannot write · 74 disk full · 130, 141, 143 interrupted"
)
HELP = "Stable Diffusion from the shell."
COMMANDS = (
    generate,
    img2img,
    inpaint,
    outpaint,
    upscale,
    batch,
    grid,
    explain,
    shell,
    replay,
    compare,
    report,
    schedulers,
    models,
    pull,
    tokens,
    show,
    doctor,
)

app = typer.Typer(
    cls=Commands,
    help=HELP,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config_app, name="config")
for command in COMMANDS:
    app.command(cls=Command)(command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sdapp {__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Check what every command needs. Raises MissingInputError."""
    try:
        Path.cwd()
    except FileNotFoundError as exc:  # torch could not be imported
        raise MissingInputError("the folder of this shell was deleted; change to another one (cd)") from exc


def run() -> None:
    """Run the command line as a process of its own, which ends without taking torch apart."""
    open_streams()
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # each retry is two lines otherwise
    # Read when torch is imported: a thread that waits for the others soon gives its core to another program.
    # By default, two programs that compute at once are many times slower (benchmarks/together.py).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except (SystemExit, OSError) as exc:
        # Typer ends with 1 after a closed pipe.
        error = exc if isinstance(exc, OSError) else exc.__context__
        code = end_without_stdout(error) if isinstance(error, OSError) else getattr(exc, "code", 0)
        if "torch" in sys.modules and isinstance(code, int):
            leave(code)
        sys.exit(code)


if __name__ == "__main__":
    run()
