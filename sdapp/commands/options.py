"""The options of every command that paints, defined once, and the layers of settings that they become."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from sdapp.commands.terminal import print_note
from sdapp.config import read_config_file
from sdapp.errors import ConfigError
from sdapp.metadata.read import read_settings
from sdapp.models.files import BUILT_IN
from sdapp.profiling import profiled
from sdapp.settings.files import parse_override
from sdapp.settings.layers import Layer, combine, override

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "-c",
        help="A YAML config, or an image that `sdapp replay` can read; the last one wins.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as --set clip_skip=1."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what would be painted, and stop.")
]
OPTIONS: dict[str, Any] = {
    "config": ConfigFiles,
    "negative_prompt": Annotated[
        str | None, typer.Option("--negative-prompt", "-n", help="What to steer away from.")
    ],
    "seed": Annotated[
        int | None,
        typer.Option(
            "--seed", "-s", help="Of the first image (batch: base of all seeds); random if not given."
        ),
    ],
    "count": Annotated[int | None, typer.Option("--count", help="How many images, each with the next seed.")],
    "steps": Annotated[int | None, typer.Option("--steps", help="Denoising steps.")],
    "guidance_scale": Annotated[
        float | None, typer.Option("--guidance-scale", "-g", help="How strongly the prompt steers.")
    ],
    "scheduler": Annotated[
        str | None, typer.Option("--scheduler", help="Any name that `sdapp schedulers` knows.")
    ],
    "size": Annotated[str | None, typer.Option("--size", metavar="WxH", help="Pixels, such as 768x512.")],
    "model": Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"{BUILT_IN}, a Hub id, a folder or a .safetensors file."),
    ],
    "device": Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")],
    "dtype": Annotated[str | None, typer.Option("--dtype", help="auto, float16, bfloat16 or float32.")],
    "output.dir": Annotated[Path | None, typer.Option("--out", "-o", help="The folder for the images.")],
    "json": Annotated[bool, typer.Option("--json", help="One JSON object an image on stdout, not its path.")],
    "set": Overrides,
    "profile": Annotated[bool, typer.Option("--profile", help="Print at the end where the time went.")],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Show messages of diffusers and transformers.")
    ],
}
SWITCHES = ("json", "profile", "verbose")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
NOT_SETTINGS = ("config", "set", "size", *SWITCHES)
Options = dict[str, Any]  # the values by the keys of OPTIONS, None for what was not given
Command = Callable[..., None]


def with_options(
    *without: str, own: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Command], Command]:
    """Give a command the shared options but for some, and options of its `own`; it gets them all as its first
    argument.
    """
    shared = {name: hint for name, hint in OPTIONS.items() if name not in without}
    table = {**own, **shared}

    def decorate(command: Command) -> Command:
        parameters = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters += [
            inspect.Parameter(
                _parameter(name),
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hint,
                default=False if name in SWITCHES else None,
            )
            for name, hint in table.items()
        ]

        def run(**values: Any) -> None:
            options = dict.fromkeys(OPTIONS) | {name: values.pop(_parameter(name)) for name in table}
            with profiled(partial(typer.echo, err=True)) if options["profile"] else nullcontext():
                command(options, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _parameter(name: str) -> str:
    return name.replace(".", "_")


def file_layers(files: list[Path] | None) -> list[Layer]:
    """The layers of --config files and images. Prints their notes, so that they come before any error."""
    found: list[Layer] = []
    for file in files or []:
        layers = [read_settings(file)] if file.suffix.lower() in IMAGE_SUFFIXES else read_config_file(file)
        for layer in layers:
            for note in layer.notes:
                print_note(note)
            found.append(replace(layer, notes=()))
    return found


def all_layers(options: Options, own: list[Layer]) -> list[Layer]:
    """The --config files first; over them, in any order, everything else on the command line."""
    overrides = [parse_override(text) for text in options["set"] or []]
    return [*file_layers(options["config"]), combine([*overrides, *option_layers(options), *own])]


def option_layers(options: Options) -> Iterator[Layer]:
    """A layer for each setting that was given as an option.

    Raises ConfigError for a --size that is not one.
    """
    for key, value in options.items():
        if key not in NOT_SETTINGS and value is not None:
            option = "--out" if key == "output.dir" else f"--{key.rpartition('.')[2].replace('_', '-')}"
            yield override(key, str(value) if isinstance(value, Path) else value, option)
    if options["size"] is not None:
        sides = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", options["size"])
        if sides is None:
            raise ConfigError(
                f"--size: write it as WIDTHxHEIGHT in pixels, such as 768x512, not {options['size']!r}"
            )
        yield override("width", int(sides[1]), "--size")
        yield override("height", int(sides[2]), "--size")
