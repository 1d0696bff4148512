"""What a model is, as its files say; read before anything heavy is imported."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdapp.models import hub, originals
from sdapp.models.families import FAMILIES, Family
from sdapp.models.files import read_json
from sdapp.models.kinds import marks_of

UNET_INPUTS = "model.diffusion_model.input_blocks."  # names of the UNet's tensors in a single file
LAST_OF_XL = f"{UNET_INPUTS}8.1.transformer_blocks.9.attn2.to_k.weight"  # smaller ones lack it
CONFIG_FILES = ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
OUR_CLASSES = re.compile(
    r"UNet2DConditionModel|Autoencoder\w+|\w+VAE|CLIPTextModel(WithProjection)?|CLIPTokenizer(Fast)?"
    r"|\w+Scheduler"
)
SHARD = re.compile(r"-\d{5}-of-(\d{5})")


@dataclass(frozen=True)
class Model:
    """A model on this machine: a diffusers folder, or one `.safetensors` file."""

    name: str
    path: Path
    revision: str | None = None  # the commit, for a model from the Hub
    vae: Path | None = None  # the autoencoder that replaces its own: a folder or a file
    vae_revision: str | None = None  # its commit, if it is from the Hub
    base: "Model | None" = None  # has the parts that a single file lacks

    @property
    def is_file(self) -> bool:
        return self.path.is_file()

    @cached_property
    def shapes(self) -> Mapping[str, list[int]]:
        """The shapes of a single file's tensors, by their modern names; of a folder none."""
        return originals.read_shapes(self.path) if self.is_file else {}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the file's header or the folder's config files say, without what is None.

        Of a folder: `pipeline`, `scheduler` and other classes. Of both: `channels` and `context`, the input
        channels of the UNet and the width of the text embeddings that it reads, and `time_cond` of LCMs.
        """
        facts = _file_facts(self.shapes) if self.is_file else _folder_facts(self.path)
        facts["vae"] = None if self.vae is None else "replaced"
        return {name: fact for name, fact in facts.items() if fact is not None}

    @cached_property
    def marks(self) -> str:
        """Tensors and facts as text, one `NAME FACT` a line, for the marks of families and kinds."""
        return marks_of(self.shapes) + "".join(f"{name} {fact}\n" for name, fact in self.facts.items())

    @cached_property
    def family(self) -> Family:
        """The family of Stable Diffusion. Raises UnavailableError for a file that cannot be read."""
        found = (family for family in reversed(FAMILIES) if re.search(family.mark, self.marks, re.MULTILINE))
        return next(found, FAMILIES[0])

    @property
    def scale(self) -> int:
        """Pixels per latent, along one side (f)."""
        return self.family.latent_scale if self.is_file else int(2 ** (len(self.facts["widths"]) - 1))

    @cached_property
    def text_layers(self) -> int | None:
        """The layers of the text encoder, or of the smaller of two; None for a single file."""
        configs = [self.path / folder / "config.json" for folder in self.family.text_encoders]
        return min(
            (int(read_json(each)["num_hidden_layers"]) for each in configs if each.is_file()), default=None
        )

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the (first) text encoder; CLIP's if it has no files of its own."""
        folder = self.lender("text_encoder").path / "tokenizer"
        if not folder.is_dir():
            return originals.clip_tokenizer()
        from transformers import CLIPTokenizer  # does not import torch

        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    @cached_property
    def size(self) -> int:
        """The side in pixels of the images that the model was trained on."""
        if not self.is_file:
            return int(self.facts["sample_size"]) * self.scale
        layout = self.family.layout
        is_small = layout is originals.STABLE_DIFFUSION_2 and not originals.predicts_v(self.path, layout)
        return 512 if is_small else int(layout["unet"]["sample_size"]) * self.scale

    @property
    def latent_scaling(self) -> float:
        """The factor between the latents of the autoencoder and those of the UNet."""
        return float(self.facts.get("scaling", self.family.latent_scaling))

    @cached_property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The scheduler that the model brings, and its options; of a single file, that of its family."""
        if self.is_file:
            return originals.scheduler_config(self.path, self.family.layout)
        path = self.path / "scheduler" / "scheduler_config.json"
        return dict(read_json(path)) if path.is_file() else {}

    @property
    def in_channels(self) -> int:
        """Input channels of the UNet: those of the latents, or more in a model made for inpainting."""
        return int(self.facts["channels"])

    @property
    def embeds_guidance(self) -> bool:
        """Whether the UNet reads the guidance scale, as LCMs do; then no negative prompt is used."""
        return "time_cond" in self.facts

    def weights(self, part: str) -> tuple[str | None, list[Path]]:
        """Which variant of a part's weights is loaded (None: the full ones), and its files.

        Full weights come first, then `fp16`, then any other variant that the folder has.
        """
        found: dict[str, list[Path]] = {}
        for path in sorted((self.path / part).glob("*.safetensors")):
            stem, _, variant = SHARD.sub("", path.stem).partition(".")
            if stem == ("model" if part.startswith("text_encoder") else "diffusion_pytorch_model"):
                found.setdefault(variant, []).append(path)
        chosen = min(found, key=lambda name: (name != "", name != "fp16", name), default="")
        return chosen or None, found.get(chosen, [])

    @property
    def weight_files(self) -> list[Path]:
        """The files that are loaded for the model's own parts."""
        parts = filter(self.has_own, self.family.weight_folders)
        return [self.path] if self.is_file else [file for part in parts for file in self.weights(part)[1]]

    @property
    def weight_bytes(self) -> int:
        """The size of these files."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def notes(self) -> list[str]:
        """A note if some parts have full weights and others have not."""
        parts = () if self.is_file else filter(self.has_own, self.family.weight_folders)
        variants = {part: self.weights(part)[0] or "full" for part in parts}
        listed = ", ".join(f"{part} {variant}" for part, variant in variants.items())
        is_mixed = len(set(variants.values())) > 1
        return [f"the weights of {self.name} are of different variants: {listed}"] if is_mixed else []

    def has_own(self, part: str) -> bool:
        """Whether a part is loaded from the model's own files."""
        is_here = not self.is_file or originals.first_tensor(self.family.layout[part]) in self.shapes
        return is_here and (part != "vae" or self.vae is None)

    def lender(self, part: str) -> "Model":
        """The model whose files have a part: this one, or the base for what a single file lacks."""
        return self if self.base is None or self.has_own(part) else self.base

    @property
    def lacks(self) -> list[str]:
        """The parts that a single file lacks, without an autoencoder that is replaced."""
        missing = [part for part in self.family.weight_folders if not self.has_own(part)]
        return missing if self.vae is None else [part for part in missing if part != "vae"]


def _file_facts(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    inputs = (name for name in shapes if name.startswith(UNET_INPUTS))
    context = next((shapes[name][1] for name in inputs if name.endswith("attn2.to_k.weight")), None)
    first = shapes.get(f"{UNET_INPUTS}0.0.weight")
    return {
        "channels": first and first[1],
        "context": context,
        "time_cond": shapes.get(originals.TIME_COND),
        "smaller": "XL" if context == 2048 and LAST_OF_XL not in shapes else None,
    }


def _folder_facts(folder: Path) -> dict[str, Any]:
    def read(path: str) -> dict[str, Any]:
        return read_json(folder / path) if (folder / path).is_file() else {}

    index, unet, vae, scheduler = map(read, CONFIG_FILES)
    has_betas = not {"beta_start", "trained_betas"}.isdisjoint(scheduler)
    parts = {part: entry for part, entry in index.items() if part in hub.FOLDERS and entry[0]}
    classes = (name for _, name in parts.values() if not OUR_CLASSES.fullmatch(name))
    return {
        "pipeline": index.get("_class_name"),
        "code": next(_code_of(folder, index, parts), None),
        "class": next(classes, None),
        "unet": unet.get("_class_name"),
        "channels": unet.get("in_channels"),
        "context": unet.get("cross_attention_dim"),
        "added": unet.get("addition_embed_type"),
        "time_cond": unet.get("time_cond_proj_dim"),
        "quantized": unet.get("quantization_config"),
        "sample_size": unet.get("sample_size"),
        "widths": vae.get("block_out_channels"),
        "scaling": vae.get("scaling_factor"),
        "text_encoder": read("text_encoder/config.json").get("model_type"),
        "transformer": "folder" if (folder / "transformer").is_dir() else None,
        "scheduler": scheduler.get("_class_name"),
        "prediction": scheduler.get("prediction_type"),
        "betas": None if has_betas or not (folder / CONFIG_FILES[-1]).is_file() else "none",
    }


def _code_of(folder: Path, index: dict[str, Any], parts: dict[str, Any]) -> Iterator[str]:
    """The names of code that a folder brings along: of a part, of the pipeline, or an `auto_map`."""
    yield from (library for library, _ in parts.values() if library not in ("diffusers", "transformers"))
    yield from ("custom_pipeline" for key in index if key == "custom_pipeline")
    if not isinstance(index.get("_class_name", ""), str):
        yield "custom_pipeline"
    for part in hub.FOLDERS:
        for file in ("config.json", "tokenizer_config.json"):
            if (folder / part / file).is_file() and "auto_map" in read_json(folder / part / file):
                yield f"{part}/auto_map"
