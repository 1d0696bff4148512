"""Load the weights of a model into a pipeline of diffusers."""

import json
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from sdapp.diffusion.decode import keep_dtype
from sdapp.diffusion.startup import LOADING
from sdapp.errors import UnavailableError
from sdapp.models.files import read_json
from sdapp.models.locate import Model
from sdapp.models.originals import Config, clip_tokenizer, read_configs, read_vae_config

# What diffusers and transformers raise for files that cannot be loaded.
BROKEN = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, OverflowError, SafetensorError,
    SingleFileComponentError,
)  # fmt: skip
NO_TOKENIZER = 100_000  # transformers gives a tokenizer without files a far larger limit
LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def load_pipeline(model: Model, dtype: torch.dtype) -> Any:
    """Load the text-to-image pipeline of a model on the CPU in `dtype`, one thread at a time.

    Raises UnavailableError for files that cannot be loaded, or that lack tensors.
    """
    with LOADING, without_progress_bars():
        vae = _load_vae(model, dtype)
        try:
            vae |= {} if vae else _load_own_vae(model, dtype)
            pipe = (_from_file if model.is_file else _from_folder)(model, dtype, vae)
        except BROKEN as exc:
            _refuse_missing(model.path, _tensors_without_values(exc) if model.is_file else [])
            raise UnavailableError(f"model: {model.path} cannot be loaded: {_reason(exc)}") from exc
    if pipe.tokenizer.model_max_length > NO_TOKENIZER:
        raise UnavailableError(f"model: {model.path}: its tokenizer cannot be read; download the model again")
    keep_dtype(pipe.vae, dtype)
    return pipe


def _vae_dtype(model: Model, dtype: torch.dtype, config: Config) -> torch.dtype:
    """The dtype of an autoencoder with this config: float32 where it would overflow in float16."""
    overflows = model.family.overflows_in_float16 and config.get("_class_name") != "AutoencoderTiny"
    needs_float32 = overflows and config.get("force_upcast", True)
    return torch.float32 if dtype == torch.float16 and needs_float32 else dtype


def _load_own_vae(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """The model's own autoencoder, if it needs another dtype than the rest, so that no digit is lost."""
    is_file, folder = model.is_file, model.path / "vae"
    config = model.family.layout["vae"] if is_file else read_json(folder / "config.json")
    if (own := _vae_dtype(model, dtype, config)) == dtype:
        return {}
    if is_file:
        return {"vae": _vae_of_file(model.path, own, read_vae_config(model.path, model.family.layout))}
    cls = getattr(diffusers, config["_class_name"])
    return {"vae": load_part(cls, folder, own, model.weights("vae")[0])}


def _vae_of_file(path: Path, dtype: torch.dtype, config: Config) -> Any:
    with _configs_and_tokenizers({"vae": config}) as ours:
        return diffusers.AutoencoderKL.from_single_file(
            str(path), dtype=dtype, config=ours["config"], subfolder="vae", local_files_only=True
        )


def _from_folder(model: Model, dtype: torch.dtype, vae: dict[str, Any]) -> Any:
    """Load each part in the variant that the folder has of it."""
    family, classes = model.family, read_json(model.path / "model_index.json")
    parts = dict(vae)
    for part in [part for part in family.weight_folders if part not in parts]:
        library, name = classes[part]
        cls = getattr(LIBRARIES[library], name)
        parts[part] = load_part(cls, model.path / part, dtype, model.weights(part)[0])
    cls = getattr(diffusers, family.pipelines["txt2img"])
    return cls.from_pretrained(
        model.path, local_files_only=True, **family.components, **family.options, **parts
    )


def load_part(
    cls: Any, folder: Path, dtype: torch.dtype, variant: str | None = None, key: str = "model"
) -> Any:
    """Load one part of a model from its folder. Raises UnavailableError if tensors are missing."""
    part, info = cls.from_pretrained(
        folder,
        dtype=dtype,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    _refuse_missing(folder, info["missing_keys"], key)  # upstream would leave them random
    return part


def _from_file(model: Model, dtype: torch.dtype, vae: dict[str, Any]) -> Any:
    family = model.family
    cls = getattr(diffusers, family.pipelines["txt2img"])
    given = {"dtype": dtype, **family.components, **family.options, **vae}
    layout = {part: config for part, config in family.layout.items() if model.has_own(part)}
    with _configs_and_tokenizers(read_configs(model.path, layout)) as ours:
        pipe = cls.from_single_file(str(model.path), local_files_only=True, **ours, **given)
    for part in family.weight_folders:
        _refuse_missing(model.path, _on_meta(getattr(pipe, part)))
    return pipe


@contextmanager
def _configs_and_tokenizers(configs: Mapping[str, Config]) -> Iterator[dict[str, Any]]:
    """The arguments with which `from_single_file` asks no Hub: a folder of configs, and parts."""
    index, parts = {"vae": ["diffusers", "AutoencoderKL"]}, {}
    with TemporaryDirectory(prefix="sdapp-") as folder:
        for part, config in configs.items():
            if part.startswith("tokenizer"):
                index[part], parts[part] = ["transformers", "CLIPTokenizer"], clip_tokenizer(**config)
            elif part == "scheduler":
                cls = getattr(diffusers, config["_class_name"])
                index[part], parts[part] = ["diffusers", cls.__name__], cls.from_config(config)
            else:
                name = config.get("_class_name") or config["architectures"][0]
                index[part] = ["transformers" if part.startswith("text_encoder") else "diffusers", name]
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
            config = read_vae_config(model.vae, model.family.layout)
            if not model.is_file:
                config |= read_json(model.path / "vae" / "config.json")
            part = _vae_of_file(model.vae, _vae_dtype(model, dtype, config), config)
        else:
            config = read_json(model.vae / "config.json", "vae")
            cls = getattr(diffusers, config["_class_name"])
            part = load_part(cls, model.vae, _vae_dtype(model, dtype, config), key="vae")
    except BROKEN as exc:
        _refuse_missing(model.vae, _tensors_without_values(exc) if model.vae.is_file() else [], "vae")
        raise UnavailableError(f"vae: {model.vae} cannot be loaded: {_reason(exc)}") from exc
    return {"vae": part}


def _on_meta(module: torch.nn.Module) -> list[str]:
    """The parameters that were given no values."""
    return [name for name, parameter in module.named_parameters() if parameter.is_meta]


def _tensors_without_values(exc: Exception) -> list[str]:
    """The tensors that a file lacks, from an error of `from_single_file`, which seldom names them."""
    if isinstance(exc, KeyError):
        return [str(exc.args[0])]
    modules = (frame.f_locals.get("model") for frame, _ in traceback.walk_tb(exc.__traceback__))
    return next((_on_meta(module) for module in modules if isinstance(module, torch.nn.Module)), [])


def _refuse_missing(path: Path, names: Collection[str], key: str = "model") -> None:
    """Raise UnavailableError if there are names of tensors that a file or folder lacks."""
    if names:
        first = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        raise UnavailableError(f"{key}: {path} lacks {len(names)} of its tensors: {first}; download it again")


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"


@contextmanager
def without_progress_bars() -> Iterator[None]:
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
