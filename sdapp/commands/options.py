"""The flags of every command that paints, defined once, and the layers of settings that they become."""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

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
        help="A YAML config, or an image of sdapp, A1111, ComfyUI, InvokeAI or kohya; later ones win.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as --set clip_skip=1."),
]
OPTIONS: dict[str, Any] = {
    "config": ConfigFiles,
    "negative_prompt": Annotated[
        str | None, typer.Option("--negative-prompt", "-n", help="What to steer away from.")
    ],
    "seed": Annotated[
        int | None, typer.Option("--seed", "-s", help="Of the first image; drawn if not given.")
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
    "profile": Annotated[bool, typer.Option("--profile", help="Say in the end where the time went.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Let diffusers and transformers speak.")],
}
OPTION_DEFAULTS = {"json": False, "profile": False, "verbose": False}
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
NOT_SETTINGS = ("config", "json", "set", "profile", "verbose", "size")
PromptArgument = Annotated[
    str | None, typer.Argument(help="What to paint; else the config's prompt.", show_default=False)
]
StrengthOption = Annotated[float | None, typer.Option("--strength", help="How much is painted anew: 0 to 1.")]


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every flag of FLAGS; it gets them as one dictionary, its first argument."""
    return without()(command)


def without(*flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same but for some flags, which are None in the dictionary."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(
                name.replace(".", "_"),
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hint,
                default=OPTION_DEFAULTS.get(name),
            )
            for name, hint in OPTIONS.items()
            if name not in flags
        ]

        def run(**values: Any) -> None:
            said = {name: None if name in flags else values.pop(name.replace(".", "_")) for name in OPTIONS}
            with profiled(partial(typer.echo, err=True)) if said["profile"] else nullcontext():
                command(said, **values)

        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def file_layers(files: list[Path] | None) -> list[Layer]:
    """The layers of --config files and images."""
    found: list[Layer] = []
    for file in files or []:
        found += [read_settings(file)] if file.suffix.lower() in PICTURES else read_config_file(file)
    return found


def all_layers(flags: dict[str, Any], own: list[Layer]) -> list[Layer]:
    """Files first; over them all that the command line says, whatever its order."""
    said = [*(parse_override(text) for text in flags["set"] or []), *flag_layers(flags), *own]
    return [*file_layers(flags["config"]), combine(said)]


def flag_layers(flags: dict[str, Any]) -> Iterator[Layer]:
    """A layer for each flag that was given. Raises ConfigError for a --size that is none."""
    for dotted, value in flags.items():
        if dotted not in NOT_SETTINGS and value is not None:
            flag = "--out" if dotted == "output.dir" else f"--{dotted.replace('_', '-')}"
            yield override(dotted, str(value) if isinstance(value, Path) else value, flag)
    if flags["size"] is not None:
        sides = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", flags["size"])
        if sides is None:
            raise ConfigError(
                f"--size: write it as WIDTHxHEIGHT in pixels, such as 768x512, not {flags['size']!r}"
            )
        yield override("width", int(sides[1]), "--size")
        yield override("height", int(sides[2]), "--size")
