"""The command `sdapp replay`: images painted again, and compared with what they were."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.commands import completion
from sdapp.commands.options import IMAGE, MODEL, RUN, given_layers, option, with_options
from sdapp.commands.running import Session
from sdapp.commands.terminal import count, print_line, print_result
from sdapp.config import own_layers
from sdapp.errors import ConfigError, JobsFailedError, gathered
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save_result
from sdapp.records import Result
from sdapp.replays import (
    TOLERANCE,
    compare_pixels,
    paint_replays,
    plan_replays,
    setup_differences,
)

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Images of sdapp, A1111, ComfyUI, InvokeAI, Fooocus, SwarmUI and others (docs/metadata.md), "
        "or a .txt file with their paths.",
        show_default=False,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Write nothing; print how far the pixels are from those in the file.",
        rich_help_panel=RUN,
    ),
]
OF_EACH = "default: that of each image"
OWN_OPTIONS = {  # where the shared ones would tell of the defaults of new images
    "negative_prompt": option(
        str, "--negative-prompt", "-n", metavar="TEXT", help="What to steer away from, in all.", panel=IMAGE
    ),
    "seed": option(int, "--seed", "-s", help=f"The seed of all images; {OF_EACH}.", panel=IMAGE),
    "count": option(int, "--count", help="Images from each; the seed of each next one adds 1.", panel=IMAGE),
    "steps": option(int, "--steps", help=f"Denoising steps; {OF_EACH}.", panel=IMAGE),
    "guidance_scale": option(
        float, "--guidance-scale", "-g", help=f"How strongly the prompt steers; {OF_EACH}.", panel=IMAGE
    ),
    "scheduler": option(
        str,
        "--scheduler",
        metavar="NAME",
        help=f"See `sdapp schedulers`; {OF_EACH}.",
        complete=completion.offer(completion.SCHEDULERS),
        panel=IMAGE,
    ),
    "size": option(str, "--size", metavar="WxH", help=f"Pixels, such as 768x512; {OF_EACH}.", panel=IMAGE),
    "model": option(
        str,
        "--model",
        "-m",
        metavar="NAME",
        help=f"A Hub id, a folder or a .safetensors file; {OF_EACH}, if it is one of sdapp.",
        complete=completion.model_names,
        panel=MODEL,
    ),
}


@with_options(own=OWN_OPTIONS)
def replay(options: dict[str, Any], images: Images, verify: Verify = False) -> None:
    """Paint images again from the settings inside them. Options, --set and --config change what they name in
    all of them.

    Examples:

    sdapp replay outputs/*.png --scheduler unipc --out unipc

    sdapp replay outputs/*.png --verify
    """
    if verify and options["output.dir"] is not None:
        raise ConfigError("--out: --verify writes no image; leave out one of the two")
    session = Session(options["verbose"])
    replays, errors = plan_replays(images, given_layers(options), session.notes, own_layers())
    if not replays:
        raise gathered(errors)
    if verify and any(len(each.jobs) > 1 for each in replays):
        raise ConfigError("count: --verify compares each image with one; leave count at 1")
    if not verify:
        check_folder(Path(replays[0].config.output.dir))
    session.notes.tell(f"left out: {line}" for error in errors for line in str(error).splitlines())
    session.begin({each.load: each.model for each in replays}, sum(len(each.jobs) for each in replays))
    configs = {each.path: each.config for each in replays}
    unread, wrong, setups = [str(error) for error in errors], list[str](), dict[str, list[Path]]()
    with session, closing(paint_replays(replays, session.executor, session.on_step)) as results:
        for result in results:
            assert result.source
            session.tell_result(result)
            if verify:
                wrong += _verify(result, result.source, options["json"])
                other = result.record and setup_differences(result.source, result.record)
                setups.setdefault(other or "", []).append(result.source)
            else:
                print_result(save_result(result, configs[result.source].output), options["json"])
                wrong += [f"{result.source}: {result.error}"] if result.error else []
    for setup, (first, *more) in setups.items():
        which = f"{first} and {count(len(more), 'more image')} were" if more else f"{first} was"
        session.notes.tell([f"{which} painted with {setup}"] if setup else [])
    what = f"images differ by more than {TOLERANCE} of 255, or failed" if verify else "images failed"
    told = [*_told(unread, len(images), "images could not be read"), *_told(wrong, session.images, what)]
    if told:
        raise JobsFailedError("\n".join(told))


def _told(lines: list[str], images: int, what: str) -> list[str]:
    """Lines about some of the images, below one that counts them."""
    return [f"{len(lines)} of {images} {what}:", *lines] if lines else []


def _verify(result: Result, source: Path, as_json: bool) -> list[str]:
    """Print how far the pixels are from those in the file; return that line if they differ, or failed."""
    check = compare_pixels(source, result)
    text = check.error or f"largest difference {check.largest_difference} of 255"
    line = f"{source}: {text}{' (lossy)' if check.lossy else ''}"
    facts = asdict(check) | {"path": str(source)}
    print_line(json.dumps(facts, ensure_ascii=False) if as_json else line)
    return [] if check.good else [line]
