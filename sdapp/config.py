"""Every setting: what it belongs to, its bounds and its default. Everything else is derived from this.

To add a setting, add its field to the class of what it belongs to: `ImageSettings`, `ModelSettings` (a load
that changes pixels), `LoadSettings` (a load), or `RunConfig` (the run). `Setting` says more about it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_config_path
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from sdapp import schedulers
from sdapp.errors import ConfigError, without_repeats
from sdapp.markup import Emphasis, PromptSyntax
from sdapp.profiles import PROFILES, ProfileName, Rng
from sdapp.scheduler_table import Option
from sdapp.settings import files, layers, ranges
from sdapp.settings.grid import Grid
from sdapp.settings.messages import explain_error, place_message
from sdapp.settings.types import MAX_SEED, FilePath, Frozen, ModelReference, Setting, Text, declared

MASK_MODEL = "CIDAS/clipseg-rd64-refined"
Strength = Annotated[
    float, Field(ge=0, le=1, description="How much to repaint, 0 to 1: int(steps × strength) steps run.")
]


class Txt2Img(Frozen):
    """An image from a prompt alone."""

    kind: Annotated[Literal["txt2img"], Setting("text")] = "txt2img"


class Img2Img(Frozen):
    """An image from an image."""

    kind: Annotated[Literal["img2img"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to start from.")]
    strength: Strength = 0.8


def _has_words(text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise ValueError("must not be empty; name what to repaint, such as face")
    return text


Words = Annotated[Text, AfterValidator(_has_words)]


class FoundMask(Frozen):
    """A mask that a model finds by words, such as `face`."""

    mask_model: Annotated[
        ModelReference | None,
        Field(
            description="What finds it, such as a CLIPSeg: org/name[@revision] or a folder; "
            f"default: {MASK_MODEL}, for postcards its own."
        ),
    ] = None
    mask_threshold: Annotated[
        float | None,
        Field(gt=0, lt=1, description="How sure the mask model must be; default: what suits its kind."),
    ] = None
    mask_growth: Annotated[
        int, Field(ge=0, le=256, description="Pixels by which what is found grows on all sides.")
    ] = 4
    mask_sha256: Annotated[
        str | None, Field(description="Of the mask model's file; another is refused."), Setting("name")
    ] = None


class Inpaint(FoundMask):
    """An image in which the white part of a mask is repainted; every other pixel stays as it is."""

    kind: Annotated[Literal["inpaint"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to repaint a part of.")]
    mask: Annotated[
        FilePath | None, Field(description="White is repainted, black stays; same size as the image.")
    ] = None
    mask_prompt: Annotated[
        Words | None,
        Field(description="Words for what to repaint, such as face: a model finds it, in place of a mask."),
    ] = None
    strength: Strength = 1.0
    padding: Annotated[
        int | None,
        Field(ge=0, description="Pixels around the mask: only this part is painted, at the full size."),
    ] = None


def _sides(value: object) -> object:
    """Read `left=128,right=64`; something else is returned as it is."""
    if not isinstance(value, str):
        return value
    parts = [part for part in re.split(r"[,;\s]+", value) if part]
    pairs = [re.fullmatch(r"(\w+)=(\d{1,9})", part) for part in parts]
    if not parts or not all(pairs):
        raise ValueError(f"write it as left=128,right=64, not {value!r:.80}")
    return {pair[1]: int(pair[2]) for pair in pairs if pair}


Added = Annotated[int, Field(ge=0, le=8192)]


class Sides(Frozen):
    """How many pixels an image grows by, on each side."""

    left: Added = 0
    right: Added = 0
    top: Added = 0
    bottom: Added = 0


class Outpaint(Frozen):
    """An image that is continued beyond its sides; every pixel of it stays as it is."""

    kind: Annotated[Literal["outpaint"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to continue.")]
    sides: Annotated[
        Sides,
        BeforeValidator(_sides, json_schema_input_type=str | Sides),
        Field(description="Pixels to add, such as left=128,right=64; as options: --left 128 --right 64."),
        Setting("text"),
    ]
    strength: Annotated[
        float,
        Field(gt=0, le=1, description="How far from the continued colours; 1 suits models for inpainting."),
    ] = 0.9


class UpscaleImage(Frozen):
    """An image that exists: nothing is painted before it is upscaled."""

    kind: Annotated[Literal["upscale"], Setting("text")]
    image: Annotated[FilePath, Field(description="The image to upscale.")]


Task = Annotated[Txt2Img | Img2Img | Inpaint | Outpaint | UpscaleImage, Field(discriminator="kind")]


class SchedulerChoice(Frozen):
    """A scheduler by any of its names, and options of its class."""

    name: Annotated[str, Field(min_length=1), Setting("name")] = "dpm++2m-karras"
    options: dict[str, Annotated[Option, Setting(expected="text, a number, true, false or null")]] = {}
    exact: Annotated[
        bool,
        Field(exclude=True, description="Keep its timesteps, even if the model was made for others."),
    ] = False

    def resolve(self) -> schedulers.Resolved:
        """Find the scheduler and every option that it is built with. Raises ConfigError."""
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


AutoSwitch = Annotated[bool | Literal["auto"], Setting(expected="true, false or auto")]


def _multiple_of_8(pixels: int) -> int:
    if pixels % 8:
        below = pixels // 8 * 8
        raise ValueError(f"must be a multiple of 8; the nearest are {below} and {below + 8}")
    return pixels


Enlarger = Literal["lanczos", "latent", "latent-bicubic", "latent-nearest", "model"]


def _scale_alone(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"scale": value} if is_number else value


class Upscale(Frozen):
    """A stage after the first image, which makes it larger; `width` and `height` stay those of the first."""

    scale: Annotated[
        float, Field(gt=1, le=16, description="Sides of the final image: width and height times this.")
    ] = 2.0
    method: Annotated[
        Literal["hires", "model", "diffusion"],
        Field(
            description="hires: enlarge the image, then denoise it again; model: an upscaler such as ESRGAN; "
            "diffusion: an upscaler of Stable Diffusion."
        ),
    ] = "hires"
    enlarge: Annotated[
        Enlarger, Field(description="hires: what enlarges the image, or its latents; model: an upscaler.")
    ] = "lanczos"
    strength: Annotated[
        float, Field(gt=0, le=1, description="hires: how much may change; int(steps × strength) steps run.")
    ] = 0.4
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Default: as the first image.")] = None
    scheduler: Annotated[
        SchedulerChoice | None,
        BeforeValidator(_name_alone, json_schema_input_type=str | SchedulerChoice),
        Field(description="Default: as the first image."),
    ] = None
    noise_level: Annotated[
        int, Field(ge=0, le=350, description="diffusion, by the x4 upscaler: how much it may change.")
    ] = 20
    tile: Annotated[
        Annotated[int, Field(ge=64, le=8192), AfterValidator(_multiple_of_8)] | None,
        Field(description="Side in pixels of tiles that overlap; default: the whole image at once."),
    ] = None
    model: Annotated[
        ModelReference | None,
        Field(
            description="The upscaler: a .safetensors file; for diffusion a folder, or org/name[@revision]."
        ),
    ] = None
    sha256: Annotated[
        str | None, Field(description="Of the upscaler's tensors; others are refused."), Setting("name")
    ] = None

    @property
    def uses_model(self) -> bool:
        return self.method in ("model", "diffusion") or self.enlarge == "model"


class Memory(Frozen):
    """What to trade for memory on the device; auto: what the free memory of a GPU needs."""

    offload: Annotated[
        Literal["auto", "none", "model", "group", "sequential"],
        Field(
            description="Keep on the device only the part of the model (model) or the layer (sequential) "
            "that runs; group: that layer, while the UNet's next one is being copied."
        ),
    ] = "auto"
    vae_slicing: Annotated[AutoSwitch, Field(description="Decode the images of a batch one by one.")] = "auto"
    vae_tiling: Annotated[AutoSwitch, Field(description="Decode in tiles; changes colors a little.")] = "auto"


LABELS = ("tag", "id", "filename")  # what a line of a prompt file can have beside its settings
PLACEHOLDERS = (
    "prompt", "seed", "line", "index", "scheduler", "steps", "guidance_scale", "width", "height",
    "final_width", "final_height", "image", "model", "task", "id", "tag", "filename", "date", "time",
)  # fmt: skip
PLACEHOLDER_LIST = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def _check_template(template: str) -> str:
    rest = re.sub(r"\{(\w+)\}", lambda match: "" if match[1] in PLACEHOLDERS else match[0], template)
    if "{" in rest or "}" in rest:
        raise ValueError(f"the placeholders are {PLACEHOLDER_LIST}")
    if not template.strip(" .") or re.search(r'[/\\:*?"<>|\x00-\x1f\x7f]', rest):
        raise ValueError("must be a file name without folders; choose the folder with output.dir")
    return template


class Output(Frozen):
    """Where images are saved, and under which names."""

    dir: Annotated[FilePath, Field(description="The folder; created if it does not exist.")] = "outputs"
    name: Annotated[
        str,
        AfterValidator(_check_template),
        Field(description=f"File-name template of {PLACEHOLDER_LIST} and plain text."),
        Setting("text"),
    ] = "{prompt}-{seed}"
    format: Annotated[
        Literal["png", "jpeg", "webp"], Field(description="All of them contain the record; png is lossless.")
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100, description="JPEG and WebP; WebP is lossless at 100.")] = 95
    shared: Annotated[
        bool,
        Field(description="On a cluster: all nodes see this folder, and workers save images themselves."),
    ] = False


PREVIEW = "preview.png"
MAX_LORA_WEIGHT = 10


class Lora(Frozen):
    """A LoRA file and how strongly it changes the model."""

    file: FilePath
    weight: Annotated[float, Field(ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT)] = 1.0
    text_encoder_weight: Annotated[
        float | None,
        Field(
            ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT, description="For the text encoders; default: `weight`."
        ),
    ] = None
    sha256: Annotated[
        str | None, Field(description="Of its tensors; a file with others is refused."), Setting("name")
    ] = None


class Embedding(Frozen):
    """A file of textual inversion: vectors that take the place of a word in the prompts."""

    file: FilePath
    name: Annotated[
        str | None, Field(min_length=1, description="The word; default: as the file."), Setting("text")
    ] = None
    sha256: Annotated[str | None, Field(description="A file with another is refused."), Setting("name")] = (
        None
    )


def _each(read: Callable[[str], object]) -> Callable[[object], list[object]]:
    """Read each text among one value or a list of them; null is an empty list."""

    def read_all(value: object) -> list[object]:
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [read(each) if isinstance(each, str) else each for each in values]

    return read_all


def _embedding(text: str) -> object:
    """Read `FILE[:NAME]`."""
    found = re.fullmatch(r"(.+?)(?::([^:/\\]+))?", text, re.DOTALL)
    return {"file": found[1], "name": found[2]} if found else {"file": text}


def _lora(text: str) -> object:
    """Read `FILE[:WEIGHT[:TEXT_ENCODER_WEIGHT]]`."""
    number = r"(?::([-+]?(?:\d+\.?\d*|\.\d+)))?"
    found = re.fullmatch(rf"(.*?){number}{number}", text, re.DOTALL)
    assert found
    file, *weights = found.groups()
    given = zip(("weight", "text_encoder_weight"), weights, strict=True)
    return {"file": file} | {name: float(weight) for name, weight in given if weight}


CONTROL_FORM = "MODEL:IMAGE[:SCALE[:START..END]]"


class Control(Frozen):
    """A ControlNet, and the image that it follows."""

    model: Annotated[
        ModelReference, Field(description="org/name[@revision], a diffusers folder or a .safetensors file.")
    ]
    image: Annotated[
        FilePath, Field(description="What it follows, such as edges; a photo is not turned into them.")
    ]
    scale: Annotated[float, Field(ge=0, le=10, description="How strongly it steers.")] = 1.0
    start: Annotated[float, Field(ge=0, le=1, description="Where in the run it begins.")] = 0.0
    end: Annotated[float, Field(ge=0, le=1, description="Where in the run it ends.")] = 1.0
    sha256: Annotated[
        str | None, Field(description="Of the image; another image is refused."), Setting("name")
    ] = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start must be below end, not {self.start:g} and {self.end:g}")
        return self


def _control(text: str) -> object:
    """Read `MODEL:IMAGE[:SCALE[:START..END]]`; return any other text as it is."""
    path, number = r"((?:[A-Za-z]:(?=[\\/]))?[^:]+)", r"(\d+\.?\d*|\.\d+)"
    found = re.fullmatch(rf"{path}:{path}(?::{number})?(?::{number}\.\.{number})?", text)
    if found is None:
        return text
    model, image, *numbers = found.groups()
    given = zip(("scale", "start", "end"), numbers, strict=True)
    return {"model": model, "image": image} | {key: float(value) for key, value in given if value}


def _variants_of_control(value: object) -> object:
    """Read texts also in lists in a list, which are the variants of a line in a prompt file."""
    return [_variants_of_control(each) if isinstance(each, list) else each for each in _each(_control)(value)]


def _controls(value: object) -> object:
    values = _each(_control)(value)
    if bad := [each for each in values if isinstance(each, str)]:
        raise ValueError(f"write it as {CONTROL_FORM}, or {{model, image, …}}, not {bad[0]!r}")
    return values


DETAIL_FORM = "WORDS[:STRENGTH]"


class Detail(FoundMask):
    """A stage after painting: each place that words name is painted again at the full size, and put back."""

    mask_prompt: Annotated[Words, Field(description="Words for what to repaint, such as face.")]
    prompt: Annotated[Text | None, Field(description="What to paint there; default: as the image.")] = None
    negative_prompt: Annotated[Text | None, Field(description="Default: as the image.")] = None
    strength: Annotated[
        float, Field(gt=0, le=1, description="How much may change; int(steps × strength) steps run.")
    ] = 0.4
    padding: Annotated[int, Field(ge=0, le=8192, description="Pixels around the place that are seen.")] = 32


def _detail(text: str) -> object:
    """Read `WORDS[:STRENGTH]`."""
    words, colon, strength = text.rpartition(":")
    is_number = colon and re.fullmatch(r"\d+\.?\d*|\.\d+", strength)
    return {"mask_prompt": words, "strength": float(strength)} if is_number else {"mask_prompt": text}


Switch = Literal["auto", "on", "off"]
BatchSize = Annotated[
    Annotated[int, Field(ge=1, le=256)] | Literal["auto"], Setting(expected="a number from 1 to 256, or auto")
]


Side = Annotated[
    Annotated[int, Field(ge=8, le=8192), AfterValidator(_multiple_of_8)] | None,
    Field(description="Pixels, a multiple of 8; default: of the input image, else of the model."),
]

Pixels = Annotated[list[Annotated[int, Field(ge=0, le=16384)]], Field(min_length=2, max_length=2)]
Pair = Annotated[
    Pixels | None,
    BeforeValidator(ranges.pair, json_schema_input_type=str | Pixels | None),
    Setting(list_of=(int,)),
]
Fractions = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class ModelSettings(Frozen):
    """The settings of a load of the model that decide pixels."""

    model: Annotated[
        ModelReference,
        Field(description="postcards (built in), a Hub id, a diffusers folder or a .safetensors file."),
    ] = "postcards"
    revision: Annotated[str | None, Field(description="Branch, tag or commit (Hub)."), Setting("name")] = None
    vae: Annotated[
        ModelReference | None,
        Field(description="Another autoencoder: org/name[@revision], a folder or a .safetensors file."),
    ] = None
    base: Annotated[
        ModelReference | None,
        Field(description="A whole model that has what a single file lacks: text encoders, autoencoder."),
    ] = None
    dtype: Annotated[
        Literal["auto", "float16", "bfloat16", "float32"],
        Field(description="auto: float16 on CUDA and MPS, else float32."),
    ] = "auto"
    memory: Annotated[
        Memory,
        BeforeValidator(
            lambda value: {} if value == "auto" else value, json_schema_input_type=Literal["auto"] | Memory
        ),
        Field(description="auto, or {offload, vae_slicing, vae_tiling}."),
    ] = Memory()


class Score(Frozen):
    """What compares each image with its prompt."""

    kind: Annotated[Literal["clip"], Setting("name")] = "clip"
    model: Annotated[
        ModelReference, Field(description="A CLIP: org/name[@revision], or a folder of transformers.")
    ] = "openai/clip-vit-large-patch14"


def _kind_alone(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class LoadSettings(ModelSettings):
    """All settings of a load of the model: images whose settings here are equal can share a load."""

    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps."),
        Setting(expected="auto, cpu, cuda, cuda:N or mps"),
    ] = "auto"
    compile: Annotated[
        Switch, Field(description="torch.compile of the UNet; auto: on CUDA, if it saves time in this run.")
    ] = "auto"
    safety_checker: Annotated[
        ModelReference, Field(description="off; on: as the model ships it; or a folder or Hub id with one.")
    ] = "off"
    flagged: Annotated[
        Literal["skip", "write"],
        Field(description="Images that the safety checker flags: skip writes no file, write does."),
    ] = "skip"
    score: Annotated[
        Score | None,
        BeforeValidator(_kind_alone, json_schema_input_type=str | Score | None),
        Field(description="clip: record how alike image and prompt are to a CLIP model; not the quality."),
    ] = None
    channels_last: Annotated[Switch, Field(description="Memory layout of weights; auto: on CUDA.")] = "auto"


class ImageSettings(Frozen):
    """The settings that can differ from image to image: a prompt file can set them in a line."""

    scheduler: Annotated[
        SchedulerChoice,
        BeforeValidator(_name_alone, json_schema_input_type=str | SchedulerChoice),
        Field(description="A name (see `sdapp schedulers`), or {name, options}."),
        Setting(in_grid=True),
    ] = SchedulerChoice()
    steps: Annotated[int, Field(ge=1, le=1000, description="Denoising steps."), Setting(in_grid=True)] = 20
    guidance_scale: Annotated[
        float,
        Field(ge=0, le=100, description="Classifier-free guidance; at 1 or below only the prompt is used."),
    ] = 7.5
    guidance_interval: Annotated[
        list[float],
        BeforeValidator(ranges.interval, json_schema_input_type=str | Fractions),
        Field(description="The part of the run with guidance, as fractions; a step outside it costs half."),
        Setting(list_of=(int, float)),
    ] = [0.0, 1.0]
    guidance_rescale: Annotated[
        float, Field(ge=0, le=1, description="Against too strong contrasts; 0.7 for zero terminal SNR.")
    ] = 0.0
    prompt: Annotated[Text | None, Field(description="What to paint."), Setting("text", in_grid=True)] = None
    negative_prompt: Annotated[Text, Field(description="What guidance steers away from.")] = ""
    prompt_syntax: Annotated[
        PromptSyntax,
        Field(description="a1111: (x:1.2), [x], BREAK, any length; plain: all is text, 75 tokens are read."),
    ] = "a1111"
    emphasis: Annotated[
        Emphasis,
        Field(description="How weights act: A1111's Original (the mean stays as it was), or its No norm."),
    ] = "original"
    width: Side = None
    height: Side = None
    original_size: Annotated[
        Pair, Field(description="SDXL: WIDTHxHEIGHT that the model is told the image had; default: its size.")
    ] = None
    crop: Annotated[
        Pair, Field(description="SDXL: LEFT,TOP where the model is told it was cropped; default: 0,0.")
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=-1,
            le=MAX_SEED,
            description="Seed of the first image; each next one adds 1. -1 or none: random.",
        ),
        AfterValidator(lambda seed: None if seed == -1 else seed),
        Setting(in_grid=True),
    ] = None
    task: Task = Txt2Img()
    upscale: Annotated[
        Upscale | None,
        BeforeValidator(_scale_alone, json_schema_input_type=float | Upscale),
        Field(description="Make the image larger after it is painted: a factor, or {scale, method, …}."),
    ] = None
    prediction_type: Annotated[
        Literal["auto", "epsilon", "v_prediction"],
        Field(description="What the UNet predicts: noise or v; auto: as the model's files say."),
    ] = "auto"
    zero_snr: Annotated[
        Switch, Field(description="Zero terminal SNR, for models trained so; auto: as its files say.")
    ] = "auto"
    loras: Annotated[
        list[Lora],
        BeforeValidator(_each(_lora), json_schema_input_type=str | list[str | Lora]),
        Field(description="LoRA files: FILE[:WEIGHT[:TEXT_ENCODER_WEIGHT]], or {file, weight, …}."),
        Setting("file", list_of=(str, dict)),
    ] = []
    embeddings: Annotated[
        list[Embedding] | None,
        BeforeValidator(
            lambda value: None if value is None else _each(_embedding)(value),
            json_schema_input_type=str | list[str | Embedding] | None,
        ),
        Field(description="Textual inversion files: FILE[:NAME]; default: those in folders.embeddings."),
        Setting("file", list_of=(str, dict)),
    ] = None
    control: Annotated[
        list[Control],
        BeforeValidator(_controls, json_schema_input_type=str | list[str | Control]),
        Field(description=f"ControlNets with their images: {CONTROL_FORM}, or {{model, image, …}}."),
        Setting(list_of=(str, dict), parse=_variants_of_control),
    ] = []
    detail: Annotated[
        list[Detail],
        BeforeValidator(_each(_detail), json_schema_input_type=str | list[str | Detail]),
        Field(description=f"What to find and repaint at the end: {DETAIL_FORM}, or {{mask_prompt, …}}."),
        Setting(list_of=(str, dict)),
    ] = []
    eta: Annotated[float | None, Field(ge=0, le=1, description="Fresh noise that DDIM and TCD add.")] = None
    clip_skip: Annotated[int, Field(ge=0, le=11, description="Last layers of the text encoder to skip.")] = 0
    cache_interval: Annotated[
        int,
        Field(
            ge=1, le=1000, description="Compute every N-th UNet call in full; others reuse its deep layers."
        ),
    ] = 1
    profile: Annotated[
        ProfileName,
        Field(description="Noise levels, noise and steps as in diffusers, A1111 (1.10) or ComfyUI."),
    ] = "diffusers"
    rng: Annotated[
        Rng | None,
        Field(description="Draw noise as a CPU does, or as NVIDIA's GPUs do; default: as in the profile."),
    ] = None
    ensd: Annotated[
        int,
        Field(
            ge=-MAX_SEED,
            le=MAX_SEED,
            description="profile: a1111: added to the seed for the noise of steps (Eta noise seed delta).",
        ),
    ] = 0

    def noise_schedule(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The config of the model's `own` scheduler, with what these settings say instead."""
        said: dict[str, Any] = {}
        if self.prediction_type != "auto":
            said["prediction_type"] = self.prediction_type
        if self.zero_snr != "auto":
            said["rescale_betas_zero_snr"] = self.zero_snr == "on"
        return {**own, **said}


class Folders(Frozen):
    """Where models, LoRAs and embeddings are found by their names alone."""

    models: Annotated[
        FilePath | None, Field(description="`model: NAME` is NAME.safetensors, or a folder NAME, in it.")
    ] = None
    loras: Annotated[
        FilePath | None, Field(description="`--lora NAME` and <lora:NAME:0.8> are NAME.safetensors in it.")
    ] = None
    embeddings: Annotated[
        FilePath | None, Field(description="NAME in a prompt stands for NAME.safetensors in it.")
    ] = None


class ExecutorChoice(Frozen):
    """Where the images of a batch or a comparison are painted."""

    kind: Annotated[
        Literal["local", "ray"],
        Field(description="This process, or a Ray cluster; default: ray if an address is given."),
    ] = "local"
    address: Annotated[
        str,
        Field(min_length=1, description="Of the cluster: auto, HOST:PORT or ray://HOST:PORT."),
        Setting("name"),
    ] = "auto"
    workers: Annotated[
        int | None, Field(ge=1, le=10_000, description="At most so many; default: all that fit.")
    ] = None
    gpus: Annotated[
        float | None, Field(ge=0, le=8, description="Of each worker; default: 1 if the cluster has GPUs.")
    ] = None
    cpus: Annotated[float, Field(gt=0, le=1024, description="Of each worker; its number of threads.")] = 1

    @model_validator(mode="before")
    @classmethod
    def _ray_if_addressed(cls, values: Any) -> Any:
        return {"kind": "ray"} | values if isinstance(values, dict) and "address" in values else values


class RunConfig(ImageSettings, LoadSettings):
    """Every setting of a run, as it was given."""

    count: Annotated[int, Field(ge=1, le=1_000_000, description="Number of images.")] = 1
    batch_size: Annotated[
        BatchSize,
        Field(description="Number of images to denoise together; auto finds a fast one that fits in memory."),
    ] = 1
    output: Output = Output()
    preview: Annotated[
        bool, Field(description=f"Keep {PREVIEW} in output.dir fresh while an image is painted.")
    ] = False
    folders: Folders = Folders()
    executor: ExecutorChoice = ExecutorChoice()
    compare: Annotated[Grid | None, Field(description="The grid of `sdapp compare`.")] = None

    @property
    def preview_file(self) -> str | None:
        return str(Path(self.output.dir) / PREVIEW) if self.preview else None


SETTINGS = declared(RunConfig)
MODEL_KEYS = {key for key, setting in SETTINGS.items() if setting.kind == "model"}
COLUMNS = (*ImageSettings.model_fields, "count")  # what a line of a prompt file can set
VARIABLE = tuple(key for key in ImageSettings.model_fields if not SETTINGS[key].in_grid)  # by compare.vary


MODEL_VARIABLE = "SDAPP_MODEL"


@cache
def usual_values() -> Mapping[str, Any]:
    """The default of each setting, as plain data."""
    return RunConfig().model_dump(mode="json")


def read_config_file(path: Path) -> list[layers.Layer]:
    """Return the layers of a YAML file, its parents first. Raises ConfigError, MissingInputError."""
    return files.read_layers(path, SETTINGS)


def own_layers() -> list[layers.Layer]:
    """Return the layers of the user's own config and, over it, of the environment variable SDAPP_MODEL."""
    model = os.environ.get(MODEL_VARIABLE)
    return [*read_user_config(), *([layers.override("model", model, MODEL_VARIABLE)] if model else [])]


def read_user_config() -> list[layers.Layer]:
    """Return the layers of the user's own config, which is below all others; none if there is none."""
    return read_config_file(path) if (path := user_config()).is_file() else []


def folders_of(given: list[layers.Layer]) -> Folders:
    """Return the folders that layers of settings name; none if they are wrong, which `validate` tells."""
    try:
        return Folders.model_validate(layers.merge(given).values.get("folders") or {})
    except ValidationError:
        return Folders()


def user_config() -> Path:
    """The path of the user's own config, such as ~/.config/sdapp/config.yaml."""
    return user_config_path("sdapp") / "config.yaml"


def read_override(text: str) -> layers.Layer:
    """Return the layer of one `key=value` of --set. Raises ConfigError."""
    return files.parse_override(text, SETTINGS)


def validate(merged: layers.Layer) -> RunConfig:
    """Check merged settings. Raises ConfigError with all errors: place, key, what is allowed."""
    try:
        config = RunConfig.model_validate(merged.values)
    except ValidationError as exc:
        messages = [explain_error(error, merged, RunConfig) for error in exc.errors()]
        raise ConfigError("\n".join(without_repeats(dict.fromkeys(messages)))) from None
    if found := list(_conflicts(config)):
        raise ConfigError("\n".join(place_message(key, message, merged) for key, message in found))
    return _with_paths(config, merged)


def _with_paths(config: RunConfig, merged: layers.Layer) -> RunConfig:
    """Replace the names of models, LoRAs and embeddings by the paths that they have in the user's folders.

    Raises ConfigError for a model that an image of another program names and that is not there.
    """
    found: dict[str, Any] = {}
    if path := files.find_named(config.folders.models, merged.named_model or config.model):
        found["model"] = path
    elif merged.named_model:
        raise ConfigError(_no_such_model(merged, config.folders.models))
    if path := files.find_named(config.folders.models, config.base or ""):
        found["base"] = path
    for key, folder in (("loras", config.folders.loras), ("embeddings", config.folders.embeddings)):
        if given := getattr(config, key):
            paths = [files.find_named(folder, each.file) or each.file for each in given]
            pairs = zip(given, paths, strict=True)
            found[key] = [each.model_copy(update={"file": path}) for each, path in pairs]
    return config.model_copy(update=found) if found else config


def _no_such_model(merged: layers.Layer, folder: str | None) -> str:
    image, model = merged.origins.get("model", "this image"), merged.named_model
    where = (
        f"which is not in {folder}; put it there"
        if folder
        else "and sdapp does not know where your models are"
    )
    fix = "" if folder else "; say where: sdapp config set folders.models FOLDER"
    return f"model: {image} was made with {model}, {where}{fix}, or choose another model with --model"


def _conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the settings that do not fit together: the key to name, and why."""
    try:
        schedulers.check_run(config.scheduler.resolve(), config.steps, config.eta)
    except ConfigError as exc:
        key, _, message = str(exc).partition(": ")
        yield key, message
    if config.ensd and config.profile != "a1111":
        yield "ensd", "only A1111 has it; add profile: a1111, or leave it out"
    yield from _task_conflicts(config)
    yield from _upscale_conflicts(config)
    yield from _detail_conflicts(config)
    if (config.width is None) != (config.height is None):
        yield "width" if config.width else "height", "give both width and height, or neither"
    if config.seed is not None and config.seed + config.count - 1 > MAX_SEED:
        yield "seed", f"seed + count goes past {MAX_SEED}"
    if config.dtype == "float16" and config.device == "cpu":
        yield "dtype", "float16 cannot run on a CPU; use float32, or bfloat16 if the CPU supports it"
    if config.embeddings and config.prompt_syntax == "plain":
        yield "embeddings", "prompt_syntax: plain reads every word as text; use a1111"
    if config.loras and config.memory.offload in ("group", "sequential"):
        yield "loras", "cannot be merged into layers that are offloaded; use memory.offload: model or none"
    if config.compile == "on" and config.memory.offload not in ("auto", "none"):
        yield "compile", "an offloaded UNet cannot be compiled; turn off compile or memory.offload"


def _task_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    if isinstance(config.task, Inpaint):
        yield from _mask_conflicts(config.task)
    if isinstance(config.task, Img2Img | Inpaint | Outpaint):
        yield from _no_steps("task", config.profile, config.steps, config.task.strength)
    if isinstance(config.task, Outpaint) and not any(config.task.sides.model_dump().values()):
        yield "task.sides", "nothing is added; give pixels for at least one side, such as left=128"
    if isinstance(config.task, Outpaint | UpscaleImage) and config.control:
        yield "control", "cannot steer outpainting, nor an image that is only upscaled; leave it out"
    if isinstance(config.task, Outpaint | UpscaleImage) and (config.width or config.height):
        yield "width", f"the size of {config.task.kind} follows from its image; leave out width and height"


def _mask_conflicts(task: Inpaint) -> Iterator[tuple[str, str]]:
    given = [key for key, field in FoundMask.model_fields.items() if getattr(task, key) != field.default]
    if task.mask is None and task.mask_prompt is None:
        yield "task.mask", "is required here: a file; or give task.mask_prompt, words for what to repaint"
    elif task.mask is not None and task.mask_prompt is not None:
        yield "task.mask_prompt", f"does not fit with task.mask ({task.mask}); leave one of them out"
    elif task.mask is not None and given:
        yield f"task.{given[0]}", "has no effect on a mask from a file; it is for task.mask_prompt"


def _detail_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    for i, detail in enumerate(config.detail):
        yield from _no_steps(f"detail.{i}", config.profile, config.steps, detail.strength)
    method = config.upscale.method if config.upscale and config.task.kind == "upscale" else ""
    if config.detail and method in ("model", "diffusion"):
        yield (
            "detail",
            f"needs the model of the image, which upscale.method: {method} does not load; use hires",
        )


def _no_steps(group: str, profile: ProfileName, steps: int, strength: float) -> Iterator[tuple[str, str]]:
    if PROFILES[profile].steps(steps, strength)[1] < 1:
        at_least = min(1.0, -(-100 // steps) / 100)
        none_run = f"with strength {strength:g}, none of {steps} steps runs"
        yield f"{group}.strength", f"{none_run}; use at least {at_least:g}"


def _upscale_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield what does not fit in `upscale`, or with it."""
    upscale = config.upscale
    if upscale is None:
        if isinstance(config.task, UpscaleImage):
            yield "upscale", "is missing: how much larger should the image be? For example upscale: 2"
        return
    yield from _upscaler_conflicts(upscale)
    if isinstance(config.task, Inpaint) and config.task.padding is not None:
        yield "upscale", "with task.padding, only a part is painted; paint first, then use sdapp upscale"
    if upscale.method != "hires":
        return
    steps = upscale.steps or config.steps
    yield from _no_steps("upscale", config.profile, steps, upscale.strength)
    try:
        schedulers.check_run((upscale.scheduler or config.scheduler).resolve(), steps, None)
    except ConfigError as exc:
        key, _, message = str(exc).partition(": ")
        yield f"upscale.{key}", message
    if upscale.enlarge.startswith("latent") and isinstance(config.task, Inpaint | Outpaint | UpscaleImage):
        message = f"{upscale.enlarge} needs latents of the whole image, which {config.task.kind} has not"
        yield "upscale.enlarge", f"{message}; use lanczos"
    yield from _tile_conflicts(upscale, config)


def _tile_conflicts(upscale: Upscale, config: RunConfig) -> Iterator[tuple[str, str]]:
    if upscale.tile and config.control:
        yield "upscale.tile", "does not fit with control, which reads the whole image; use one of them"
    if upscale.tile and config.cache_interval > 1:
        yield "upscale.tile", "does not fit with cache_interval, which remembers one tile only; use one"


def _upscaler_conflicts(upscale: Upscale) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the upscaler, or not used by it."""
    if upscale.uses_model and upscale.model is None:
        is_file = upscale.method != "diffusion"
        what = (
            "a .safetensors file, such as of ESRGAN"
            if is_file
            else "stabilityai/stable-diffusion-x4-upscaler"
        )
        yield "upscale.model", f"is missing: which upscaler? Give {what}"
    if upscale.noise_level != Upscale().noise_level and upscale.method != "diffusion":
        yield "upscale.noise_level", "is not used; it is for upscale.method: diffusion"
    if upscale.model is not None and not upscale.uses_model:
        yield "upscale.model", "is not used; add upscale.method: model, or upscale.enlarge: model"
