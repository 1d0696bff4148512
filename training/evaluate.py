"""Score a postcards model: paint prompts, and let a classifier that learned from the drawn world say what it
sees.

python training/evaluate.py training/postcards-64.yaml [MODEL]
"""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from captions import PLACE_PHRASES, SKY_PHRASES, STYLE_PREFIXES, with_article
from drawing import draw
from scenes import COLOURS, KINDS, PLACES, SKIES, STYLES, Scene, Thing, sample_scene
from sdapp.diffusion.loading import quiet
from sdapp.jobs import Job, LoadKey
from sdapp.models.locate import locate
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.validation import validate
from train import psnr

PROMPTS, MEADOWS = 400, 20
HELD_OUT_SHARE = 0.3
DRAWINGS, EPOCHS, BATCH = 30_000, 6, 128
FRESH, REBUILT = 2000, 500  # drawings that the classifier is tested with, and the autoencoder
SETTINGS = {"scheduler": "dpm++2m-karras", "steps": 20, "batch_size": 10}
ATTRIBUTES = ("sky", "place", "style", "thing", "colour")
COLOUR_NAMES = list(COLOURS)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- the classifier -----------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Images [N, 3, S, S] in 0 … 1 → logits of sky, place, style, which things are there, and the colour of
    each.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = (3, *[16] * (size // 128), 32, 64, 96, 128)  # halved until they are 4 × 4
        layers = [
            layer
            for i, o in pairwise(widths)
            for layer in (nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
        ]
        self.features = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 16, 256), nn.ReLU()
        )
        self.sizes = (len(SKIES), len(PLACES), len(STYLES), len(KINDS), len(KINDS) * len(COLOUR_NAMES))
        self.heads = nn.Linear(256, sum(self.sizes))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.heads(self.features(images - 0.5)).split(self.sizes, dim=1)


@dataclass
class Truth:
    """Labels of N scenes: three classes each, things present [N, 7], and colours [N, 7] (-1 where the thing
    is absent).
    """

    sky: torch.Tensor
    place: torch.Tensor
    style: torch.Tensor
    present: torch.Tensor
    colour: torch.Tensor

    @classmethod
    def of(cls, scenes: list[Scene]) -> "Truth":
        colour = torch.full((len(scenes), len(KINDS)), -1)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                colour[row, KINDS.index(thing.kind)] = COLOUR_NAMES.index(thing.colour)
        return cls(
            torch.tensor([SKIES.index(scene.sky) for scene in scenes]),
            torch.tensor([PLACES.index(scene.place) for scene in scenes]),
            torch.tensor([STYLES.index(scene.style) for scene in scenes]),
            (colour >= 0).float(),
            colour,
        )


def draw_scene(index: int, size: int, name: str) -> tuple[np.ndarray, Scene]:
    rng = Random(f"{name}/{index}")
    scene = sample_scene(rng, held_out=True)
    return np.asarray(draw(scene, size, rng)), scene


def draw_scenes(count: int, size: int, name: str) -> tuple[torch.Tensor, list[Scene]]:
    """Fresh drawings as uint8 [N, 3, size, size]; every combination may occur."""
    with ProcessPoolExecutor() as pool:
        images, scenes = zip(
            *pool.map(partial(draw_scene, size=size, name=name), range(count), chunksize=100), strict=True
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), list(scenes)


def train_classifier(size: int, path: Path) -> Classifier:
    classifier = Classifier(size).to(DEVICE)
    if path.exists():
        classifier.load_state_dict(torch.load(path, map_location=DEVICE, weights_only=True))
        return classifier.eval()
    images, scenes = draw_scenes(DRAWINGS, size, "classifier")
    truth = Truth.of(scenes)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        batch = images[rows].to(DEVICE).float() / 255
        if step % 2:  # the model's images are a little softer than drawings
            batch = F.avg_pool2d(F.pad(batch, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        sky, place, style, present, colour = classifier(batch + 0.03 * torch.randn_like(batch))
        colours = truth.colour[rows].to(DEVICE)
        loss = F.cross_entropy(sky, truth.sky[rows].to(DEVICE)) + F.cross_entropy(
            place, truth.place[rows].to(DEVICE)
        )
        loss = loss + F.cross_entropy(style, truth.style[rows].to(DEVICE))
        loss = loss + 3 * F.binary_cross_entropy_with_logits(present, truth.present[rows].to(DEVICE))
        loss = loss + F.cross_entropy(
            colour.reshape(-1, len(COLOUR_NAMES)), colours.reshape(-1), ignore_index=-1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"classifier: step {step}/{steps}  loss {loss.item():.3f}", flush=True)
    torch.save(classifier.state_dict(), path)
    return classifier.eval()


@torch.no_grad()
def judge(classifier: Classifier, images: torch.Tensor, scenes: list[Scene]) -> dict[str, np.ndarray]:
    """For each image and attribute, whether it shows what the scene says; `trees` is whether it shows a tree.

    A thing counts when it is there and no other is surer; a colour when the thing would have it.
    """
    outputs = [classifier(part.to(DEVICE).float() / 255) for part in images.split(200)]
    sky, place, style, present, colour = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
    truth = Truth.of(scenes)
    kinds = truth.present.argmax(1)
    rows = torch.arange(len(scenes))
    said = colour.reshape(len(scenes), len(KINDS), len(COLOUR_NAMES))[rows, kinds].argmax(1)
    found = {
        "sky": sky.argmax(1) == truth.sky,
        "place": place.argmax(1) == truth.place,
        "style": style.argmax(1) == truth.style,
        "thing": (present.argmax(1) == kinds) & (present[rows, kinds] > 0),
        "colour": said == truth.colour[rows, kinds],
        "trees": present[:, KINDS.index("tree")] > 0,
    }
    return {name: values.numpy() for name, values in found.items()}


# --- painting -----------------------------------------------------------------------------------------------


def prompts() -> Iterator[tuple[str, Scene]]:
    """Prompts that say everything, with one thing; three in ten have a combination not in training."""
    rng = Random("evaluation")
    for number in range(PROMPTS):
        while True:
            thing = Thing(rng.choice(KINDS), rng.choice(COLOUR_NAMES), "centre")
            style = rng.choices(STYLES, (55, 15, 15, 15))[0]
            scene = Scene(rng.choice(SKIES), rng.choice(PLACES), (thing,), style)
            if scene.held_out == (number < PROMPTS * HELD_OUT_SHARE):
                break
        where = rng.choice(PLACE_PHRASES[scene.place])
        when = rng.choice(SKY_PHRASES[scene.sky])
        yield f"{rng.choice(STYLE_PREFIXES[style])}{with_article(thing.words)} {where} {when}", scene


def paint(model: str, wanted: list[dict[str, Any]]) -> torch.Tensor:
    """Paint by sdapp itself: one image for each settings, uint8 [N, 3, S, S]."""
    config = validate(Layer({"model": model, "prompt": ""} | SETTINGS))
    located = locate(model)
    jobs: list[Job] = []
    for settings in wanted:
        jobs += plan(validate(Layer({"model": model} | SETTINGS | settings)), located)
    quiet(verbose=False)
    painted = [
        np.asarray(result.image)
        for result in load(LoadKey.of(config, located)).paint(jobs, config.batch_size)
    ]
    return torch.from_numpy(np.stack(painted)).permute(0, 3, 1, 2).contiguous()


def sheet(images: torch.Tensor, columns: int, zoom: int) -> Image.Image:
    size = images.shape[-1] * zoom
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (size + 4), rows * (size + 4)), "white")
    for i, image in enumerate(images):
        image = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.NEAREST)
        page.paste(image, (i % columns * (size + 4), i // columns * (size + 4)))
    return page


def seconds_for_one(model: str) -> float:
    """How long an image takes a loaded model on the CPU, with two threads."""
    config = validate(Layer({"model": model, "prompt": "a red house on a beach", "device": "cpu"} | SETTINGS))
    located, threads = locate(model), torch.get_num_threads()
    torch.set_num_threads(2)
    painter, taken = load(LoadKey.of(config, located)), []
    for _ in range(3):
        started = time.perf_counter()
        list(painter.paint(plan(config, located), 1))
        taken.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return round(min(taken), 2)


def score(model: str, config: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    """Everything that the model card says, in percent where nothing else is said; a sheet of 64 images is
    saved.
    """
    torch.manual_seed(0)
    located = locate(model)
    size = located.size
    classifier = train_classifier(size, folder / f"classifier-{size}.pt")
    fresh, scenes = draw_scenes(FRESH, size, "fresh drawings")
    single = [i for i, scene in enumerate(scenes) if len(scene.things) == 1]
    seen = judge(classifier, fresh[single], [scenes[i] for i in single])
    scores = {"classifier": {name: _percent(seen[name]) for name in ATTRIBUTES}}

    asked = list(prompts())
    images = paint(model, [{"prompt": prompt, "seed": i} for i, (prompt, _) in enumerate(asked)])
    seen = judge(classifier, images, [scene for _, scene in asked])
    held_out = np.array([scene.held_out for _, scene in asked])
    scores["model"] = {name: _percent(seen[name]) for name in ATTRIBUTES}
    scores["held-out combinations"] = {name: _percent(seen[name][held_out]) for name in ATTRIBUTES}
    sheet(images[:: max(1, PROMPTS // 64)][:64], 8, max(1, 128 // size)).save(folder / "sheet.png")

    meadows = product(("a meadow", "a meadow by day", "a field"), range(MEADOWS))
    meadow = [{"prompt": prompt, "seed": seed} for prompt, seed in meadows]
    without = [settings | {"negative_prompt": "tree"} for settings in meadow]
    trees = [
        judge(classifier, paint(model, wanted), [asked[0][1]] * len(wanted))["trees"]
        for wanted in (meadow, without)
    ]
    scores["trees in meadows"] = {
        "no negative prompt": _percent(trees[0]),
        "negative prompt 'tree'": _percent(trees[1]),
    }

    vae = AutoencoderKL.from_pretrained(located.path / "vae", dtype=torch.float32).to(DEVICE)
    megabytes = sum(file.stat().st_size for file in located.path.rglob("*") if file.is_file()) / 1e6
    scores["as a whole"] = {
        "dB PSNR of the autoencoder": round(psnr(vae, config, REBUILT), 2),
        "MB": round(megabytes, 1),
        "seconds for an image on two CPU cores": seconds_for_one(model),
    }
    return scores


def missed(scores: dict[str, dict[str, float]], marks: dict[str, dict[str, str]]) -> list[str]:
    """The marks of a config, such as `thing: ">= 95"`, that the scores do not reach."""
    lines = []
    for group, name, mark in (
        (group, name, mark) for group, names in marks.items() for name, mark in names.items()
    ):
        found, (sign, bound) = scores[group][name], mark.split()
        if not {">=": found >= float(bound), "<=": found <= float(bound)}[sign]:
            lines.append(f"{group}, {name}: {found} is not {mark}")
    return lines


def main(config_path: str, model: str | None = None) -> None:
    config = yaml.safe_load(Path(config_path).read_text(encoding="utf-8"))
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    scores = score(model or str(folder / "model"), config, folder)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))
    if lines := missed(scores, config["marks"]):
        sys.exit("\n".join(["marks that are missed:", *lines]))


def _percent(hits: np.ndarray) -> float:
    return round(100 * float(hits.mean()), 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
