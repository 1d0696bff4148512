"""Train the model that finds things by words in the images of postcards: a small SegFormer.

python training/masks.py training/postcards-64-masks.yaml
"""

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from captions import KIND_WORDS
from data import batches, to_tensor
from drawing import draw_with_masks
from evaluate import missed
from scenes import KINDS, sample_scene
from sdapp.models.files import POSTCARDS
from train import Stage

FRESH = 1000  # drawings that the scores are of
SOFT = 0.5  # share of the drawings that are blurred: the model's images are a little softer
SETTLING = 30  # batches after training, from which the batch norm learns what the averaged weights do


def build(config: dict[str, Any]) -> SegformerForSemanticSegmentation:
    """A SegFormer (Xie et al. 2021) whose labels have all words for a kind, such as `house, home, hut`."""
    labels = ["background", *(", ".join(KIND_WORDS.get(kind, (kind,))) for kind in KINDS)]
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            **config["network"],
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            classifier_dropout_prob=0.0,
            drop_path_rate=0.0,
        )
    )


# --- what it learns from ------------------------------------------------------------------------------------


def labelled(index: int, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Scene `index` as an image, uint8 [S, S, 3], and the label of each pixel, uint8 [S, S]; 0: no thing."""
    rng, size = Random(f"masks/{config['seed']}/{index}"), config["size"]
    scene = sample_scene(rng, held_out=True, natural=config["natural"])
    image, masks = draw_with_masks(scene, size, rng)
    labels = np.zeros((size, size), np.uint8)
    for thing, mask in zip(scene.things, masks, strict=True):
        labels[np.asarray(mask) > 0] = 1 + KINDS.index(thing.kind)
    return np.asarray(image), labels


@torch.no_grad()
def rebuilt(images: np.ndarray) -> np.ndarray:
    """Drawings as the autoencoder of postcards makes them again: uint8 [N, S, S, 3]."""
    vae = AutoencoderKL.from_pretrained(POSTCARDS / "vae", dtype=torch.float32)
    made = []
    for start in range(0, len(images), 100):
        latents = vae.encode(to_tensor(images[start : start + 100], "cpu")).latent_dist.mean
        pixels = (vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5
        made.append(pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)


def draw_all(config: dict[str, Any], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All drawings, every fourth one rebuilt, and their labels; drawn once."""
    path, count = folder / "drawings.npz", config["drawings"]
    if not path.exists():
        images, labels = zip(*(labelled(i, config) for i in range(count)), strict=True)
        pixels = np.stack(images)
        pixels[::4] = rebuilt(pixels[::4])
        np.savez(path.with_suffix(".part.npz"), images=pixels, labels=np.stack(labels))
        path.with_suffix(".part.npz").replace(path)
    found = np.load(path)
    return found["images"], found["labels"]


# --- training and scores ------------------------------------------------------------------------------------


def logits_of(model: SegformerForSemanticSegmentation, pixels: torch.Tensor) -> torch.Tensor:
    """Logits [B, labels, S, S] of images [B, 3, S, S] in -1 … 1."""
    return F.interpolate(model(pixels.contiguous()).logits, pixels.shape[-2:], mode="bilinear")


def train(config: dict[str, Any], folder: Path) -> SegformerForSemanticSegmentation:
    """Cross-entropy of each pixel; images are flipped, softened and made noisy."""
    images, labels = draw_all(config, folder)
    model = build(config)
    indices = batches(len(images), config["masks"]["batch"], config["seed"])

    def fed() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = next(indices)
        pixels, wanted = to_tensor(images[chosen], "cpu"), torch.from_numpy(labels[chosen]).long()
        if torch.rand(()) < 0.5:
            pixels, wanted = pixels.flip(-1), wanted.flip(-1)
        if torch.rand(()) < SOFT:
            pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return pixels + 0.06 * torch.rand(len(pixels), 1, 1, 1) * torch.randn_like(pixels), wanted

    def loss_of(_: int) -> torch.Tensor:
        pixels, wanted = fed()
        return F.cross_entropy(logits_of(model, pixels), wanted)

    Stage("masks", model.train(), config["masks"], folder, Accelerator(cpu=True)).run(loss_of)
    with torch.no_grad():
        for _ in range(SETTLING):
            model(fed()[0])
    return model.eval()


@torch.no_grad()
def score(model: SegformerForSemanticSegmentation, config: dict[str, Any]) -> dict[str, float]:
    """Of drawings that training did not see, rebuilt, in percent: the mean IoU of all things, with that of
    each kind and the share under a half; how many scenes show a kind (8 pixels or more) that is not there.
    """
    first = config["drawings"]
    images, labels = (
        np.stack(part) for part in zip(*(labelled(first + i, config) for i in range(FRESH)), strict=True)
    )
    pixels = to_tensor(rebuilt(images), "cpu")
    found = np.concatenate([logits_of(model, part).argmax(1).numpy() for part in pixels.split(100)])
    overlaps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    wrong = np.zeros(FRESH, bool)
    for number, kind in enumerate(KINDS, 1):
        said, true = found == number, labels == number
        rows = true.any((1, 2))
        iou = (said & true).sum((1, 2))[rows] / (said | true).sum((1, 2))[rows]
        overlaps[kind] = iou.tolist()
        wrong |= ~rows & (said.sum((1, 2)) >= 8)
    every = np.array([each for kind in overlaps.values() for each in kind])
    facts = {
        "IoU": every.mean(),
        **{f"IoU of {kind}": np.mean(found or [0]) for kind, found in overlaps.items()},
        "IoU under 50": (every < 0.5).mean(),
        "found if absent": wrong.mean(),
    }
    return {name: round(100 * float(value), 1) for name, value in facts.items()}


def export(model: SegformerForSemanticSegmentation, config: dict[str, Any], folder: Path) -> None:
    """Write the model as a folder of transformers, in float16."""
    model.half().save_pretrained(folder)
    prepared = {
        "image_processor_type": "SegformerImageProcessor",
        "size": {"height": config["size"], "width": config["size"]},
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_reduce_labels": False,
        "resample": int(Image.Resampling.BILINEAR), "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n")


def main(config_path: str) -> None:
    config = yaml.safe_load(Path(config_path).read_text(encoding="utf-8"))
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config["seed"])
    model = train(config, folder)
    scores = score(model, config)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))
    export(model, config, folder / "model")
    print(folder / "model")
    if lines := missed({"": scores}, {"": config["marks"]}):
        sys.exit("\n".join(["marks that are missed:", *(line.removeprefix(", ") for line in lines)]))


if __name__ == "__main__":
    main(sys.argv[1])
