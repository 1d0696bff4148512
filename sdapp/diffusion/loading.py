"""Load the weights of a model into a pipeline of diffusers."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from sdapp.diffusion.decode import keep_dtype
from sdapp.diffusion.startup import LOADING, without_advice
from sdapp.errors import UnavailableError
from sdapp.models.control_files import control_sizes
from sdapp.models.files import read_json
from sdapp.models.model import Model
from sdapp.models.originals import (
    TIME_COND,
    Config,
    clip_tokenizer,
    modern_names,
    read_config,
    read_vae_config,
)
from sdapp.models.upscalers import KEY as UPSCALER
from sdapp.models.upscalers import LOADED_PARTS, pipeline_class
from sdapp.models.vae import find_part

# What diffusers and transformers raise for files that cannot be loaded.
BROKEN = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, OverflowError, SafetensorError,
)  # fmt: skip
NO_TOKENIZER = 100_000  # transformers gives a tokenizer without files a far larger limit
LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
Weights = Mapping[str, torch.Tensor]


def load_pipeline(model: Model, dtype: torch.dtype) -> Any:
    """Load the text-to-image pipeline of a model on the CPU in `dtype`, one thread at a time.

    Raises UnavailableError for files that cannot be loaded, or that lack tensors.
    """
    with loading("model", model.path):
        vae = _load_vae(model, dtype)
        pipe = (_from_file if model.is_file else _from_folder)(model, dtype, vae)
    if pipe.tokenizer.model_max_length > NO_TOKENIZER:
        raise UnavailableError(f"model: {model.path}: its tokenizer cannot be read; download the model again")
    keep_dtype(pipe.vae, dtype)
    return pipe


def _dtype_of(part: str, model: Model, dtype: torch.dtype, config: Config) -> torch.dtype:
    """The dtype of a part with this config: float32 for an autoencoder that would overflow in float16."""
    overflows = model.family.overflows_in_float16 and config.get("_class_name") != "AutoencoderTiny"
    needs_float32 = part == "vae" and overflows and config.get("force_upcast", True)
    return torch.float32 if dtype == torch.float16 and needs_float32 else dtype


def _part_of_folder(part: str, model: Model, dtype: torch.dtype) -> Any:
    """Load a part from the folder of a model, in the variant that the folder has of it."""
    library, name = read_json(model.path / "model_index.json")[part]
    own = _dtype_of(part, model, dtype, read_json(model.path / part / "config.json"))
    return load_part(getattr(LIBRARIES[library], name), model.path / part, own, model.weights(part)[0])


def _from_folder(model: Model, dtype: torch.dtype, vae: dict[str, Any]) -> Any:
    family, parts = model.family, dict(vae)
    for part in [part for part in family.weight_folders if part not in parts]:
        parts[part] = _part_of_folder(part, model, dtype)
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
    """Build each part from the tensors of the file, or load it from the base if the file lacks it."""
    family, config = model.family, model.scheduler_config
    parts = {"scheduler": getattr(diffusers, config["_class_name"]).from_config(config), **vae}
    sources = [each.path for each in (model, model.base) if each and each.is_file]
    tensors = {path: _read_tensors(path) for path in sources}
    for part in [part for part in family.weight_folders if part not in parts]:
        source = model.lender(part)
        if source.is_file:
            config = read_config(source.path, family.layout, part)
            own = _dtype_of(part, model, dtype, config)
            parts[part] = _build_part(part, config, tensors[source.path], own, source.path)
        else:
            parts[part] = _part_of_folder(part, source, dtype)
    for part, tokenizer in family.text_encoders.items():
        folder = model.lender(part).path / tokenizer
        parts[tokenizer] = clip_tokenizer(**family.layout[tokenizer])
        if folder.is_dir():
            parts[tokenizer] = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return getattr(diffusers, family.pipelines["txt2img"])(**parts, **family.components, **family.options)


def _read_tensors(path: Path) -> Weights:
    tensors = load_file(path)
    names = modern_names(tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _build_part(
    part: str, config: Config, tensors: Weights, dtype: torch.dtype, path: Path, key: str = "model"
) -> Any:
    """Build a part with the tensors of a file. Raises UnavailableError if some are missing."""
    with init_empty_weights():
        if part.startswith("text_encoder"):
            cls = getattr(transformers, config["architectures"][0])
            module = cls(transformers.CLIPTextConfig(**config))
        else:
            module = getattr(diffusers, config["_class_name"]).from_config(config)
    try:
        found = _converted(part, config, tensors, module)
    except KeyError as exc:  # diffusers asks for some by name
        _refuse_missing(path, [str(exc.args[0])], key)
    # A copy: in the mapped file a tensor may begin anywhere, and kernels round otherwise by alignment.
    cast = {name: each.to(dtype, copy=True) for name, each in found.items() if each.is_floating_point()}
    _refuse_missing(path, module.load_state_dict(cast, strict=False, assign=True).missing_keys, key)
    return module.eval()


def _converted(part: str, config: Config, tensors: Weights, module: Any) -> dict[str, torch.Tensor]:
    """The tensors of a part by the names that they have in diffusers and transformers."""
    if part == "unet":
        found = convert_ldm_unet_checkpoint(tensors, config)
        if TIME_COND in tensors:
            found["time_embedding.cond_proj.weight"] = tensors[TIME_COND]
    elif part == "vae":
        found = convert_ldm_vae_checkpoint(tensors, config)
    elif part == "controlnet":
        converted = convert_controlnet_checkpoint(dict(tensors), config)
        found = {name: tensor for name, tensor in converted.items() if tensor is not None}
    elif (prefix := config["prefix"]).endswith(".model."):
        found = convert_open_clip_checkpoint(module, tensors, prefix)
    else:
        found = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        found = {f"text_model.{name.removeprefix(prefix)}": tensor for name, tensor in found.items()}
    if part.startswith("text_encoder") and not hasattr(module, "text_model"):  # since transformers 5.6
        found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    return dict(found)


def load_upscaler(model: Model, dtype: torch.dtype) -> Any:
    """Load an upscaler of Stable Diffusion on the CPU in `dtype`; its autoencoder in float32 if it overflows.

    Raises UnavailableError.
    """
    kind = pipeline_class(model)
    is_latent = kind == "StableDiffusionLatentUpscalePipeline"
    without = {} if is_latent else {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    with loading(UPSCALER, model.path):
        parts = {}
        for part in LOADED_PARTS:
            library, name = read_json(model.path / "model_index.json")[part]
            own = torch.float32 if part == "vae" and dtype == torch.float16 and not is_latent else dtype
            cls = getattr(LIBRARIES[library], name)
            parts[part] = load_part(cls, model.path / part, own, model.weights(part)[0], UPSCALER)
        whole = getattr(diffusers, kind)
        return whole.from_pretrained(model.path, local_files_only=True, **without, **parts)


def load_control(name: str, unet: Any) -> Any:
    """Load a ControlNet, `org/name@commit`, a folder or a file, on the CPU in the dtype of the UNet.

    A file has no config: it has the layers of the UNet that it steers. Raises UnavailableError.
    """
    path, _ = find_part(name, "control")
    cls, sizes = diffusers.ControlNetModel, control_sizes(path)
    with loading("control", path):
        if path.is_dir():
            return load_part(cls, path, unet.dtype, key="control")
        config = {key: unet.config[key] for key in signature(cls).parameters if key in unet.config} | {
            "_class_name": cls.__name__,
            "in_channels": sizes.in_channels,
            "conditioning_embedding_out_channels": sizes.hint_channels,
        }
        return _build_part("controlnet", config, load_file(path), unet.dtype, path, "control")


def _load_vae(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """The autoencoder that replaces the model's own, as an argument for its pipeline."""
    if model.vae is None:
        return {}
    with loading("vae", model.vae):
        if model.vae.is_file():
            config = read_vae_config(model.vae, model.family.layout)
            if not model.is_file:
                config |= read_json(model.path / "vae" / "config.json")
            own = _dtype_of("vae", model, dtype, config)
            part = _build_part("vae", config, load_file(model.vae), own, model.vae, "vae")
        else:
            config = read_json(model.vae / "config.json", "vae")
            cls = getattr(diffusers, config["_class_name"])
            part = load_part(cls, model.vae, _dtype_of("vae", model, dtype, config), key="vae")
    return {"vae": part}


def _refuse_missing(path: Path, names: Collection[str], key: str = "model") -> None:
    """Raise UnavailableError if there are names of tensors that a file or folder lacks."""
    if names:
        first = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        raise UnavailableError(f"{key}: {path} lacks {len(names)} of its tensors: {first}; download it again")


@contextmanager
def loading(key: str, path: Path) -> Iterator[None]:
    """Load files in silence, one thread at a time; UnavailableError says which of them cannot be loaded.

    It begins with the setting `key` and the path.
    """
    with LOADING, without_advice(), _without_progress_bars():
        try:
            yield
        except BROKEN as exc:
            reason = f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"
            raise UnavailableError(f"{key}: {path} cannot be loaded: {reason}") from exc


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
