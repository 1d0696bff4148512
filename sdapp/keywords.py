"""The keyword arguments of the Python functions. `python tests/keywords.py` writes this file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, Required, TypedDict

from PIL import Image

AnyPath = str | PathLike[str]
InputImage = AnyPath | Image.Image


class ControlKeywords(TypedDict, total=False):
    """A ControlNet, and the image that it follows."""

    model: Required[AnyPath]
    image: Required[InputImage]
    scale: float
    start: float
    end: float
    sha256: str | None


class DetailKeywords(TypedDict, total=False):
    """A stage after painting: each place that words name is painted again at the full size, and put back."""

    mask_model: AnyPath | None
    mask_threshold: float | None
    mask_growth: int
    mask_sha256: str | None
    mask_prompt: Required[str]
    prompt: str | None
    negative_prompt: str | None
    strength: float
    padding: int
    mask_blur: int


class EmbeddingKeywords(TypedDict, total=False):
    """A file of textual inversion: vectors that take the place of a word in the prompts."""

    file: Required[AnyPath]
    name: str | None
    sha256: str | None


class FoldersKeywords(TypedDict, total=False):
    """Where models, LoRAs and embeddings are found by their names alone."""

    models: AnyPath | None
    loras: AnyPath | None
    embeddings: AnyPath | None


class Img2ImgKeywords(TypedDict, total=False):
    """An image from an image."""

    kind: Required[Literal["img2img"]]
    image: Required[InputImage]
    strength: float


class InpaintKeywords(TypedDict, total=False):
    """An image in which the white part of a mask is repainted; beyond the blur no pixel changes."""

    mask_model: AnyPath | None
    mask_threshold: float | None
    mask_growth: int
    mask_sha256: str | None
    kind: Required[Literal["inpaint"]]
    image: Required[InputImage]
    mask: InputImage | None
    mask_prompt: str | None
    strength: float
    padding: int | None
    mask_blur: int


class LoraKeywords(TypedDict, total=False):
    """A LoRA file and how strongly it changes the model."""

    file: Required[AnyPath]
    weight: float
    text_encoder_weight: float | None
    sha256: str | None


class MemoryKeywords(TypedDict, total=False):
    """What to trade for memory on the device; auto: what the free memory of a GPU needs."""

    offload: Literal["auto", "none", "model", "group", "sequential"]
    vae_slicing: bool | Literal["auto"]
    vae_tiling: bool | Literal["auto"]


class OutputKeywords(TypedDict, total=False):
    """Where images are saved, and under which names."""

    dir: AnyPath
    name: str
    format: Literal["png", "jpeg", "webp"]
    quality: int
    shared: bool


class SchedulerChoiceKeywords(TypedDict, total=False):
    """A scheduler by any of its names, and options of its class."""

    name: str
    options: Mapping[str, str | int | float | bool | None]
    exact: bool


class ScoreKeywords(TypedDict, total=False):
    """What compares each image with its prompt."""

    kind: Literal["clip"]
    model: AnyPath


class SidesKeywords(TypedDict, total=False):
    """How many pixels an image grows by, on each side."""

    left: int
    right: int
    top: int
    bottom: int


class Txt2ImgKeywords(TypedDict, total=False):
    """An image from a prompt alone."""

    kind: Literal["txt2img"]


class UpscaleImageKeywords(TypedDict, total=False):
    """An image that exists: nothing is painted before it is upscaled."""

    kind: Required[Literal["upscale"]]
    image: Required[InputImage]


class OutpaintKeywords(TypedDict, total=False):
    """An image that is continued beyond its sides; every pixel of it stays as it is."""

    kind: Required[Literal["outpaint"]]
    image: Required[InputImage]
    sides: Required[str | SidesKeywords]
    strength: float


class UpscaleKeywords(TypedDict, total=False):
    """A stage after the first image, which makes it larger; `width` and `height` stay those of the first."""

    scale: float
    method: Literal["hires", "model", "diffusion"]
    enlarge: Literal["lanczos", "latent", "latent-bicubic", "latent-nearest", "model"]
    strength: float
    steps: int | None
    scheduler: str | SchedulerChoiceKeywords
    noise_level: int
    tile: int | None
    model: str | None
    sha256: str | None


class TaskKeywords(TypedDict, total=False):
    """An image or a mask makes the task img2img or inpaint."""

    image: InputImage
    mask: InputImage | None
    mask_prompt: str | None
    mask_model: AnyPath | None
    mask_blur: int
    strength: float
    padding: int | None


class SharedKeywords(TaskKeywords, total=False):
    """Settings of an image that `compare` does not vary itself."""

    guidance_scale: float
    guidance_interval: str | Sequence[float]
    guidance_rescale: float
    negative_prompt: str
    prompt_syntax: Literal["a1111", "plain"]
    emphasis: Literal["original", "no-norm"]
    width: int | None
    height: int | None
    original_size: str | Sequence[int] | None
    crop: str | Sequence[int] | None
    task: Txt2ImgKeywords | Img2ImgKeywords | InpaintKeywords | OutpaintKeywords | UpscaleImageKeywords
    upscale: float | UpscaleKeywords
    prediction_type: Literal["auto", "epsilon", "v_prediction"]
    zero_snr: Literal["auto", "on", "off"]
    loras: AnyPath | Sequence[AnyPath | LoraKeywords]
    embeddings: AnyPath | Sequence[AnyPath | EmbeddingKeywords] | None
    control: str | Sequence[str | ControlKeywords]
    detail: str | Sequence[str | DetailKeywords]
    eta: float | None
    clip_skip: int
    cache_interval: int
    profile: Literal["diffusers", "a1111", "comfyui"]
    rng: Literal["cpu", "gpu"] | None
    ensd: int


class LoadKeywords(TypedDict, total=False):
    """Settings of a load of the model."""

    model: AnyPath
    revision: str | None
    vae: AnyPath | None
    base: AnyPath | None
    dtype: Literal["auto", "float16", "bfloat16", "float32"]
    memory: Literal["auto"] | MemoryKeywords
    device: str
    compile: Literal["auto", "on", "off"]
    safety_checker: AnyPath
    flagged: Literal["skip", "write"]
    score: str | ScoreKeywords | None
    channels_last: Literal["auto", "on", "off"]


class RunKeywords(TypedDict, total=False):
    """Settings of a run."""

    batch_size: int | Literal["auto"]
    output: OutputKeywords
    preview: bool
    folders: FoldersKeywords


class WarmKeywords(SharedKeywords, RunKeywords, total=False):
    """Of `generate` with a loaded model."""

    scheduler: str | SchedulerChoiceKeywords
    steps: int
    seed: int | None


class GenerateKeywords(WarmKeywords, LoadKeywords, total=False):
    """Of `generate`."""


class WarmBatchKeywords(WarmKeywords, total=False):
    """Of `batch` and `replay` with a loaded model."""

    prompt: str | None
    count: int


class BatchKeywords(WarmBatchKeywords, LoadKeywords, total=False):
    """Of `batch` and `replay`."""


class WarmCompareKeywords(SharedKeywords, RunKeywords, total=False):
    """Of `compare` with a loaded model."""

    schedulers: str | Sequence[str]
    match: Literal["unet-calls", "steps", "seconds"]
    steps: str | Sequence[int | float | str]
    seeds: str | Sequence[int | float | str]
    vary: Mapping[str, Sequence[str | int | float | bool]]
    timings: int
    references: Sequence[str]


class CompareKeywords(WarmCompareKeywords, LoadKeywords, total=False):
    """Of `compare`."""
