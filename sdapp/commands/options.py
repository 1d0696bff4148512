"""The options of every command that paints, defined once, and the layers of settings that they become."""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sdapp.commands import completion
from sdapp.commands.terminal import plain_parameters, print_note, say
from sdapp.config import PREVIEW, SETTINGS, RunConfig, folders_of, own_layers, read_config_file, read_override
from sdapp.errors import ConfigError
from sdapp.images import IMAGE_SUFFIXES
from sdapp.metadata.read import read_settings
from sdapp.models.files import BUILT_IN
from sdapp.profiles import PROFILES
from sdapp.profiling import profiled
from sdapp.settings.layers import Layer, combine, override


def option(
    kind: Any,
    *names: str,
    complete: completion.Completion | None = None,
    panel: str | None = None,
    **settings: Any,
) -> Any:
    """Return the annotation of an option that can be left out; `panel` is its group in --help."""
    if kind in (int, float):
        settings |= {"parser": to_number, "metavar": "N"}
    settings |= {"autocompletion": complete, "rich_help_panel": panel, "show_default": False}
    return Annotated[kind | None, typer.Option(*names, **settings)]


def to_number(text: str) -> int | float | str:
    """Return a number, or text that is none as it is; settings are checked later, all in one place."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def switch(*names: str, help: str, panel: str | None = None) -> Any:
    """Return the annotation of an option without a value."""
    return Annotated[bool, typer.Option(*names, help=help, rich_help_panel=panel)]


def check_is_folder(path: Path | None) -> Path | None:
    """Refuse the name of an image where a folder is needed."""
    if path is not None and path.suffix.lower() in (*IMAGE_SUFFIXES, ".html") and not path.is_dir():
        raise ConfigError(f"--out: give the folder for all files, not the name of one, {str(path)!r}")
    return path


IMAGE, MODEL, OUTPUT, RUN = "Image", "Model", "Output", "Run"  # the groups of options in --help
DEFAULT_VALUES = {name: field.default for name, field in RunConfig.model_fields.items()}
FROM_FILES = "Settings from a YAML file, a preset (sd15, sdxl-turbo, …) or an image; the last one wins."
SIZES = (
    "Pixels, such as 768x512. Of the model if not given: 512x512 for SD 1.5; SDXL was trained on 1024x1024, "
    "1152x896, 1216x832, 1344x768 and 1536x640, and these upright."
)
QUOTE = "quote the prompt, or a name with spaces"
DryRun = switch("--dry-run", help="Check everything, print what would be painted, and stop.", panel=RUN)
OPTIONS: dict[str, Any] = {
    "negative_prompt": option(
        str, "--negative-prompt", "-n", metavar="TEXT", help="What to steer away from.", panel=IMAGE
    ),
    "seed": option(
        int,
        "--seed",
        "-s",
        help="Seed of the first image; each next one adds 1. -1, or none: random.",
        panel=IMAGE,
    ),
    "count": option(int, "--count", help="Images, each with another seed; default: 1.", panel=IMAGE),
    "steps": option(
        int, "--steps", help=f"Denoising steps; default: {DEFAULT_VALUES['steps']}.", panel=IMAGE
    ),
    "guidance_scale": option(
        float,
        "--guidance-scale",
        "-g",
        help=f"How strongly the prompt steers; default: {DEFAULT_VALUES['guidance_scale']}.",
        panel=IMAGE,
    ),
    "scheduler": option(
        str,
        "--scheduler",
        metavar="NAME",
        help=f"See `sdapp schedulers`; default: {DEFAULT_VALUES['scheduler'].name}.",
        complete=completion.offer(completion.SCHEDULERS),
        panel=IMAGE,
    ),
    "size": option(str, "--size", metavar="WxH", help=SIZES, panel=IMAGE),
    "upscale": option(
        float, "--upscale", help="Make each image larger by this factor, and denoise it again.", panel=IMAGE
    ),
    "detail": option(
        list[str],
        "--detail",
        metavar="WORDS[:STRENGTH]",
        help="Find what the words name in the finished image, such as face, and repaint it larger.",
        panel=IMAGE,
    ),
    "model": option(
        str,
        "--model",
        "-m",
        metavar="NAME",
        help=f"A Hub id, a folder or a .safetensors file; default: {BUILT_IN}, which is built in.",
        complete=completion.model_names,
        panel=MODEL,
    ),
    "loras": option(
        list[str],
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="A LoRA file; default weight: 1. Can be repeated.",
        panel=MODEL,
    ),
    "embeddings": option(
        list[str],
        "--embedding",
        metavar="FILE[:NAME]",
        help="An embedding; its NAME in a prompt stands for it.",
        panel=MODEL,
    ),
    "control": option(
        list[str],
        "--control",
        metavar="MODEL:IMAGE[:SCALE]",
        help="A ControlNet and its image. Can be repeated.",
        panel=MODEL,
    ),
    "device": option(
        str,
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps; default: auto.",
        complete=completion.offer(completion.DEVICES),
        panel=MODEL,
    ),
    "dtype": option(
        str,
        "--dtype",
        metavar="NAME",
        help="auto, float16, bfloat16 or float32; default: auto (float16 on a GPU).",
        complete=completion.offer(completion.DTYPE_NAMES),
        panel=MODEL,
    ),
    "output.dir": option(
        Path,
        "--out",
        "-o",
        metavar="PATH",
        help=f"A folder, or the file of the image (cat.png); default: {DEFAULT_VALUES['output'].dir}.",
        panel=OUTPUT,
    ),
    "preview": option(
        bool, "--preview", help=f"Keep {PREVIEW} there fresh while an image is painted.", panel=OUTPUT
    ),
    "json": switch("--json", help="Print a line of JSON for each image instead of its path.", panel=OUTPUT),
    "config": option(
        list[Path],
        "--config",
        "-c",
        metavar="FILE",
        help=FROM_FILES,
        complete=completion.configs,
        panel=RUN,
    ),
    "set": option(
        list[str],
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, such as --set clip_skip=1.",
        complete=completion.setting_keys,
        panel=RUN,
    ),
    "offline": switch("--offline", help="Never ask the Hub: take models from the cache.", panel=RUN),
    "profile": switch("--profile", help="Print at the end where the time went.", panel=RUN),
    "verbose": switch("--verbose", "-v", help="Show messages of diffusers and transformers.", panel=RUN),
}
SWITCHES = ("json", "offline", "profile", "verbose")
IMAGE_FORMATS = {".png": "png", ".jpg": "jpeg", ".webp": "webp"}
IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")  # whatever the name
RAY = option(
    str,
    "--ray",
    metavar="ADDRESS",
    help="Paint on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.",
    panel=RUN,
)
# What gave a setting, where that is not the option of its name.
ORIGINS = {
    **dict.fromkeys(("output.dir", "output.name", "output.format"), "--out"),
    "executor.address": "--ray",
    "loras": "--lora",
    "embeddings": "--embedding",
    "prompt": "PROMPT",
    "compare.prompts": "PROMPT",
    "upscale.model": "--upscaler",
    "task.mask_prompt": "--mask-prompt",
    "task.kind": "sdapp {}",
    "task.image": "IMAGE",
    "task.mask": "MASK",
}
NOT_SETTINGS = ("config", "set", "size", *SWITCHES)
Options = dict[str, Any]  # the values by the keys of OPTIONS, None for what was not given
Function = Callable[..., None]
OTHER_OPTIONS = {  # names that other programs have → what sdapp has instead
    **{f"--{key.replace('_', '-').replace('.', '-')}": f"--set {key}=VALUE" for key in SETTINGS},
    **dict.fromkeys(("--width", "--height", "--resolution"), "--size WIDTHxHEIGHT"),
    **dict.fromkeys(("--cfg", "--cfg-scale", "--cfg_scale", "--guidance"), "--guidance-scale N"),
    **dict.fromkeys(("--sampler", "--sampler-name"), "--scheduler NAME"),
    **dict.fromkeys(("--num-images", "--n-iter", "--n_iter", "--n-samples"), "--count N"),
    **dict.fromkeys(("--negative", "--neg"), "--negative-prompt TEXT"),
    **dict.fromkeys(("--output", "--outdir"), "--out FOLDER"),
    "--precision": "--dtype NAME",
    "--num-inference-steps": "--steps N",
    "--vae": "--set vae=NAME",
    "-y": "--yes",
}
NO_OPTIONS = {  # habits for which there is nothing to write
    **dict.fromkeys(("-q", "--quiet"), "stdout has only the paths; 2>/dev/null hides the rest"),
    **dict.fromkeys(("-y", "--yes"), "nothing asks a question"),
}
NOT_HERE = {  # options that a command lacks → what to do instead, where --set does not help
    ("grid", "--count"): "each cell has one image; for more, use seeds: --z seed=1-3",
    ("compare", "--count"): "for more images, use seeds: --seeds 1-3",
    ("explain", "--count"): "one image is explained; leave it out",
    ("explain", "--upscale"): "only one pass of denoising can be explained; leave it out",
    ("upscale", "--count"): "each image is made larger once; leave it out",
    ("upscale", "--upscale"): "use --scale N",
}


class Command(TyperCommand):
    """A command that says what to write for options of other programs and for text without quotes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for parameter in self.params for name in parameter.opts}
        for name in (arg.partition("=")[0] for arg in args if not ctx.resilient_parsing):
            if hint := NOT_HERE.get((str(ctx.info_name), name)):
                raise ConfigError(f"{name}: no such option; {hint}")
            plural = f"{name}s"  # such as --schedulers of `sdapp compare`
            way = plural if plural in known and name != "-" else OTHER_OPTIONS.get(name, "")
            if name not in known and way.partition(" ")[0] in known:
                raise ConfigError(f"{name}: no such option; use {way}")
            if name not in known and name in NO_OPTIONS:
                raise ConfigError(f"{name}: no such option; {NO_OPTIONS[name]}")
        ctx.allow_extra_args, is_measured = True, "--profile" in args
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            is_profile = is_measured and rest[0] in PROFILES
            names = [str(each.metavar) for each in self.params if each.param_type_name == "argument"]
            way = (
                f"give {' and '.join(names)} only, in quotes if there are spaces" if names else "leave it out"
            )
            way = QUOTE if "PROMPT" in names else way
            way = f"--set profile={rest[0]}; --profile measures times" if is_profile else way
            raise ConfigError(f"too many words: {' '.join(rest)}; {way}")
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_parameters(super().get_params(ctx))


def out_folder(default: str) -> Any:
    """Return the annotation of --out where it is always a folder."""
    text = f"The folder for all files; default: {default}."
    return option(Path, "--out", "-o", metavar="FOLDER", help=text, callback=check_is_folder, panel=OUTPUT)


OUT_FOLDER = out_folder(DEFAULT_VALUES["output"].dir)


def with_options(
    *without: str, own: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Function], Function]:
    """Add the shared options, except those `without`, and its `own`, which replace shared ones, to a command.

    Its first argument gets their values, as `Options`.
    """
    shared = {name: hint for name, hint in OPTIONS.items() if name not in without}
    first = {name: hint for name, hint in own.items() if hint.__metadata__[0].rich_help_panel != OUTPUT}
    table = {**{name: hint for name, hint in first.items() if name not in shared}, **shared, **own}

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
            if options["offline"]:
                os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
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
        if _is_image(file):
            layers = [read_settings(file, folders_of([*own_layers(), *found]))]
        else:
            layers = read_config_file(file)
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
    """Return the layers of the user's own config and SDAPP_MODEL, and over them those of `given_layers`."""
    return [*own_layers(), *given_layers(options, own)]


def given_layers(options: Options, own: Options | None = None) -> list[Layer]:
    """Return the layers of the --config files, and over them one of everything else on the command line.

    `own` has the command's own settings by their dotted keys. Raises ConfigError for a --size that is none.
    """
    files = file_layers(options["config"])
    layers = [read_override(text) for text in options["set"] or []]
    for key, value in (options | _named_image(options["output.dir"]) | (own or {})).items():
        if key not in NOT_SETTINGS and value is not None:
            layers.append(_option_layer(key, value))
    if options["size"] is not None:
        sides = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", options["size"])
        if sides is None:
            example = "{0}x{0}".format(options["size"]) if options["size"].isdecimal() else "768x512"
            way = f"write it as WIDTHxHEIGHT in pixels, such as {example}"
            raise ConfigError(f"--size: {way}, not {options['size']!r}")
        layers += [override("width", int(sides[1]), "--size"), override("height", int(sides[2]), "--size")]
    return [*files, combine(layers)]


def _option_layer(key: str, value: Any) -> Layer:
    """The layer of an option. If it can be repeated, each item has its own place: `--detail face:0.3`."""
    name = ORIGINS.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}").format(value)
    layer = override(key, str(value) if isinstance(value, Path) else value, name)
    items = value if isinstance(value, list) and name.startswith("--") else []
    return replace(
        layer, origins=layer.origins | {f"{key}.{i}": f"{name} {item}" for i, item in enumerate(items)}
    )


def _named_image(out: Path | None) -> Options:
    """The settings of an --out that names an image instead of a folder; none of one that names a folder."""
    if out is None or out.suffix.lower() not in IMAGE_SUFFIXES or out.is_dir():
        return {}
    if out.suffix not in IMAGE_FORMATS:
        raise ConfigError(f"--out: {out}: write the suffix as one of {', '.join(IMAGE_FORMATS)}")
    return {"output.dir": out.parent, "output.name": out.stem, "output.format": IMAGE_FORMATS[out.suffix]}
