"""Devices, dtypes and weights: a model on disk becomes a Painter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from sdapp.errors import UnavailableError
from sdapp.models.files import read_json
from sdapp.models.locate import Model

BROKEN = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    SafetensorError,
)
WITHOUT_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


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
        return {
            "vae": part.from_pretrained(model.vae, dtype=dtype, use_safetensors=True, local_files_only=True)
        }
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


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no progress bars of upstream meanwhile; afterwards they are shown again if they were before."""
    shown = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
