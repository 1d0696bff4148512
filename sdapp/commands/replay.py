"""The command `sdapp replay`: images painted again, and compared with what they were."""

import json
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sdapp.commands.notes import notes_before_painting
from sdapp.commands.options import all_layers, with_flags
from sdapp.commands.running import KEPT_MESSAGE, Load, paint_loads
from sdapp.commands.terminal import print_note, print_result
from sdapp.errors import ConfigError, JobsFailedError
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save_result
from sdapp.records import Result
from sdapp.replays import (
    TOLERANCE,
    PixelCheck,
    Replay,
    compare_pixels,
    group_by_load,
    plan_replays,
    setup_differences,
)


@with_flags
def replay(
    flags: dict[str, Any],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Images of sdapp, A1111, ComfyUI, InvokeAI, kohya or stable-diffusion.cpp.",
            show_default=False,
        ),
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Write nothing; say how far the pixels are from those in the file."),
    ] = False,
) -> None:
    """Paint images again from the settings inside them. Flags, --set and --config change what they name in all of them.

    Examples:

    sdapp replay outputs/*.png --scheduler unipc --out unipc

    sdapp replay outputs/*.png --verify
    """
    if verify and flags["output.dir"] is not None:
        raise ConfigError("--out: --verify writes no image; leave one of them out")
    over = all_layers(flags, [])
    replays = plan_replays(images, over)
    if verify and any(len(each.jobs) > 1 for each in replays):
        raise ConfigError("count: --verify holds each image against one; leave count at 1")
    if not verify:
        check_folder(Path(replays[0].config.output.dir))
    said = [note for layer in over for note in layer.notes]
    for each in replays:
        said += [*each.notes, *notes_before_painting(each.config, each.model, each.jobs[0])]
    for note in dict.fromkeys(said):
        print_note(note)
    with closing(
        _results(replays, flags["verbose"], "no image was changed" if verify else KEPT_MESSAGE)
    ) as results:
        (_compare_all if verify else _save_all)(results, flags["json"])


def _results(replays: list[Replay], verbose: bool, told: str) -> Generator[tuple[Replay, Result], None, None]:
    """Every result, beside what it is the replay of."""
    groups = group_by_load(replays)
    loads = [
        Load(group[0].model, group[0].config, [job for each in group for job in each.jobs])
        for group in groups
    ]
    asked = [each for group in groups for each in group for _ in each.jobs]
    with closing(paint_loads(loads, verbose, keep_going=True, told=told)) as results:
        for result in results:
            yield asked[result.index], result


def _save_all(results: Iterable[tuple[Replay, Result]], as_json: bool) -> None:
    painted, failed = 0, list[str]()
    for asked, result in results:
        painted += 1
        print_result(save_result(result, asked.config.output), as_json)
        failed += [f"{asked.path}: {result.error}"] if result.error else []
    if failed:
        raise JobsFailedError(f"{len(failed)} of {painted} images failed:\n" + "\n".join(failed))


def _compare_all(results: Iterable[tuple[Replay, Result]], as_json: bool) -> None:
    compared, bad = 0, list[str]()
    for asked, result in results:
        compared += 1
        notes = (*result.record.notes, setup_differences(asked.path, result.record)) if result.record else ()
        for note in filter(None, notes):
            print_note(note)
        found = compare_pixels(asked.path, result)
        line = f"{found.path}: {_difference(found)}"
        typer.echo(
            json.dumps(asdict(found) | {"path": str(found.path)}, ensure_ascii=False) if as_json else line
        )
        bad += [] if found.good else [line]
    if bad:
        what = f"{len(bad)} of {compared} images differ by more than {TOLERANCE} of 255, or failed"
        raise JobsFailedError(f"{what}:\n" + "\n".join(bad))


def _difference(found: PixelCheck) -> str:
    said = found.error or f"largest difference {found.largest_difference} of 255"
    return f"{said} (lossy)" if found.lossy else said
