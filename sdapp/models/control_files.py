"""ControlNets: where they are and whether they fit a model, found from their headers without torch."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sdapp import images
from sdapp.errors import ConfigError, InputError, UnavailableError
from sdapp.models.families import family_of_width
from sdapp.models.files import read_json, tensor_shapes
from sdapp.models.kinds import find_kind, marks_of
from sdapp.models.model import Model
from sdapp.models.vae import WEIGHTS, find_part
from sdapp.settings.additions import Control

CLASS = "ControlNetModel"
PREFIX = "control_model."  # of files in the layout of the original checkpoints; some have none
TEXT_READER = re.compile(r"attn2\.to_k\.weight$")


class ControlSizes(NamedTuple):
    """What must fit the model that a ControlNet steers."""

    context: int | None  # width of the text embeddings
    hint_channels: list[int]  # of the layers that read its image; each but the first halves the sides
    in_channels: int = 4

    @property
    def scale(self) -> int:
        return int(2 ** (len(self.hint_channels) - 1))


def check_control(control: Sequence[Control], model: Model, size: images.Size) -> list[Control]:
    """Return ControlNets pinned to a commit, with the SHA-256 of their images; those of scale 0 are left out.

    The images must have the shape of `size`. Raises UnavailableError for what is no ControlNet, ConfigError
    for one that was made for another family, and what `images.inputs` raises.
    """
    found = []
    for each in control:
        path, commit = find_part(each.model, "control")
        sizes = control_sizes(path)
        if sizes.context != model.facts.get("context"):
            made_for = family_of_width(sizes.context or 0)
            raise ConfigError(f"control: {each.model} is for {made_for}; {model.name} is {model.family.name}")
        if sizes.scale != model.scale:
            works = f"it reads its image at 1/{sizes.scale} of the size, the model works at 1/{model.scale}"
            raise ConfigError(f"control: {each.model} does not fit {model.name}: {works}")
        images.inputs.image(each.image, size, key="control")
        digest = images.inputs.read(each.image, "control")[1]
        if each.sha256 not in (None, digest):
            raise InputError(f"control: {each.image} is not the image that was used: its SHA-256 is {digest}")
        pinned = each.model if commit is None else f"{each.model.partition('@')[0]}@{commit}"
        if each.scale:
            found.append(each.model_copy(update={"model": pinned, "sha256": digest}))
    return found


def control_sizes(path: Path) -> ControlSizes:
    """Return the sizes of a ControlNet, a folder or a file. Raises UnavailableError for anything else."""
    if path.is_file():
        return _of_file(path, tensor_shapes(path, "control"))
    for name in ("config.json", WEIGHTS):
        if not (path / name).is_file():
            raise UnavailableError(
                f"control: {path} is not the diffusers folder of a ControlNet: {name} is missing"
            )
    config = read_json(path / "config.json", "control")
    if (kind := config.get("_class_name")) != CLASS:
        raise UnavailableError(f"control: {path} is a {kind}; only a {CLASS} can be used")
    tensor_shapes(path / WEIGHTS, "control")  # raises UnavailableError for a damaged file
    channels = config.get("conditioning_embedding_out_channels") or [16, 32, 96, 256]
    return ControlSizes(config.get("cross_attention_dim"), channels)


@lru_cache(maxsize=64)
def count_weights(name: str) -> int:
    """Return how many numbers the ControlNet that `control` names has. Raises UnavailableError."""
    path = find_part(name, "control")[0]
    return sum(map(math.prod, tensor_shapes(path if path.is_file() else path / WEIGHTS, "control").values()))


def _of_file(path: Path, shapes: Mapping[str, list[int]]) -> ControlSizes:
    plain = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    context = next((shape[1] for name, shape in plain.items() if TEXT_READER.search(name)), None)
    for first, others, inputs in (
        ("controlnet_cond_embedding.conv_in", "controlnet_cond_embedding.blocks.{}", "conv_in"),
        ("input_hint_block.0", "input_hint_block.{}", "input_blocks.0.0"),
    ):
        if f"{first}.weight" not in plain or f"{inputs}.weight" not in plain:
            continue
        numbers = range(1, 99, 2) if "blocks" in others else range(4, 14, 4)
        names = [f"{others.format(number)}.weight" for number in numbers]
        channels = [plain[name][0] for name in (f"{first}.weight", *names) if name in plain]
        if "control_add_embedding.linear_1.weight" not in plain:
            return ControlSizes(context, channels, plain[f"{inputs}.weight"][1])
    what = find_kind(marks_of(shapes), is_part=True)
    other = f"is {what.partition(';')[0]}, not a ControlNet" if what else "is no ControlNet that sdapp knows"
    raise UnavailableError(f"control: {path} {other}; give one as a diffusers folder or a .safetensors file")
