"""Merge LoRA files into the weights of a loaded pipeline, and take them out again to the last bit.

The weights are W + w · ΔW while an image is painted, so a LoRA costs no time per step. LoRA and LoCon (ΔW is
the product of two small matrices), LoHa and LoKr (products of such products), DoRA, OFT (W is turned) and
whole differences are read, in the layouts of kohya, diffusers and peft.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sdapp.errors import UnavailableError
from sdapp.models.embedding_files import IN_LORA
from sdapp.models.lora_files import ENDS, alpha_of, examine_lora
from sdapp.models.originals import unet_name
from sdapp.settings.additions import Lora

Tensors = Mapping[str, torch.Tensor]
# How the names of tensors begin, and the part of the pipeline: kohya's (`_` for dots), diffusers', peft's.
PART_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "base_model.model.": "unet",
}
# The kinds of ΔW, by the tensors that each must have.
COMPLETE = (
    {"up", "down"}, {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, {"oft_blocks"}, {"diff"},
    {"diff_b"},
    *({first, second} for first in ("lokr_w1", "lokr_w1_a") for second in ("lokr_w2", "lokr_w2_a")),
)  # fmt: skip


class Loras:
    """The LoRAs that are merged into a pipeline's weights; `apply` exchanges them."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._merged: tuple[Lora, ...] = ()
        self._originals: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._names: dict[str, dict[str, torch.nn.Module]] = {}

    def are_merged(self, files: Sequence[Lora]) -> bool:
        """Return whether the weights are those with these LoRAs."""
        return tuple(files) == self._merged

    def apply(self, files: Sequence[Lora]) -> None:
        """Let the weights be those of the model with these LoRAs, in this order, and no others.

        Raises UnavailableError for a file that does not fit the model; then no LoRA is merged.
        """
        self._restore()
        try:
            for file in files:
                self._merge(file)
        except BaseException:
            self._restore()
            raise
        self._merged = tuple(files)

    def _restore(self) -> None:
        with torch.no_grad():
            for parameter, original in self._originals.items():
                parameter.copy_(original)
        self._originals, self._merged = {}, ()

    def _merge(self, file: Lora) -> None:
        path = Path(file.file)
        if file.sha256 not in (None, examine_lora(path)[0]):
            raise UnavailableError(f"loras: {path} has changed since this run was planned")
        text_weight = file.weight if file.text_encoder_weight is None else file.text_encoder_weight
        with torch.no_grad():
            for (part, module), tensors in self._groups(path).items():
                if not (weight := file.weight if part == "unet" else text_weight):
                    continue
                try:
                    for parameter, change in _changes(self._modules(part)[module], tensors):
                        if parameter not in self._originals:
                            self._originals[parameter] = parameter.detach().to("cpu", copy=True)
                        merged = parameter.float() + weight * change
                        parameter.copy_(merged.to(parameter.dtype))
                except (RuntimeError, LookupError, AttributeError) as exc:
                    raise UnavailableError(
                        f"loras: {path} does not fit this model: its {module} has other sizes; "
                        "it was made for another family"
                    ) from exc

    def _groups(self, path: Path) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
        """The tensors of a file for each layer. Raises UnavailableError for any tensor that has no place."""
        groups: dict[tuple[str, str], dict[str, torch.Tensor]] = defaultdict(dict)
        strangers: list[str] = []
        for name, tensor in load_file(path).items():
            if IN_LORA.fullmatch(name):  # an embedding, which the text encoder reads
                continue
            place = self._place(name)
            if place is None:
                strangers.append(name)
            else:
                part, module, kind = place
                groups[part, module][kind] = tensor.float()
        if strangers:
            raise UnavailableError(
                f"loras: {path} does not fit this model: {len(strangers)} of its tensors have no place in it "
                f"({strangers[0]}); it was made for another family"
            )
        for (part, module), tensors in groups.items():
            if not any(needed <= tensors.keys() for needed in COMPLETE):
                raise UnavailableError(
                    f"loras: {path} is damaged: of {part}.{module} it has only {', '.join(sorted(tensors))}"
                )
            if "down" in tensors and "alpha" not in tensors:
                alpha = alpha_of(path, part, module, rank=tensors["down"].shape[0])
                tensors |= {} if alpha is None else {"alpha": torch.tensor(alpha)}
        return groups

    def _place(self, name: str) -> tuple[str, str, str] | None:
        """The part, the layer and the kind of a tensor; None if the model has no such layer."""
        end = next((end for end in sorted(ENDS, key=len, reverse=True) if name.endswith(end)), None)
        prefix = next((each for each in PART_PREFIXES if name.startswith(each)), None)
        is_xl = hasattr(self._pipe, "text_encoder_2")
        if end is None or prefix is None or (prefix == "lora_te_" and is_xl):
            return None
        if getattr(self._pipe, PART_PREFIXES[prefix], None) is None:
            return None
        part = PART_PREFIXES[prefix]
        module = name.removeprefix(prefix).removesuffix(end)
        module = re.sub(r"(^|_)text_model_", r"\1", module.replace(".processor", "").replace(".", "_"))
        for each in (module, f"{module}_0"):
            if each in self._modules(part):
                return part, each, ENDS[end]
        return None

    def _modules(self, part: str) -> Mapping[str, torch.nn.Module]:
        """The layers of a part that have weights, by the names that LoRA files have for them."""
        if part not in self._names:
            model = getattr(self._pipe, part)
            found = {name: module for name, module in model.named_modules() if hasattr(module, "weight")}
            names = {name.removeprefix("text_model.").replace(".", "_"): each for name, each in found.items()}
            if part == "unet":  # kohya's files for SDXL have the names of the original checkpoints
                blocks = model.config.layers_per_block, model.config.up_block_types
                names |= {unet_name(name, *blocks).replace(".", "_"): each for name, each in found.items()}
            self._names[part] = names
        return self._names[part]


def _changes(layer: Any, tensors: Tensors) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
    """The parameters of a layer that change, each with its ΔW at a weight of 1, in float32 on its device."""
    tensors = {name: tensor.to(layer.weight.device) for name, tensor in tensors.items()}
    if "diff_b" in tensors:
        yield layer.bias, _shaped(tensors["diff_b"], layer.bias.shape)
    shape = layer.weight.shape
    if "diff" in tensors:
        yield layer.weight, _shaped(tensors["diff"], shape)
    elif "oft_blocks" in tensors:
        yield layer.weight, _turned(layer.weight.float(), tensors)
    elif tensors.keys() - {"diff_b", "alpha"}:
        change = _shaped(_product(tensors), shape) * _scale(tensors)
        yield layer.weight, _with_lengths(layer.weight.float(), change, tensors)


def _turned(original: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """OFT (Qiu et al. 2023): each block of outputs is turned by (I + Q)(I - Q)⁻¹, Q = B - Bᵀ for a block B.

    An alpha bounds the length of all Q to alpha × outputs; `rescale` has a factor for each output.
    """
    blocks = tensors["oft_blocks"]
    q, one = blocks - blocks.mT, torch.eye(blocks.shape[-1], device=blocks.device)
    if (most := float(tensors.get("alpha", 0)) * len(original)) > 0:
        q = q * (most / q.norm().clamp_min(1e-8)).clamp(max=1)
    turn = (one + q) @ (one - q).inverse()
    parts = original.reshape(len(blocks), blocks.shape[-1], -1)
    turned = torch.einsum("knm,knp->kmp", turn, parts).reshape(original.shape)
    return turned * tensors.get("rescale", 1) - original


def _with_lengths(original: torch.Tensor, change: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """DoRA: W + ΔW only gives the direction; each output, or each input, has a length of its own."""
    lengths = tensors.get("magnitude", tensors.get("dora"))
    if lengths is None:
        return change
    axis = 0 if "magnitude" in tensors or lengths.shape[0] == original.shape[0] else 1
    others = [each for each in range(original.ndim) if each != axis]
    whole = original + change
    lengths = lengths.reshape([-1 if each == axis else 1 for each in range(original.ndim)])
    turned: torch.Tensor = whole / whole.norm(dim=others, keepdim=True).clamp_min(1e-12) * lengths
    return turned - original


def _shaped(change: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """ΔW in the shape of the weights; convolutions may be flattened. Raises RuntimeError for other sizes."""
    if change.reshape(len(change), -1).shape != torch.Size([shape[0], shape[1:].numel()]):
        raise RuntimeError(f"{list(change.shape)} for {list(shape)}")
    return change.reshape(shape)


def _product(tensors: Tensors) -> torch.Tensor:
    """ΔW before its scale, in the shape of the weights or flattened."""
    if "up" in tensors:
        return _pair(tensors["up"], tensors["down"], tensors.get("mid"))
    if "hada_w1_a" in tensors:
        one, two = (
            _pair(tensors[f"hada_w{i}_a"], tensors[f"hada_w{i}_b"], tensors.get(f"hada_t{i}"), is_hada=True)
            for i in (1, 2)
        )
        return one * two
    one = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if "lokr_w2" in tensors:
        two = tensors["lokr_w2"]
    else:
        two = _pair(tensors["lokr_w2_a"], tensors["lokr_w2_b"], tensors.get("lokr_t2"), is_hada=True)
    return torch.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two)


def _pair(
    up: torch.Tensor, down: torch.Tensor, core: torch.Tensor | None, is_hada: bool = False
) -> torch.Tensor:
    """up · down; with the core of a Tucker decomposition, up and down act on its first two axes."""
    if core is None:
        return up.flatten(1) @ down.flatten(1)
    if is_hada:  # there `up` is stored as [rank, outputs]
        return torch.einsum("ijkl,ip,jr->prkl", core, up, down)
    return torch.einsum("ijkl,pi,jr->prkl", core, up.flatten(1), down.flatten(1))


def _scale(tensors: Tensors) -> float:
    """alpha / rank; 1 without an alpha, or where nothing has a rank."""
    ranked = next(
        (tensors[name] for name in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if name in tensors), None
    )
    if ranked is None or "alpha" not in tensors:
        return 1.0
    return float(tensors["alpha"]) / ranked.shape[0]
