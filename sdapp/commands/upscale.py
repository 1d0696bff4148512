"""The command `sdapp upscale`: images that exist, made larger."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.commands.options import IMAGE, MODEL, OUT_FOLDER, given_layers, option, with_options
from sdapp.commands.running import CONTINUE, Session
from sdapp.commands.terminal import count, print_note, print_result
from sdapp.config import own_layers
from sdapp.errors import JobsFailedError, gathered
from sdapp.replays import counting_from
from sdapp.settings.stages import Upscale
from sdapp.upscales import plan_upscales, upscale_batches

STRENGTH = Upscale.model_fields["strength"].default
Originals = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Images, of any program.", show_default=False)
]
UPSCALE_OPTIONS = {
    "output.dir": OUT_FOLDER,
    "prompt": option(
        str,
        "--prompt",
        metavar="TEXT",
        help="What is on the images; default: what is inside each.",
        panel=IMAGE,
    ),
    "upscale.scale": option(
        float, "--scale", help="How many times as wide and as high; default: 2.", panel=IMAGE
    ),
    "upscale.strength": option(
        float, "--strength", help=f"How much may change: above 0, to 1; default: {STRENGTH}.", panel=IMAGE
    ),
    "upscale.method": option(
        str,
        "--method",
        metavar="NAME",
        help="hires (enlarge, denoise again; default), model (such as ESRGAN), or diffusion.",
        panel=IMAGE,
    ),
    "upscale.model": option(
        str,
        "--upscaler",
        metavar="NAME",
        help="For --method model: a .safetensors file; for diffusion: a folder or Hub id.",
        panel=MODEL,
    ),
    "upscale.tile": option(
        int, "--tile", help="Side of tiles in pixels; default: the whole image at once.", panel=IMAGE
    ),
}


@with_options("upscale", "size", "count", own=UPSCALE_OPTIONS)
def upscale(options: dict[str, Any], images: Originals) -> None:
    """Make images larger, and denoise them again with the prompt and settings inside them.

    Stop it at any time and run it again: it continues with what is missing.

    Examples:

    sdapp upscale outputs/*.png --out large

    sdapp upscale photo.jpg --prompt "a lighthouse at dusk" --scale 1.5 --strength 0.3 --out large
    """
    session = Session(options["verbose"], CONTINUE)
    planned, errors = plan_upscales(images, given_layers(options), session.notes, own_layers())
    if errors:
        raise gathered(errors)
    runs = upscale_batches(planned)
    runs[0].begin()
    surveys = [run.survey() for run in runs]
    if before := sum(found.done for found in surveys):
        print_note(f"{count(before, 'image')} of {len(planned)} finished before")
    left = [found.left for found in surveys]
    models = {each.load: each.model for each in planned}
    session.begin(models, sum(left), done=lambda: sum(run.progress for run in runs))
    failed: list[str] = []
    with session:
        for number, (run, found) in enumerate(zip(runs, surveys, strict=True)):
            on_step = counting_from(sum(left[:number]), session.on_step)
            with closing(run.paint(session.executor, found, on_step, session.wait)) as results:
                for result in results:
                    session.tell_result(result)
                    print_result(result, options["json"])
                    failed += [f"{planned[result.index].path}: {result.error}"] if result.error else []
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(planned)} images failed:\n" + "\n".join(failed))
