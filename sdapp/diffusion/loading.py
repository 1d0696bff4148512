"""Devices, dtypes and weights: a model on disk becomes a Painter."""

from importlib.util import find_spec
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from sdapp.config import RunConfig
from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.locate import Model, read_json
from sdapp.pipelines import Painter

BROKEN = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
REPAID = 7_500  # calls of the UNet: a minute of compiling, and 8 ms that each is faster then (published, not measured here)
SETTLED = 200  # calls after which a size of batches is not one that `batch_size: auto` only tries
USUAL_BATCH = 8
WITHOUT_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def choose_device(asked: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. Raises UnavailableError for a device that is not there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("device: cuda is asked for, but this torch finds no CUDA GPU; use --device auto, and "
                               "`sdapp doctor` to see why")  # fmt: skip
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"device: {asked} is asked for; this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("device: mps is asked for, but this is no Apple GPU; use --device auto")
    return device


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on CUDA and MPS, else float32. Raises ConfigError for float16 on a CPU."""
    if asked == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if asked == "float16" and device.type == "cpu":
        raise ConfigError("dtype: float16 cannot run on a CPU; use float32, or bfloat16 where the CPU has it")
    return DTYPES[asked]


def load(model: Model, config: RunConfig, unet_calls: int = 0) -> Painter:
    """Load the weights, straight in the dtype asked for; `unet_calls` are those that all pictures to be painted need.

    Raises UnavailableError, ConfigError.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    if config.memory.offload != "none" and device.type == "cpu":
        raise ConfigError("memory.offload: there is nothing to offload from on a CPU; leave it at none")
    own = _load_vae(model, dtype)
    try:
        if model.is_file:
            pipe = StableDiffusionPipeline.from_single_file(str(model.path), dtype=dtype, **WITHOUT_CHECKER, **own)
        else:
            pipe = StableDiffusionPipeline.from_pretrained(
                model.path,
                dtype=dtype,
                variant=model.variant(),
                use_safetensors=True,
                local_files_only=True,
                **WITHOUT_CHECKER,
                **own,
            )
    except LocalEntryNotFoundError as exc:
        raise UnavailableError(
            f"model: {model.path}: the configuration that belongs to a single file comes from the Hub, once, and it cannot be "
            "reached; run it once with a network"
        ) from exc
    except BROKEN as exc:
        reason = " ".join(str(exc).split())[:300]
        raise UnavailableError(f"model: {model.path} cannot be loaded: {type(exc).__name__}: {reason}") from exc
    if pipe.tokenizer.model_max_length > 100_000:  # transformers' word for a tokenizer without files
        raise UnavailableError(f"model: {model.path}: its tokenizer cannot be read; download the model again")
    if pipe.unet.config.addition_embed_type is not None:
        raise UnavailableError(f"model: {model.path} is no Stable Diffusion 1.x or 2.x; sdapp paints with those alone")
    if config.channels_last == "on" or (config.channels_last == "auto" and device.type == "cuda"):
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
    painter = Painter(pipe, device, config.memory)
    if config.compile == "on" or (config.compile == "auto" and _repays(config, device, unet_calls)):
        # What it learned from a batch that was compiled for it would mislead the search for a size.
        painter.denoiser.compile(after=0 if config.compile == "on" and config.batch_size != "auto" else SETTLED)
    return painter


def _repays(config: RunConfig, device: torch.device, unet_calls: int) -> bool:
    """Whether a run is long enough for compiling the UNet, on the hardware where that is known to help."""
    at_a_time = USUAL_BATCH if config.batch_size == "auto" else config.batch_size
    is_possible = device.type == "cuda" and config.memory.offload == "none" and find_spec("triton") is not None
    return is_possible and unet_calls / at_a_time >= REPAID


def _load_vae(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """The autoencoder that stands in for the model's own, as a part for its pipeline. Raises UnavailableError."""
    if model.vae is None:
        return {}
    try:
        if model.vae.is_file():
            layout = {} if model.is_file else {"config": str(model.path), "subfolder": "vae"}
            return {"vae": AutoencoderKL.from_single_file(str(model.vae), dtype=dtype, **layout)}
        kind = read_json(model.vae / "config.json", "vae")["_class_name"]
        part = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}[kind]
        return {"vae": part.from_pretrained(model.vae, dtype=dtype, use_safetensors=True, local_files_only=True)}
    except BROKEN as exc:
        reason = " ".join(str(exc).split())[:300]
        raise UnavailableError(f"vae: {model.vae} cannot be loaded: {type(exc).__name__}: {reason}") from exc


def quiet(verbose: bool) -> None:
    """Keep upstream's warnings and bars off stderr, unless asked for."""
    for logging in (diffusers_logging, transformers_logging):
        if verbose:
            logging.set_verbosity_info()
        else:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
