"""Files with the header of a safetensors file and holes for data: kinds of models by their real names and shapes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Shapes = Mapping[str, Sequence[int]]
UNET = "model.diffusion_model."


def save_header(path: Path, shapes: Shapes) -> Path:
    """Write a file of float16 tensors, all zero; it takes no room on disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def checkpoint(channels: int = 4, width: int = 768, **more: Sequence[int]) -> dict[str, Sequence[int]]:
    """Some tensors of a checkpoint in the original layout: UNet, autoencoder and text encoder."""
    return {
        f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width),
        f"{UNET}output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": (320, width),
        "first_stage_model.encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        **{1024: OPENCLIP, 2048: XL}.get(width, CLIP),
        **more,
    }


CLIP = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768)}
OPENCLIP = {"cond_stage_model.model.token_embedding.weight": (49408, 1024)}
XL = {
    f"{UNET}input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
}
