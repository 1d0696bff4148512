"""The command `sdapp replay`: images painted again, and compared with what they were."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.commands.options import all_layers, with_options
from sdapp.commands.running import Session
from sdapp.commands.terminal import print_result
from sdapp.errors import ConfigError, JobsFailedError
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save_result
from sdapp.records import Result
from sdapp.replays import (
    TOLERANCE,
    PixelCheck,
    Replay,
    compare_pixels,
    paint_replays,
    plan_replays,
    setup_differences,
)

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Images of sdapp, A1111, ComfyUI, InvokeAI, kohya or stable-diffusion.cpp.",
        show_default=False,
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Write nothing; print how far the pixels are from those in the file.")
]


@with_options()
def replay(options: dict[str, Any], images: Images, verify: Verify = False) -> None:
    """Paint images again from the settings inside them. Options, --set and --config change what they name in
    all of them.

    Examples:

    sdapp replay outputs/*.png --scheduler unipc --out unipc

    sdapp replay outputs/*.png --verify
    """
    if verify and options["output.dir"] is not None:
        raise ConfigError("--out: --verify writes no image; leave out one of the two")
    replays = plan_replays(images, all_layers(options, []))
    if verify and any(len(each.jobs) > 1 for each in replays):
        raise ConfigError("count: --verify compares each image with one; leave count at 1")
    if not verify:
        check_folder(Path(replays[0].config.output.dir))
    session = Session(
        options["verbose"], lambda: "no image was changed" if verify else "finished images are kept"
    )
    session.begin({each.load: each.model for each in replays}, sum(len(each.jobs) for each in replays))
    session.notes.tell(note for each in replays for note in each.notes)
    with session, closing(paint_replays(replays, session.executor, session.on_step)) as results:
        (_compare_all if verify else _save_all)(results, replays, session, options["json"])


def _save_all(results: Iterator[Result], replays: list[Replay], session: Session, as_json: bool) -> None:
    configs = {each.path: each.config for each in replays}
    painted, failed = 0, list[str]()
    for result in results:
        assert result.source
        painted += 1
        session.tell_result(result)
        print_result(save_result(result, configs[result.source].output), as_json)
        failed += [f"{result.source}: {result.error}"] if result.error else []
    if failed:
        raise JobsFailedError(f"{len(failed)} of {painted} images failed:\n" + "\n".join(failed))


def _compare_all(results: Iterator[Result], _: list[Replay], session: Session, as_json: bool) -> None:
    compared, different = 0, list[str]()
    for result in results:
        assert result.source
        compared += 1
        session.tell_result(result)
        if result.record and (note := setup_differences(result.source, result.record)):
            session.notes.tell([note])
        check = compare_pixels(result.source, result)
        line = f"{check.path}: {_in_words(check)}"
        facts = asdict(check) | {"path": str(check.path)}
        typer.echo(json.dumps(facts, ensure_ascii=False) if as_json else line)
        different += [] if check.good else [line]
    if different:
        what = f"{len(different)} of {compared} images differ by more than {TOLERANCE} of 255, or failed"
        raise JobsFailedError(f"{what}:\n" + "\n".join(different))


def _in_words(check: PixelCheck) -> str:
    text = check.error or f"largest difference {check.largest_difference} of 255"
    return f"{text} (lossy)" if check.lossy else text
