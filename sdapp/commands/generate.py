"""The commands `sdapp generate`, `img2img`, `inpaint` and `outpaint`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.api import plan_images
from sdapp.commands.estimates import History
from sdapp.commands.options import IMAGE, OUTPUT, all_layers, option, with_options
from sdapp.commands.running import Session
from sdapp.commands.terminal import print_line, print_note, print_result
from sdapp.errors import ConfigError, JobsFailedError, MissingInputError
from sdapp.images import IMAGE_SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save_result, write_results
from sdapp.settings.tasks import Img2Img, Inpaint, Outpaint

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to paint; else the config's prompt.", show_default=False),
]
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to start from.", show_default=False)]
Mask = Annotated[
    str | None,
    typer.Argument(
        metavar="MASK", help="White is painted again, black stays; or --mask-prompt.", show_default=False
    ),
]
MASK_OPTIONS = {
    "task.mask_prompt": option(
        str,
        "--mask-prompt",
        metavar="WORDS",
        help="What to repaint, such as face, in place of a MASK.",
        panel=IMAGE,
    ),
    "task.padding": option(
        int,
        "--padding",
        help="Paint only the mask and so many pixels around it, at the full size.",
        panel=IMAGE,
    ),
    "task.mask_blur": option(
        int,
        "--mask-blur",
        metavar="PIXELS",
        help="Blur the edge of what is put back; default: 0 (A1111: 4).",
        panel=IMAGE,
    ),
}
SIDES = {
    f"task.sides.{side}": option(int, f"--{side}", help=f"Pixels to add at the {side}.", panel=IMAGE)
    for side in ("left", "right", "top", "bottom")
}


FILM = {
    "film": option(
        Path,
        "--film",
        metavar="FILE",
        help="Also write how the image was painted: a .gif, .webp or .mp4.",
        panel=OUTPUT,
    )
}


def strength_option(usual: float) -> dict[str, Any]:
    """--strength, which belongs to the tasks that start from an image."""
    how = f"How much may change: near 0 the image is kept, 1 ignores it; default: {usual}."
    return {"task.strength": option(float, "--strength", help=how, panel=IMAGE)}


@with_options(own=FILM)
def generate(options: dict[str, Any], prompt: Prompt = None) -> None:
    """Paint images from a prompt, or whatever a config or an image (--config) asks for.

    Examples:

    sdapp generate "a red house on a beach at sunset" --seed 7

    sdapp generate --config outputs/a-red-house-7.png --steps 50
    """
    _generate(options, {"prompt": prompt})


@with_options(own=FILM | strength_option(Img2Img.model_fields["strength"].default))
def img2img(options: dict[str, Any], image: Image, prompt: Prompt = None) -> None:
    """Paint an image again, guided by a prompt.

    Example:

    sdapp img2img house.png "a red house in the snow" --strength 0.6
    """
    _generate(options, {"task.kind": "img2img", "task.image": image, "prompt": prompt})


@with_options(own=MASK_OPTIONS | FILM | strength_option(Inpaint.model_fields["strength"].default))
def inpaint(options: dict[str, Any], image: Image, mask: Mask = None, prompt: Prompt = None) -> None:
    """Paint the white part of a mask again, or what words name; every other pixel stays as it is.

    Examples:

    sdapp inpaint house.png mask.png "a black cat"

    sdapp inpaint house.png "a castle" --mask-prompt house
    """
    if options["task.mask_prompt"] is not None and prompt is None:
        mask, prompt = None, mask  # the only text is the prompt
    elif prompt is None and (mask is None or not Path(mask).exists()):
        way = "write: sdapp inpaint IMAGE MASK PROMPT, or sdapp inpaint IMAGE PROMPT --mask-prompt WORDS"
        raise MissingInputError(f"MASK: {f'there is no file {mask}' if mask else 'is missing'}; {way}")
    task = {"task.kind": "inpaint", "task.image": image, "task.mask": mask}
    _generate(options, task | {"prompt": prompt})


@with_options("size", own=FILM | SIDES | strength_option(Outpaint.model_fields["strength"].default))
def outpaint(options: dict[str, Any], image: Image, prompt: Prompt = None) -> None:
    """Continue an image beyond its sides; every pixel of it stays as it is.

    Example:

    sdapp outpaint house.png "a red house on a beach at sunset" --left 32 --right 32
    """
    _generate(options, {"task.kind": "outpaint", "task.image": image, "prompt": prompt})


def _generate(options: dict[str, Any], own: dict[str, Any]) -> None:
    """Plan, load the model, paint, save, print. All input is checked before torch is imported."""
    prompt = own["prompt"] or ""
    if Path(prompt).suffix.lower() in IMAGE_SUFFIXES and ("task.image" in own or Path(prompt).is_file()):
        order = "the prompt comes after the images"
        way = order if "task.image" in own else f"to paint it again: --config {prompt}"
        raise ConfigError(f"PROMPT: {prompt} is the name of an image; {way}")
    if own["prompt"] is None and "task.image" in own and not Path(own["task.image"]).exists():
        way = f"write: sdapp {own['task.kind']} IMAGE PROMPT"
        raise MissingInputError(f"IMAGE: there is no file {own['task.image']}; {way}")
    film = options.pop("film")
    planned = plan_images(all_layers(options, own), film)
    output, jobs, load = planned.config.output, planned.work.jobs, planned.work.load
    check_folder(Path(output.dir))
    session = Session(options["verbose"]).begin({load: planned.model}, len(jobs), History(load))
    session.notes.tell(planned.notes)
    failed: list[str] = []
    with session, closing(planned.paint(session.executor, session.on_step)) as results:
        for result in write_results(
            results, lambda result: encode(result, output), lambda result: save_result(result, output)
        ):
            session.tell_result(result)
            print_result(result, options["json"])
            failed += [f"seed {result.job.seed}: {result.error}"] if result.error else []
    if planned.work.film and not failed:
        print_line(planned.work.film) if not options["json"] else print_note(f"film: {planned.work.film}")
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} images failed:\n" + "\n".join(failed))
