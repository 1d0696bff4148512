"""Every setting: what it belongs to, its bounds and its default. Everything else is derived from this.

Groups of settings, such as `task` and `upscale`, are in `settings/`. To add a setting, add its field to its
group, or to the class of what it belongs to: `ImageSettings`, `ModelSettings` (a load that changes pixels),
`LoadSettings` (a load), or `RunConfig` (the run). `Setting` says more about it.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_config_path
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from sdapp.markup import Emphasis, PromptSyntax
from sdapp.profiles import ProfileName, Rng
from sdapp.settings import files, layers, ranges
from sdapp.settings.additions import (
    CONTROL_FORM,
    Control,
    Embedding,
    Lora,
    control_variants,
    each_of,
    read_controls,
    read_embedding,
    read_lora,
)
from sdapp.settings.grid import Grid
from sdapp.settings.hardware import ExecutorChoice, Memory
from sdapp.settings.output import Output
from sdapp.settings.sampling import SchedulerChoice, name_alone
from sdapp.settings.stages import DETAIL_FORM, Detail, Upscale, read_detail, scale_alone
from sdapp.settings.tasks import Task, Txt2Img
from sdapp.settings.types import MAX_SEED, FilePath, Frozen, ModelReference, Setting, Text, declared

PREVIEW = "preview.png"
Switch = Literal["auto", "on", "off"]
BatchSize = Annotated[
    Annotated[int, Field(ge=1, le=256)] | Literal["auto"], Setting(expected="a number from 1 to 256, or auto")
]
Side = Annotated[
    Annotated[int, Field(ge=8, le=8192), AfterValidator(ranges.multiple_of_8)] | None,
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
        Field(
            description="auto: float16 on a GPU; bfloat16 for a large model on a CPU fast in it; or float32."
        ),
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
    channels_last: Annotated[
        Switch, Field(description="Memory layout of weights; auto: on CUDA, and in bfloat16.")
    ] = "auto"


class ImageSettings(Frozen):
    """The settings that can differ from image to image: a prompt file can set them in a line."""

    scheduler: Annotated[
        SchedulerChoice,
        BeforeValidator(name_alone, json_schema_input_type=str | SchedulerChoice),
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
        BeforeValidator(scale_alone, json_schema_input_type=float | Upscale),
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
        BeforeValidator(each_of(read_lora), json_schema_input_type=str | list[str | Lora]),
        Field(description="LoRA files: FILE[:WEIGHT[:TEXT_ENCODER_WEIGHT]], or {file, weight, …}."),
        Setting("file", list_of=(str, dict)),
    ] = []
    embeddings: Annotated[
        list[Embedding] | None,
        BeforeValidator(
            lambda value: None if value is None else each_of(read_embedding)(value),
            json_schema_input_type=str | list[str | Embedding] | None,
        ),
        Field(description="Textual inversion files: FILE[:NAME]; default: those in folders.embeddings."),
        Setting("file", list_of=(str, dict)),
    ] = None
    control: Annotated[
        list[Control],
        BeforeValidator(read_controls, json_schema_input_type=str | list[str | Control]),
        Field(description=f"ControlNets with their images: {CONTROL_FORM}, or {{model, image, …}}."),
        Setting(list_of=(str, dict), parse=control_variants),
    ] = []
    detail: Annotated[
        list[Detail],
        BeforeValidator(each_of(read_detail), json_schema_input_type=str | list[str | Detail]),
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


def read_override(text: str, command: str = "--set") -> layers.Layer:
    """Return the layer of one `key=value` that was given to --set or `command`. Raises ConfigError."""
    return files.parse_override(text, SETTINGS, command)
