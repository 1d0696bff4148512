"""The command `sdapp explain`: a page that shows how one image is painted."""

import shlex
import sys
from typing import Annotated, Any

import typer

from sdapp.batches.executors import LocalExecutor
from sdapp.commands.estimates import History
from sdapp.commands.generate import Prompt
from sdapp.commands.options import OUTPUT, all_layers, out_folder, with_options
from sdapp.commands.running import Session
from sdapp.commands.terminal import print_line
from sdapp.explanations.run import plan_explanation, write_explanation

Arrays = Annotated[
    bool,
    typer.Option("--arrays", help="Also write all arrays: arrays.safetensors.", rich_help_panel=OUTPUT),
]


@with_options("count", "upscale", "json", own={"output.dir": out_folder("explain")})
def explain(options: dict[str, Any], prompt: Prompt = None, arrays: Arrays = False) -> None:
    """Paint an image and write a page that shows how: tokens, latents, noise, steps, guidance, attention.

    Examples:

    sdapp explain "a red house on a beach at sunset" --out explain

    sdapp explain "a red house" --steps 30 --scheduler euler --seed 7 --arrays --out explain
    """
    command = shlex.join(["sdapp", *sys.argv[1:]])
    planned = plan_explanation(all_layers(options, {"prompt": prompt}), command)
    session = Session(options["verbose"]).begin(
        {planned.work.load: planned.model}, 1, History(planned.work.load)
    )
    session.notes.tell(planned.notes)
    assert isinstance(session.executor, LocalExecutor)
    with session:
        made = write_explanation(planned, session.executor.painter(planned.work), arrays, session.on_step)
        session.tell_result(made.result)
    for path in filter(None, (made.path, made.arrays)):
        print_line(path)
