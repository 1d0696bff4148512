"""Load the weights of a model into a pipeline of diffusers."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from sdapp.diffusion.decode import keep_in_float32
from sdapp.diffusion.startup import LOADING
from sdapp.errors import UnavailableError
from sdapp.models.files import read_json
from sdapp.models.locate import Model
from sdapp.models.originals import Config, clip_tokenizer, read_configs

# What diffusers and transformers raise for files that cannot be loaded.
BROKEN = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError,
)  # fmt: skip
NO_TOKENIZER = 100_000  # transformers gives a tokenizer without files a far larger limit


def load_pipeline(model: Model, dtype: torch.dtype) -> Any:
    """Load the text-to-image pipeline of a model on the CPU in `dtype`, one thread at a time.

    Raises UnavailableError for files that cannot be loaded.
    """
    with LOADING, _without_progress_bars():
        vae = _load_vae(model, dtype)
        try:
            pipe = _from_files(model, dtype, vae)
        except BROKEN as exc:
            raise UnavailableError(f"model: {model.path} cannot be loaded: {_reason(exc)}") from exc
    if pipe.tokenizer.model_max_length > NO_TOKENIZER:
        raise UnavailableError(f"model: {model.path}: its tokenizer cannot be read; download the model again")
    return pipe


def _from_files(model: Model, dtype: torch.dtype, vae: dict[str, Any]) -> Any:
    family = model.family
    cls = getattr(diffusers, family.pipelines["txt2img"])
    arguments = {"dtype": dtype, **family.components, **family.options, **vae}
    if model.is_file:
        with _written_configs(read_configs(model.path, family.layout)) as parts:
            pipe = cls.from_single_file(str(model.path), local_files_only=True, **parts, **arguments)
    else:
        pipe = cls.from_pretrained(
            model.path, variant=model.variant(), use_safetensors=True, local_files_only=True, **arguments
        )
    if dtype == torch.float16 and family.overflows_in_float16 and pipe.vae.config.force_upcast:
        keep_in_float32(pipe.vae)
    return pipe


@contextmanager
def _written_configs(configs: Mapping[str, Config]) -> Iterator[dict[str, Any]]:
    """Arguments with which `from_single_file` needs no network: configs, tokenizers, scheduler."""
    index, parts = {}, {}
    with TemporaryDirectory(prefix="sdapp-") as folder:
        for part, config in configs.items():
            if part.startswith("tokenizer"):
                index[part], parts[part] = ["transformers", "CLIPTokenizer"], clip_tokenizer(**config)
            elif part == "scheduler":
                cls = getattr(diffusers, config["_class_name"])
                index[part], parts[part] = ["diffusers", cls.__name__], cls.from_config(config)
            else:
                is_text = part.startswith("text_encoder")
                cls_name = config["architectures"][0] if is_text else config["_class_name"]
                index[part] = ["transformers" if is_text else "diffusers", cls_name]
                (Path(folder) / part).mkdir()
                (Path(folder) / part / "config.json").write_text(json.dumps(config))
        (Path(folder) / "model_index.json").write_text(json.dumps(index))
        yield {"config": folder, **parts}


def _load_vae(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """The autoencoder that replaces the model's own, as an argument for its pipeline."""
    if model.vae is None:
        return {}
    try:
        if model.vae.is_file():
            layout = {} if model.is_file else {"config": str(model.path), "subfolder": "vae"}
            part = diffusers.AutoencoderKL.from_single_file(str(model.vae), dtype=dtype, **layout)
        else:
            cls = getattr(diffusers, read_json(model.vae / "config.json", "vae")["_class_name"])
            part = cls.from_pretrained(model.vae, dtype=dtype, use_safetensors=True, local_files_only=True)
    except BROKEN as exc:
        raise UnavailableError(f"vae: {model.vae} cannot be loaded: {_reason(exc)}") from exc
    return {"vae": part}


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Switch off the loading bars of diffusers and transformers; afterwards they are as they were."""
    shown = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    are_downloads_quiet = are_progress_bars_disabled()  # transformers' switch changes this one too
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
        if are_downloads_quiet:
            disable_progress_bars()


def quiet(verbose: bool) -> None:
    """For a command line: hide the warnings and bars of diffusers and transformers, unless `verbose`."""
    for logging in (diffusers_logging, transformers_logging):
        if verbose:
            logging.set_verbosity_info()
        else:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
