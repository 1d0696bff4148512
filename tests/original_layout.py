"""A diffusers Stable Diffusion as one file in the layout of the original (CompVis) checkpoints, for tests of any depth."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPTextConfig

from sdapp.models.families import FAMILIES
from sdapp.models.originals import Width, clip_tokenizer, unet_name

Tensors = dict[str, torch.Tensor]
SIDE = 64  # of the narrowest layer that every part can have
OPEN_CLIP = {
    "text_model.": "",
    "text_projection.weight": "text_projection",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "self_attn": "attn",
    "fc1": "c_fc",
    "fc2": "c_proj",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_original(pipe: Any, path: Path, **markers: torch.Tensor) -> None:
    """Save a pipeline of any family as one file; `markers` are further tensors, such as `v_pred`."""
    tensors = original_tensors(pipe) | markers
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path)


def original_tensors(pipe: Any) -> Tensors:
    tensors = {f"model.diffusion_model.{key}": value for key, value in unet_tensors(pipe.unet).items()}
    tensors |= {f"first_stage_model.{key}": value for key, value in vae_tensors(pipe.vae).items()}
    return tensors | text_tensors(pipe)


def text_tensors(pipe: Any) -> Tensors:
    """Stable Diffusion 1 has OpenAI's CLIP, 2 has OpenCLIP with one more layer than is used, SDXL has both."""
    if hasattr(pipe, "text_encoder_2"):
        clip, open_clip = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
        return _clip(pipe.text_encoder, clip) | _open_clip(pipe.text_encoder_2, open_clip)
    if pipe.text_encoder.config.num_hidden_layers == 23:
        found = _open_clip(pipe.text_encoder, "cond_stage_model.model.")
        last = {key: value for key, value in found.items() if ".resblocks.22." in key}
        return found | {key.replace("22", "23"): value * 2 for key, value in last.items()}
    return _clip(pipe.text_encoder, "cond_stage_model.transformer.")


def _clip(encoder: Any, prefix: str) -> Tensors:
    return {
        f"{prefix}text_model.{key.removeprefix('text_model.')}": value
        for key, value in encoder.state_dict().items()
    }


def _open_clip(encoder: Any, prefix: str) -> Tensors:
    found = dict(encoder.state_dict())
    tensors: Tensors = {}
    for key in [key for key in found if ".q_proj." in key]:
        block, kind = key.split(".self_attn.")[0], key.rpartition(".")[2]
        rows = [found.pop(key.replace("q_proj", name)) for name in ("q_proj", "k_proj", "v_proj")]
        tensors[f"{block}.attn.in_proj_{kind}"] = torch.cat(rows)
    tensors |= {key: value.T if key == "text_projection.weight" else value for key, value in found.items()}
    return {prefix + _open_clip_key(key): value for key, value in tensors.items()}


def _open_clip_key(key: str) -> str:
    for ours, theirs in OPEN_CLIP.items():
        key = key.replace(ours, theirs)
    return key


def unet_tensors(unet: Any) -> Tensors:
    blocks = unet.config.layers_per_block, unet.config.up_block_types
    names = ((key, *key.rpartition(".")) for key in unet.state_dict())
    return {f"{unet_name(layer, *blocks)}.{kind}": unet.state_dict()[key] for key, layer, _, kind in names}


def vae_tensors(vae: Any) -> Tensors:
    last = len(vae.config.block_out_channels) - 1
    found: Tensors = {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
        name = re.sub(
            r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", name
        )
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        name = name.replace("conv_shortcut", "nin_shortcut")
        if ".attn_1." in name:
            name = _swap(name, VAE_ATTENTION)
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[name] = value
    return found


def _swap(key: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        key = re.sub(rf"(^|\.){re.escape(ours)}(?=\.)", rf"\g<1>{theirs}", key)
    return key


def narrow(config: Any) -> Any:
    """A part of a family's layout with all widths as small as can be."""
    if isinstance(config, dict):
        return {key: narrow(value) for key, value in config.items()}
    if isinstance(config, list):
        return [narrow(value) for value in config]
    return max(1, SIDE // config.per) if isinstance(config, Width) else config


def random_original(number: int, widths: dict[str, Any] | None = None, in_channels: int = 4) -> Any:
    """A pipeline of a family with random weights and its real blocks and layers, each of them narrow."""
    torch.manual_seed(number)
    family, is_narrow = FAMILIES[number], widths is None
    layout = narrow(family.layout)
    if is_narrow and "text_encoder_2" in layout:  # wider than the first: loading tells the two apart by it
        wide = {"hidden_size": 128, "num_attention_heads": 2}
        widths = {
            "text_encoder_2": wide,
            "unet": {"cross_attention_dim": 192, "projection_class_embeddings_input_dim": 128 + 6 * 256},
        }
    for part, numbers in (widths or {}).items():
        layout[part] |= numbers
        if part.startswith("text_encoder"):
            layout[part]["projection_dim"] = numbers["hidden_size"]
    if not is_narrow:
        layout["vae"]["block_out_channels"] = [128, 256, 512, 512]
    layout["unet"]["in_channels"] = in_channels
    parts = {
        "unet": diffusers.UNet2DConditionModel.from_config(layout["unet"]),
        "vae": diffusers.AutoencoderKL.from_config(layout["vae"]),
    }
    for name, tokenizer in family.text_encoders.items():
        config = layout[name] | {"vocab_size": 49408}
        parts[name] = getattr(transformers, config["architectures"][0])(CLIPTextConfig(**config))
        parts[tokenizer] = clip_tokenizer(**layout[tokenizer])
    scheduler = layout["scheduler"]
    with torch.device("cpu"):  # schedulers compute their sigmas at once
        parts["scheduler"] = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    return getattr(diffusers, family.pipelines["txt2img"])(**parts, **family.components, **family.options)
