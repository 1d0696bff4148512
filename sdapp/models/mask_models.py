"""Models that find things by words: where they are and what they are, found without torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sdapp.errors import ConfigError, InputError, UnavailableError, did_you_mean
from sdapp.models.checksums import check_download, sha256_of
from sdapp.models.files import BUILT_IN, PICKLED, POSTCARDS, read_json, tensor_shapes
from sdapp.models.hub import fetch
from sdapp.models.locate import find_path
from sdapp.models.model import Model
from sdapp.models.vae import split_revision
from sdapp.settings.stages import Detail
from sdapp.settings.tasks import MASK_MODEL, Inpaint

MASK_KEY = "mask_model"
TENSORS = "model.safetensors"
NEEDED_FILES = ("config.json", "preprocessor_config.json", TENSORS)
MORE_FILES = ("*.txt", "tokenizer*.json", "special_tokens_map.json", "vocab.json")
# The classes of transformers that are loaded, and from what score on each is usually believed.
THRESHOLDS = {
    "CLIPSegForImageSegmentation": 0.4,
    "OwlViTForObjectDetection": 0.2,
    "Owlv2ForObjectDetection": 0.2,
    "YolosForObjectDetection": 0.5,
    "SegformerForSemanticSegmentation": 0.5,
}
WITH_LABELS = ("YolosForObjectDetection", "SegformerForSemanticSegmentation")  # which know no other words
WITHOUT = "; to paint without: --set detail=null"
Finds = TypeVar("Finds", Inpaint, Detail)


@dataclass(frozen=True)
class MaskModel:
    """A mask model on this machine."""

    folder: Path
    kind: str  # a key of THRESHOLDS
    labels: Mapping[str, int] = field(default_factory=dict)  # all words that it knows; empty if it takes any
    commit: str | None = None  # of one from the Hub

    @property
    def weights(self) -> Path:
        return self.folder / TENSORS

    def label_of(self, words: str) -> int | None:
        """The number of the label that words name, with or without an article; None if there is none."""
        plain = re.sub(r"^(an?|the) ", "", " ".join(words.lower().split()))
        return self.labels.get(plain)


def check_words_to_find(given: Finds, model: Model) -> Finds:
    """Return settings that find a place, with the mask model pinned to a commit, its SHA-256 and threshold.

    Without a `mask_prompt` they are returned as they are. Raises what `find_mask_model` raises, ConfigError
    for words that the mask model has no label for, InputError for another SHA-256 than the settings name.
    """
    if given.mask_prompt is None:
        return given
    name = given.mask_model or (BUILT_IN if model.name == BUILT_IN else MASK_MODEL)
    without = WITHOUT if isinstance(given, Detail) else ""
    try:
        found: MaskModel = find_mask_model(name)
    except UnavailableError as exc:
        raise UnavailableError(f"{exc}{without}") from exc
    if found.labels and found.label_of(given.mask_prompt) is None:
        hint = did_you_mean(given.mask_prompt, found.labels, f"; it finds {', '.join(found.labels)}{without}")
        raise ConfigError(f"mask_prompt: {name} has no label {given.mask_prompt!r}{hint}")
    digest = sha256_of(found.weights)
    if given.mask_sha256 not in (None, digest):
        raise InputError(f"{MASK_KEY}: {name} is not the model that was used: its SHA-256 is {digest}")
    pinned = name if found.commit is None else f"{name.partition('@')[0]}@{found.commit}"
    threshold = given.mask_threshold or THRESHOLDS[found.kind]
    return given.model_copy(
        update={MASK_KEY: pinned, "mask_threshold": threshold, "mask_sha256": digest},
    )


def find_mask_model(name: str) -> MaskModel:
    """Find a mask model: `postcards`, a folder, `org/name` or `org/name@revision`; download it if needed.

    Raises UnavailableError for what is none, or cannot be loaded.
    """
    commit = None
    if name == BUILT_IN:
        folder = POSTCARDS / MASK_KEY
    elif path := find_path(split_revision(name)[0], MASK_KEY):
        folder = path
    else:
        folder = fetch(*split_revision(name), NEEDED_FILES, MORE_FILES, MASK_KEY)
        commit = folder.name
    if folder.is_file():
        raise UnavailableError(f"{MASK_KEY}: {name} is a file; give the folder that has its config.json")
    for file in NEEDED_FILES:
        if not (folder / file).is_file():
            pickled = [each.name for suffix in PICKLED for each in folder.glob(f"*{suffix}")]
            reason = f"only {pickled[0]}, which can run code and is not read" if pickled else f"no {file}"
            what = reason if file == TENSORS else f"no {file}"
            raise UnavailableError(
                f"{MASK_KEY}: {name} has {what}; give one of transformers with safetensors"
            )
    config = read_json(folder / "config.json", MASK_KEY)
    kind = next(iter(config.get("architectures") or []), None) if isinstance(config, dict) else None
    if kind not in THRESHOLDS:
        raise UnavailableError(f"{MASK_KEY}: {name} is a {kind}; allowed: {', '.join(THRESHOLDS)}")
    tensor_shapes(folder / TENSORS, MASK_KEY)  # raises UnavailableError for a damaged file
    check_download(folder / TENSORS, MASK_KEY)
    return MaskModel(folder, kind, _words_of_labels(config) if kind in WITH_LABELS else {}, commit)


@cache
def count_mask_weights(name: str) -> int:
    """How many numbers a mask model has. Raises UnavailableError."""
    return sum(map(math.prod, tensor_shapes(find_mask_model(name).weights, MASK_KEY).values()))


def _words_of_labels(config: Mapping[str, Any]) -> dict[str, int]:
    """The words for each label, which may be several: `house, home, hut`. Raises UnavailableError."""
    try:
        labels = {int(number): str(label) for number, label in config["id2label"].items()}
    except (LookupError, ValueError, AttributeError) as exc:
        raise UnavailableError(f"{MASK_KEY}: its config.json names no labels") from exc
    return {word.strip().lower(): number for number, label in labels.items() for word in label.split(",")}
