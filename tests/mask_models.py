"""Mask models of the real classes with random weights: what they find is arbitrary, and always the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    Owlv2Config,
    Owlv2ForObjectDetection,
    OwlViTConfig,
    OwlViTForObjectDetection,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    YolosConfig,
    YolosForObjectDetection,
)

from conftest import POSTCARDS

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEN = SIZES | {"image_size": 32, "patch_size": 8}
READ = SIZES | {"vocab_size": 845, "bos_token_id": 843, "eos_token_id": 844, "pad_token_id": 844}
NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SQUARE = {"size": {"height": 32, "width": 32}} | NORMAL


LABELS = {0: "cat", 1: "Palm tree, palm", 2: "house"}
SMALL: dict[str, Any] = {
    "depths": [1, 1], "hidden_sizes": [8, 16], "num_encoder_blocks": 2, "sr_ratios": [2, 1], "patch_sizes": [3, 3],
    "strides": [2, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip
YOLOS_BOX = (0.25, 0.5, 0.25, 0.5)  # centre and size, of all that the YOLOS finds


def save_mask_model(folder: Path, kind: str = "clipseg") -> Path:
    """A CLIPSeg, OWL-ViT, OWLv2, YOLOS or SegFormer of a few thousand weights, as the Hub has them."""
    torch.manual_seed(3)
    shared: dict[str, Any] = {"text_config": READ, "vision_config": SEEN, "projection_dim": 16}
    match kind:
        case "clipseg":
            more = {"reduce_dim": 16, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
            model = CLIPSegForImageSegmentation(CLIPSegConfig(**shared, **more, extract_layers=[0, 1]))
            torch.nn.init.normal_(model.decoder.transposed_convolution.weight)
        case "owlvit" | "owlv2":
            is_first = kind == "owlvit"
            cls, config = (
                (OwlViTForObjectDetection, OwlViTConfig)
                if is_first
                else (Owlv2ForObjectDetection, Owlv2Config)
            )
            model = cls(config(**shared))
            torch.nn.init.zeros_(model.box_head.dense2.weight)  # so each box is a cell of a grid of 4 × 4
        case "segformer":
            model = SegformerForSemanticSegmentation(SegformerConfig(**SMALL, id2label=LABELS))
            torch.nn.init.normal_(model.decode_head.classifier.weight, std=3)
        case _:
            config = YolosConfig(
                **SIZES, image_size=[32, 32], patch_size=8, num_detection_tokens=5, id2label=LABELS
            )
            model = YolosForObjectDetection(config)
            model.class_labels_classifier.layers[-1].bias.data[1] = 5.0  # all boxes are palm trees
            model.bbox_predictor.layers[-1].bias.data = torch.logit(torch.tensor(YOLOS_BOX))
    model.save_pretrained(folder)
    prepared = {"size": {"shortest_edge": 32, "longest_edge": 64}} | NORMAL if kind == "yolos" else SQUARE
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    if kind not in ("yolos", "segformer"):
        for file in (POSTCARDS / "tokenizer").iterdir():
            shutil.copy(file, folder)
    return folder
