"""What a run is asked to do: every setting, its bounds, and the errors that name the place."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from sdapp import schedulers
from sdapp.errors import ConfigError
from sdapp.scheduler_table import Option
from sdapp.settings import layers, ranges
from sdapp.settings.grid import Grid
from sdapp.settings.messages import explain, origin_of, place_message
from sdapp.settings.types import MAX_SEED, FilePath, Frozen, Text

Strength = Annotated[
    float,
    Field(ge=0, le=1, description="How much of the image is painted anew: int(steps × strength) steps run."),
]


class Txt2Img(Frozen):
    """An image from a prompt alone."""

    kind: Literal["txt2img"] = "txt2img"


class Img2Img(Frozen):
    """An image from an image."""

    kind: Literal["img2img"]
    image: Annotated[FilePath, Field(description="The image to start from.")]
    strength: Strength = 0.8


class Inpaint(Frozen):
    """An image in which the white part of a mask is painted anew; every other pixel stays as it is."""

    kind: Literal["inpaint"]
    image: Annotated[FilePath, Field(description="The image to mend.")]
    mask: Annotated[FilePath, Field(description="White is painted anew, black stays; as large as the image.")]
    strength: Strength = 1.0
    padding: Annotated[
        int | None,
        Field(
            ge=0,
            description="Paint only the masked part, with so many pixels around it, at the full width and height.",
        ),
    ] = None


Task = Annotated[Txt2Img | Img2Img | Inpaint, Field(discriminator="kind")]


class SchedulerChoice(Frozen):
    """A scheduler by any of its names, and options of its class."""

    name: Annotated[str, Field(min_length=1)] = "dpm++2m-karras"
    options: dict[str, Option] = {}

    def resolve(self) -> schedulers.Resolved:
        return schedulers.resolve(self.name, self.options)

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            self.resolve()
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
        return self


def _name_alone(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Memory(Frozen):
    """What to trade for memory on the device."""

    offload: Annotated[
        Literal["none", "model", "group", "sequential"],
        Field(
            description="Keep on the device only the part of the model (model) or the layer (sequential) that works; "
            "group: the layer, while the next of the UNet is on its way."
        ),
    ] = "none"
    vae_slicing: Annotated[bool, Field(description="Decode one image of a batch after the other.")] = False
    vae_tiling: Annotated[bool, Field(description="Decode large images in tiles; changes their tones.")] = (
        False
    )


TOKENS = (
    "prompt", "seed", "index", "scheduler", "steps", "guidance_scale", "width", "height", "model", "task", "id", "date", "time",
)  # fmt: skip
TOKEN_LIST = " ".join(f"{{{token}}}" for token in TOKENS)


def _check_template(template: str) -> str:
    rest = re.sub(r"\{(\w+)\}", lambda match: "" if match[1] in TOKENS else match[0], template)
    if "{" in rest or "}" in rest:
        raise ValueError(f"the tokens are {TOKEN_LIST}")
    if not template.strip(" .") or re.search(r'[/\\:*?"<>|\x00-\x1f\x7f]', rest):
        raise ValueError("a file name without folders; choose the folder with output.dir")
    return template


class Output(Frozen):
    """Where images go and what they are called."""

    dir: Annotated[FilePath, Field(description="The folder; made if need be.")] = "outputs"
    name: Annotated[
        str,
        AfterValidator(_check_template),
        Field(description=f"File-name template of {TOKEN_LIST} and plain text."),
    ] = "{prompt}-{seed}"
    format: Annotated[
        Literal["png", "jpeg", "webp"], Field(description="All carry the record; png is lossless.")
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100, description="Of JPEG and WebP; WebP is lossless at 100.")] = (
        95
    )


Switch = Literal["auto", "on", "off"]
BatchSize = Annotated[int, Field(ge=1, le=256)] | Literal["auto"]


def _multiple_of_8(pixels: int) -> int:
    if pixels % 8:
        raise ValueError(f"must be a multiple of 8; the nearest are {nearest_sizes(pixels)}")
    return pixels


Side = Annotated[
    Annotated[int, Field(ge=8, le=8192), AfterValidator(_multiple_of_8)] | None,
    Field(description="Pixels, a multiple of 8; else the input image's or the model's own."),
]


WHOLE_INTERVAL = [0.0, 1.0]
Interval = Annotated[
    list[float],
    BeforeValidator(
        ranges.interval,
        json_schema_input_type=str
        | Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)],
    ),
]


class RunConfig(Frozen):
    """Every setting of a run, as asked for."""

    model: Annotated[
        str,
        Field(
            min_length=1,
            description="postcards (built in), a Hub id, a diffusers folder or a .safetensors file.",
        ),
    ] = "postcards"
    revision: Annotated[str | None, Field(description="Branch, tag or commit of a Hub id.")] = None
    vae: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        Field(
            description="An autoencoder instead of the model's own: a Hub id (org/name, org/name@revision), a diffusers folder "
            "or a .safetensors file."
        ),
    ] = None
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float16", "bfloat16", "float32"],
        Field(description="auto: float16 on CUDA and MPS, else float32."),
    ] = "auto"
    scheduler: Annotated[
        SchedulerChoice,
        BeforeValidator(_name_alone, json_schema_input_type=str | SchedulerChoice),
        Field(description="A name (see `sdapp schedulers`), or {name, options}."),
    ] = SchedulerChoice()
    steps: Annotated[int, Field(ge=1, le=1000, description="Denoising steps.")] = 20
    guidance_scale: Annotated[
        float,
        Field(ge=0, le=100, description="Classifier-free guidance; at 1 or below the prompt alone steers."),
    ] = 7.5
    guidance_interval: Annotated[
        Interval,
        Field(description="The part of the run that is guided, as fractions; outside it a step costs half."),
    ] = WHOLE_INTERVAL
    negative_prompt: Annotated[Text, Field(description="What guidance steers away from.")] = ""
    width: Side = None
    height: Side = None
    seed: Annotated[
        int | None,
        Field(ge=0, le=MAX_SEED, description="Of the first image; each next has one more. Else drawn."),
    ] = None
    count: Annotated[int, Field(ge=1, le=1_000_000, description="How many images.")] = 1
    batch_size: Annotated[
        BatchSize, Field(description="Images denoised at a time; auto finds what is fast and fits.")
    ] = 1
    task: Task = Txt2Img()
    prompt: Annotated[Text | None, Field(description="What to paint.")] = None
    eta: Annotated[float | None, Field(ge=0, le=1, description="Share of fresh noise in DDIM and TCD.")] = (
        None
    )
    clip_skip: Annotated[
        int, Field(ge=0, le=11, description="Layers of the text encoder to leave out at its end.")
    ] = 0
    cache_interval: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Every N-th UNet call is whole; those between take its deep part from it.",
        ),
    ] = 1
    memory: Memory = Memory()
    compile: Annotated[
        Switch,
        Field(
            description="torch.compile of the UNet; auto: on CUDA, where the run is long enough to repay it."
        ),
    ] = "auto"
    channels_last: Annotated[Switch, Field(description="Memory layout of the weights; auto: on CUDA.")] = (
        "auto"
    )
    output: Output = Output()
    compare: Annotated[Grid | None, Field(description="The grid of `sdapp compare`.")] = None


def validate(merged: layers.Layer) -> RunConfig:
    """Check merged settings. Raises ConfigError with every error: where, key, what, what is allowed, the nearest key."""
    try:
        config = RunConfig.model_validate(merged.values)
    except ValidationError as exc:
        raise ConfigError(
            "\n".join(dict.fromkeys(explain(error, merged, RunConfig) for error in exc.errors()))
        ) from None
    errors = []
    for key, message in _cross_checks(config):
        rest = message.removeprefix(f"{key}: ")  # of some, the message names two keys
        errors.append(
            place_message(key, rest, merged) if rest != message else f"{origin_of(key, merged)}: {message}"
        )
    if errors:
        raise ConfigError("\n".join(errors))
    return config


def _cross_checks(config: RunConfig) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    try:
        schedulers.check_run(config.scheduler.resolve(), config.steps, config.eta)
    except ConfigError as exc:
        found.append((str(exc).partition(":")[0], str(exc)))
    if not isinstance(config.task, Txt2Img) and int(config.steps * config.task.strength) < 1:
        at_least = min(1.0, -(-100 // config.steps) / 100)
        found.append(("task.strength", f"task.strength: {config.task.strength:g} of {config.steps} steps leaves none to run; "
                      f"use at least {at_least:g}"))  # fmt: skip
    if (config.width is None) != (config.height is None):
        found.append(("width" if config.width else "height", "width and height: give both or neither"))
    if config.seed is not None and config.seed + config.count - 1 > MAX_SEED:
        found.append(("seed", f"seed: seed + count goes past {MAX_SEED}"))
    if config.dtype == "float16" and config.device == "cpu":
        found.append(
            ("dtype", "dtype: float16 cannot run on a CPU; use float32, or bfloat16 where the CPU has it")
        )
    if config.compile == "on" and config.memory.offload != "none":
        found.append(
            ("compile", "compile: a UNet that is offloaded cannot be compiled; choose one of the two")
        )
    return found


def nearest_sizes(pixels: int) -> str:
    """The multiples of 8 around a number of pixels, in words."""
    below = pixels // 8 * 8
    return f"{below} and {below + 8}" if below else "8"
