"""Find the configuration of a single file in the layout of the original checkpoints, without torch or Hub.

A diffusers folder states the sizes of its parts in config files; a single file only has shapes of tensors.
"""

import gzip
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sdapp.errors import UnavailableError
from sdapp.models.files import tensor_shapes

Config = dict[str, Any]
UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
TIME_COND = f"{UNET_PREFIX}time_embed.cond_proj.weight"  # in LCMs: the UNet reads the guidance scale
MERGES = Path(__file__).parent / "clip" / "merges.txt.gz"
END_TOKEN = "<|endoftext|>"
OLD_CLIP = re.compile(r"^((?:cond_stage_model|conditioner\.embedders\.0)\.transformer\.)(?=[ef][a-z_]*\.)")
IN_UNET = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\.")
IS_DIFFUSERS_UNET = {"conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "conv_out.weight"}


class Width(NamedTuple):
    """A number in a config that is read off the file: one side of a tensor, divided by `per`."""

    tensor: str
    axis: int
    per: int = 1


def _unet(downs: str, ups: str, heads: int | None, first_context: str, **rest: Any) -> Config:
    """A UNet whose blocks attend (`x`) to the prompt or not (`-`); without `heads` each is 64 wide."""
    widths = [
        Width(f"{UNET_PREFIX}input_blocks.{3 * i + 1}.0.out_layers.3.weight", 0) for i in range(len(downs))
    ]
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": Width(f"{UNET_PREFIX}input_blocks.0.0.weight", 1),
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if each == "x" else "DownBlock2D" for each in downs],
        "up_block_types": _up_blocks(ups),
        "layers_per_block": 2,
        "attention_head_dim": heads or [width._replace(per=64) for width in widths],
        "cross_attention_dim": Width(
            f"{UNET_PREFIX}input_blocks.{first_context}.transformer_blocks.0.attn2.to_k.weight", 1
        ),
        **rest,
    }


def _up_blocks(ups: str) -> list[str]:
    return ["CrossAttnUpBlock2D" if each == "x" else "UpBlock2D" for each in ups]


def _vae(sample_size: int, **rest: Any) -> Config:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [
            Width(f"{VAE_PREFIX}encoder.down.{i}.block.0.conv1.weight", 0) for i in range(4)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "sample_size": sample_size,
        **rest,
    }


def _clip(prefix: str, layers: int, kind: str = "CLIPTextModel") -> Config:
    """A text encoder in the layout of OpenAI's CLIP, or of OpenCLIP (whose `prefix` ends in `.model.`)."""
    is_open = prefix.endswith(".model.")
    table = prefix + ("token_embedding.weight" if is_open else "embeddings.token_embedding.weight")
    inner = "transformer.resblocks.0.mlp.c_fc" if is_open else "encoder.layers.0.mlp.fc1"
    return {
        "prefix": prefix,  # of its tensors, in the file
        "architectures": [kind],
        "model_type": "clip_text_model",
        "hidden_act": "gelu" if is_open else "quick_gelu",
        "vocab_size": Width(table, 0),
        "hidden_size": Width(table, 1),
        "projection_dim": Width(table, 1),
        "intermediate_size": Width(f"{prefix}{inner}.weight", 0),
        "num_hidden_layers": layers,
        "num_attention_heads": Width(table, 1, per=64),
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }


_BETAS: Config = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
    "timestep_spacing": "leading",
}  # fmt: skip
_PNDM: Config = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **_BETAS}
# The parts of a diffusers folder for each family, as the configs of the published models have them.
STABLE_DIFFUSION_1: Config = {
    "unet": _unet("xxx-", "-xxx", 8, "1.1", sample_size=64),
    "vae": _vae(512),
    "text_encoder": _clip("cond_stage_model.transformer.text_model.", 12),
    "tokenizer": {"pad_token": END_TOKEN},
    "scheduler": _PNDM,
}
STABLE_DIFFUSION_2: Config = {
    "unet": _unet("xxx-", "-xxx", None, "1.1", sample_size=96, use_linear_projection=True),
    "vae": _vae(768),
    "text_encoder": _clip("cond_stage_model.model.", 23),  # of 24: the last one is not used
    "tokenizer": {"pad_token": "!"},
    "scheduler": _PNDM,
}
SDXL: Config = {
    "unet": _unet(
        "-xx", "xx-", None, "4.1", sample_size=128, use_linear_projection=True,
        transformer_layers_per_block=[1, 2, 10], addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=Width(f"{UNET_PREFIX}label_emb.0.0.weight", 1),
    ),
    "vae": _vae(1024, scaling_factor=0.13025),
    "text_encoder": _clip("conditioner.embedders.0.transformer.text_model.", 12),
    "text_encoder_2": _clip("conditioner.embedders.1.model.", 32, "CLIPTextModelWithProjection"),
    "tokenizer": {"pad_token": END_TOKEN},
    "tokenizer_2": {"pad_token": "!"},
    "scheduler": {"_class_name": "EulerDiscreteScheduler", **_BETAS},
}  # fmt: skip


def modern_names(names: Collection[str]) -> dict[str, str]:
    """The names of a file's tensors in the layout that is read here, by those in the file.

    Brings together: CLIP with and without `text_model.`; UNets alone, without their prefix or in the layout
    of diffusers.
    """
    found = {name: OLD_CLIP.sub(r"\1text_model.", name) for name in names}
    if "input_blocks.0.0.weight" in found:
        found |= {name: UNET_PREFIX + name for name in names if IN_UNET.match(name)}
    if found.keys() >= IS_DIFFUSERS_UNET:
        ups = _up_blocks("-xxx" if "down_blocks.0.attentions.0.proj_in.weight" in found else "xx-")
        parts = ((name, *name.rpartition(".")) for name in names)
        found |= {name: f"{UNET_PREFIX}{unet_name(layer, 2, ups)}.{kind}" for name, layer, _, kind in parts}
    return found


def read_shapes(path: Path) -> Mapping[str, list[int]]:
    """The shapes of a file's tensors by their modern names, read once unless the file changes.

    Raises UnavailableError, see `tensor_shapes`.
    """
    stat = path.stat()
    return _read_shapes(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_shapes(path: Path, _size: int, _changed: int) -> Mapping[str, list[int]]:
    shapes = tensor_shapes(path)
    names = modern_names(shapes)
    return {names[name]: shape for name, shape in shapes.items()}


def first_tensor(config: Config) -> str:
    """A tensor by which one sees whether a file has the part of this layout."""
    return next(width.tensor for width in _widths(config))


def _widths(value: Any) -> Iterator[Width]:
    if isinstance(value, Width):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _widths(each)


def read_config(path: Path, layout: Config, part: str) -> Config:
    """The config of a part of a file: that of its layout, with the widths read off the file.

    Raises UnavailableError that names the part which the file does not have.
    """
    shapes = read_shapes(path)
    config: Config = _fill(layout[part], shapes, f"model: {path} has no {part}")
    if part == "unet" and TIME_COND in shapes:
        config["time_cond_proj_dim"] = shapes[TIME_COND][1]
    return config


def scheduler_config(path: Path, layout: Config) -> Config:
    """The config of a file's scheduler: that of its family, with what its UNet predicts."""
    config: Config = dict(layout["scheduler"])
    if TIME_COND in read_shapes(path):
        config = {"_class_name": "LCMScheduler", **_BETAS}
    if predicts_v(path, layout):
        config["prediction_type"] = "v_prediction"
        config["rescale_betas_zero_snr"] = "ztsnr" in read_shapes(path)
    return config


def predicts_v(path: Path, layout: Config) -> bool:
    """Whether a UNet predicts v: such files of SDXL have a mark, in those of 2.x a tensor spreads wider."""
    shapes, name = read_shapes(path), f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    is_plain = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", [0, 4])[1] == 4
    is_2 = layout["unet"] is STABLE_DIFFUSION_2["unet"] and is_plain  # its inpainting predicts noise
    if "v_pred" in shapes or not is_2 or name not in shapes:
        return "v_pred" in shapes
    import numpy as np
    from safetensors import SafetensorError, safe_open

    in_file = {modern: name for name, modern in modern_names(tensor_shapes(path)).items()}
    try:
        with safe_open(path, framework="numpy") as file:
            values = file.get_tensor(in_file[name])
    except (TypeError, AttributeError):  # numpy has no bfloat16 and no float8
        with safe_open(path, framework="pt") as file:
            values = file.get_tensor(in_file[name]).float().numpy()
    except SafetensorError as exc:
        raise UnavailableError(f"model: {path} is damaged: {exc}; download it again") from exc
    return bool(np.std(values) > 0.09)


def read_vae_config(path: Path, layout: Config) -> Config:
    """The config of a file with an autoencoder, alone or in a whole checkpoint, of a family's layout."""
    shapes = tensor_shapes(path, "vae")
    named = {
        VAE_PREFIX + name.removeprefix(VAE_PREFIX).removeprefix("vae."): shape
        for name, shape in shapes.items()
    }
    config: Config = _fill(layout["vae"], named, f"vae: {path} has no whole autoencoder")
    return config


def _fill(value: Any, shapes: Mapping[str, list[int]], problem: str) -> Any:
    """A config with numbers for its widths. Raises UnavailableError for a tensor that is missing."""
    if isinstance(value, dict):
        return {key: _fill(each, shapes, problem) for key, each in value.items()}
    if isinstance(value, Width):
        if value.tensor not in shapes:
            raise UnavailableError(f"{problem}: the tensor {value.tensor} is missing")
        return max(1, shapes[value.tensor][value.axis] // value.per)
    return [_fill(each, shapes, problem) for each in value] if isinstance(value, list) else value


@lru_cache(maxsize=2)
def clip_tokenizer(pad_token: str = END_TOKEN) -> Any:
    """CLIP's tokenizer, which every family uses; they differ in the token that fills up the 77."""
    from transformers import CLIPTokenizer  # does not import torch

    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *map("".join, merges),
        "<|startoftext|>",
        END_TOKEN,
    ]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=77)


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE_OF_BLOCKS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_name(name: str, layers_per_block: int, up_block_types: Sequence[str]) -> str:
    """The name that a layer of a UNet, such as `mid_block.resnets.0`, has in the original checkpoints."""
    match = re.fullmatch(r"(down|mid|up)_block(?:s\.(\d+))?\.([a-z]+)\.(\d+)\.?(.*)", name)
    if match is None:
        return _OUTSIDE_OF_BLOCKS.get(name, name)
    where, layer, number, rest = match[1], match[3], int(match[4]), match[5]
    per_block, i = layers_per_block + 1, int(match[2] or 0)
    if layer == "downsamplers":
        return f"input_blocks.{per_block * (i + 1)}.0.op"
    if layer == "upsamplers":
        return f"output_blocks.{per_block * (i + 1) - 1}.{2 if 'CrossAttn' in up_block_types[i] else 1}.conv"
    inner = 1 if layer == "attentions" else 0
    place = {
        "down": f"input_blocks.{per_block * i + number + 1}.{inner}",
        "mid": f"middle_block.{inner or 2 * number}",
        "up": f"output_blocks.{per_block * i + number}.{inner}",
    }[where]
    return f"{place}.{_RESNET.get(rest, rest) if layer == 'resnets' else rest}"
