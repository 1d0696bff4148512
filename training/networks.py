"""The parts of the model: tokenizer, text encoder, autoencoder and UNet, of the classes that Stable Diffusion
has.
"""

import json
import re
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from captions import every_word


def build_autoencoder(config: dict[str, Any]) -> AutoencoderKL:
    channels = config["autoencoder"]["channels"]
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        norm_num_groups=8,
        sample_size=config["size"],
        mid_block_add_attention=False,
    )


def enlarge_autoencoder(smaller: AutoencoderKL, config: dict[str, Any]) -> AutoencoderKL:
    """An autoencoder of images of twice the size with the weights of `smaller` wherever they fit: its blocks,
    with a new one in front of the encoder's and behind the decoder's.
    """
    vae = build_autoencoder(config)
    ours, theirs = vae.state_dict(), {}
    for name, values in smaller.state_dict().items():
        name = re.sub(r"(?<=encoder\.down_blocks\.)\d+", lambda block: str(int(block[0]) + 1), name)
        if name in ours and ours[name].shape == values.shape:
            theirs[name] = values
    vae.load_state_dict(ours | theirs)
    return vae


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges make one token of every word the world uses, and of no other
    word.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(every_word(), trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += sorted({"".join(merge) for merge in merges} - set(tokens))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77
    )


def build_text_encoder(config: dict[str, Any], tokenizer: CLIPTokenizer) -> CLIPTextModel:
    width = config["text_encoder"]["width"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=config["text_encoder"]["layers"],
            num_attention_heads=config["text_encoder"]["heads"],
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    channels = config["unet"]["channels"]
    f = 2 ** (len(config["autoencoder"]["channels"]) - 1)
    return UNet2DConditionModel(
        sample_size=config["size"] // f,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * (len(channels) - 1),
        up_block_types=["CrossAttnUpBlock2D"] * (len(channels) - 1) + ["UpBlock2D"],
        attention_head_dim=config["unet"]["heads"],
        cross_attention_dim=config["text_encoder"]["width"],
    )


class Denoiser(torch.nn.Module):
    """The two modules that learn together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, times, self.text_encoder(ids).last_hidden_state).sample
