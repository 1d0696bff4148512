"""The options of every command that paints, defined once, and the layers of settings that they become."""

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sdapp.commands.terminal import print_note, say
from sdapp.config import read_config_file, read_override, read_user_config
from sdapp.errors import ConfigError
from sdapp.metadata.read import read_settings
from sdapp.models.files import BUILT_IN
from sdapp.profiling import profiled
from sdapp.settings.layers import Layer, combine, override


def option(kind: Any, *names: str, **settings: Any) -> Any:
    """Return the annotation of an option that can be left out."""
    if kind in (int, float):
        settings |= {"parser": to_number, "metavar": "N"}
    return Annotated[kind | None, typer.Option(*names, show_default=False, **settings)]


def to_number(text: str) -> int | float | str:
    """Return a number, or text that is none as it is; settings are checked later, all in one place."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def switch(*names: str, help: str) -> Any:
    """Return the annotation of an option without a value."""
    return Annotated[bool, typer.Option(*names, help=help)]


FROM_FILES = "Settings from a YAML file, a preset (sd15, sdxl-turbo, …) or an image; the last one wins."
ConfigFiles = option(list[Path], "--config", "-c", help=FROM_FILES)
Overrides = option(list[str], "--set", metavar="KEY=VALUE", help="Any setting, such as --set clip_skip=1.")
SIZES = (
    "Pixels, such as 768x512. Of the model if not given: 512x512 for SD 1.5; SDXL was trained on 1024x1024, "
    "1152x896, 1216x832, 1344x768 and 1536x640, and these upright."
)
DryRun = switch("--dry-run", help="Check everything, print what would be painted, and stop.")
OPTIONS: dict[str, Any] = {
    "config": ConfigFiles,
    "negative_prompt": option(str, "--negative-prompt", "-n", help="What to steer away from."),
    "seed": option(
        int, "--seed", "-s", help="Seed of the first image; each next one adds 1. Random if not given."
    ),
    "count": option(int, "--count", help="Number of images, each with another seed."),
    "steps": option(int, "--steps", help="Denoising steps."),
    "guidance_scale": option(float, "--guidance-scale", "-g", help="How strongly the prompt steers."),
    "scheduler": option(str, "--scheduler", help="Any name that `sdapp schedulers` knows."),
    "size": option(str, "--size", metavar="WxH", help=SIZES),
    "loras": option(list[str], "--lora", metavar="FILE[:WEIGHT]", help="A LoRA file. Can be repeated."),
    "embeddings": option(
        list[str],
        "--embedding",
        metavar="FILE[:NAME]",
        help="An embedding; its NAME in a prompt stands for it.",
    ),
    "model": option(str, "--model", "-m", help=f"{BUILT_IN}, a Hub id, a folder or a .safetensors file."),
    "device": option(str, "--device", help="auto, cpu, cuda, cuda:N or mps."),
    "dtype": option(str, "--dtype", help="auto, float16, bfloat16 or float32."),
    "output.dir": option(Path, "--out", "-o", help="The folder for the images."),
    "json": switch("--json", help="Print a line of JSON for each image instead of its path."),
    "set": Overrides,
    "profile": switch("--profile", help="Print at the end where the time went."),
    "verbose": switch("--verbose", "-v", help="Show messages of diffusers and transformers."),
}
SWITCHES = ("json", "profile", "verbose")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")  # whatever the name
# What gave a setting, where that is not the option of its name.
ORIGINS = {
    "output.dir": "--out",
    "loras": "--lora",
    "embeddings": "--embedding",
    "prompt": "PROMPT",
    "compare.prompts": "PROMPT",
    "task.kind": "sdapp {}",
    "task.image": "IMAGE",
    "task.mask": "MASK",
}
NOT_SETTINGS = ("config", "set", "size", *SWITCHES)
Options = dict[str, Any]  # the values by the keys of OPTIONS, None for what was not given
Function = Callable[..., None]
OTHER_OPTIONS = {  # names that other programs have → what sdapp has instead
    **dict.fromkeys(("--width", "--height", "--resolution"), "--size WIDTHxHEIGHT"),
    **dict.fromkeys(("--cfg", "--cfg-scale", "--cfg_scale", "--guidance"), "--guidance-scale N"),
    **dict.fromkeys(("--sampler", "--sampler-name"), "--scheduler NAME"),
    **dict.fromkeys(("--num-images", "--n-iter", "--n_iter", "--n-samples"), "--count N"),
    **dict.fromkeys(("--negative", "--neg"), "--negative-prompt TEXT"),
    **dict.fromkeys(("--output", "--outdir"), "--out FOLDER"),
    "--precision": "--dtype NAME",
}


class Command(TyperCommand):
    """A command that says what to write for options of other programs and for text without quotes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for parameter in self.params for name in parameter.opts}
        for name in (arg.partition("=")[0] for arg in args if not ctx.resilient_parsing):
            way = OTHER_OPTIONS.get(name, "")
            if name not in known and way.partition(" ")[0] in known:
                raise ConfigError(f"{name}: no such option; use {way}")
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            raise ConfigError(
                f"too many words: {' '.join(rest)}; put a prompt, or a name with spaces, in quotes"
            )
        return rest


def with_options(
    *without: str, own: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Function], Function]:
    """Add the shared options, except those `without`, and its `own` to a command.

    Its first argument gets their values, as `Options`.
    """
    shared = {name: hint for name, hint in OPTIONS.items() if name not in without}
    table = {**own, **shared}

    def decorate(command: Function) -> Function:
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
            with profiled(say) if options["profile"] else nullcontext():
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
        layers = [read_settings(file)] if _is_image(file) else read_config_file(file)
        for layer in layers:
            for note in layer.notes:
                print_note(note)
            found.append(layer)
    return found


def _is_image(file: Path) -> bool:
    """Whether a file is an image by its name or, such as `.jfif` or without a suffix, by its first bytes."""
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with suppress(OSError), file.open("rb") as opened:  # the reader of configs says what is wrong
        return opened.read(4).startswith(IMAGE_STARTS)
    return False


def all_layers(options: Options, own: Options | None = None) -> list[Layer]:
    """Return the layers of the user's own config, and over them those of `given_layers`."""
    return [*read_user_config(), *given_layers(options, own)]


def given_layers(options: Options, own: Options | None = None) -> list[Layer]:
    """Return the layers of the --config files, and over them one of everything else on the command line.

    `own` has the command's own settings by their dotted keys. Raises ConfigError for a --size that is none.
    """
    files = file_layers(options["config"])
    layers = [read_override(text) for text in options["set"] or []]
    for key, value in (options | (own or {})).items():
        if key not in NOT_SETTINGS and value is not None:
            plain = str(value) if isinstance(value, Path) else value
            option_name = f"--{key.rpartition('.')[2].replace('_', '-')}"
            layers.append(override(key, plain, ORIGINS.get(key, option_name).format(value)))
    if options["size"] is not None:
        sides = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", options["size"])
        if sides is None:
            way = "write it as WIDTHxHEIGHT in pixels, such as 768x512"
            raise ConfigError(f"--size: {way}, not {options['size']!r}")
        layers += [override("width", int(sides[1]), "--size"), override("height", int(sides[2]), "--size")]
    return [*files, combine(layers)]
