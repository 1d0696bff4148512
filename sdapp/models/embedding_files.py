"""Files of textual inversion: found by the words of prompts and checked from their headers, without torch."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sdapp import markup
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError, MissingInputError
from sdapp.models.families import family_of_width
from sdapp.models.files import PICKLED, refuse_others, tensor_shapes
from sdapp.models.model import Model
from sdapp.models.originals import clip_tokenizer
from sdapp.settings.additions import Embedding, Lora

OF_SDXL = ("clip_l", "clip_g")  # the tensors for its two text encoders
IN_LORA = re.compile(r"bundle_emb\.(.+?)\.(?:string_to_param\.\*|emb_params|clip_l|clip_g)")
BY_DIFFUSERS = "learned_embeds"  # the name of each file that its training writes; the word is inside


class Contents(NamedTuple):
    """What a file has."""

    sha256: str  # of the whole file, by which A1111 knows embeddings
    tensors: tuple[str, ...]  # one for each text encoder, [vectors, width] or [width]
    widths: tuple[int, ...]
    vectors: int  # how many tokens they take the place of


def find_embeddings(
    config: RunConfig, texts: Sequence[str], model: Model | None, loras: Sequence[Lora] = ()
) -> list[Embedding]:
    """Return the embeddings whose names are in prompts, sorted by name, with the SHA-256 of their files.

    They are those of `embeddings`, or without that setting those in `folders.embeddings`, and those that are
    part of LoRA files. Without a model the tokenizer is CLIP's, and any family is good. Raises
    MissingInputError, UnavailableError for pickled and damaged files, InputError for what is no embedding
    or has another SHA-256, and ConfigError for one that was made for another family than the model's.
    """
    if config.prompt_syntax == "plain":
        return []
    found = {name: Embedding(file=each.file) for each in loras for name in _in_lora(Path(each.file))}
    found |= _available(config)
    squeezed = " ".join(map(_squeeze, map(markup.words, texts))) if found else ""
    likely = {name: each for name, each in found.items() if _squeeze(name) in squeezed}
    if not likely:
        return []
    counts, tokenizer = dict.fromkeys(likely, 1), model.tokenizer if model else clip_tokenizer()
    every = {each for text in texts for each in markup.every_text(text, config.steps)}
    chunks = [chunk for text in every for chunk in markup.chunk(text, tokenizer, embeddings=counts)]
    used = {token.embedding for chunk in chunks for token in chunk} - {""}
    folders = [each for each in (config.folders.embeddings, config.folders.loras) if each]
    return [_with_digest(likely[name], name, model, folders) for name in sorted(used)]


def _in_lora(path: Path) -> set[str]:
    """The names of the embeddings in a LoRA file."""
    return {found[1] for key in tensor_shapes(path, "loras") if (found := IN_LORA.fullmatch(key))}


def _available(config: RunConfig) -> dict[str, Embedding]:
    """The embeddings that prompts may name, by their names."""
    if config.embeddings is None:
        if not config.folders.embeddings:
            return {}
        folder = Path(config.folders.embeddings).expanduser()
        if not folder.is_dir():
            raise MissingInputError(f"folders.embeddings: there is no folder {folder}")
        files = _files_in(folder)
        return {name: Embedding(file=str(path)) for name, path in files.items()}
    return {each.name or name_of(Path(each.file)): each for each in config.embeddings}


@lru_cache(maxsize=8)
def _files_in(folder: Path) -> Mapping[str, Path]:
    """The files in a folder and below it; of those with one name safetensors, then the least deep one."""
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in (".safetensors", *PICKLED)]
    paths.sort(key=lambda path: (path.suffix.lower() == ".safetensors", -len(path.parts)))
    return {name_of(path): path for path in paths}


def name_of(path: Path) -> str:
    """Return the word that stands for a file in prompts: its name, or the word that diffusers stored."""
    if path.stem == BY_DIFFUSERS and path.is_file() and path.suffix == ".safetensors":
        return next(iter(tensor_shapes(path, "embeddings")), path.stem)
    return path.stem


def _squeeze(text: str) -> str:
    """A text as a tokenizer may see it, without spaces: signs and letters are apart in tokens."""
    return "".join(unicodedata.normalize("NFC", text).lower().split())


def _with_digest(given: Embedding, name: str, model: Model | None, folders: Sequence[str]) -> Embedding:
    path = _elsewhere(folders, given) or Path(given.file).expanduser()
    refuse_others(given.file, path, "embeddings")
    if not path.is_file():
        places = " or ".join(folders)
        where = f", nor is there one with its SHA-256 in {places}" if folders and given.sha256 else ""
        raise MissingInputError(f"embeddings: {given.file}: no such file{where}")
    contents = examine_embedding(path, name)
    if given.sha256 not in (None, contents.sha256):
        message = f"is not the file that was used: its SHA-256 is {contents.sha256}"
        raise InputError(f"embeddings: {given.file} {message}")
    width = sum(contents.widths)
    if model and (len(contents.widths), width) != (
        len(model.family.text_encoders),
        model.facts.get("context"),
    ):
        has = " + ".join(map(str, contents.widths))
        raise ConfigError(
            f"embeddings: {given.file} ({name!r} in a prompt) is for {family_of_width(width)}, its vectors "
            f"are {has} wide; {model.name} is {model.family.name} and reads {model.facts.get('context')}"
        )
    return Embedding(file=str(path), name=name, sha256=contents.sha256)


def _elsewhere(folders: Sequence[str], given: Embedding) -> Path | None:
    """The file in the folders with the SHA-256 of one that is not where it was; None if none is needed."""
    path, sha256 = Path(given.file).expanduser(), given.sha256
    if sha256 is None or (path.is_file() and _file_digest(path) == sha256):
        return None
    return next(filter(None, (find_embedding(folder, sha256) for folder in folders)), None)


def find_embedding(folder: str, sha256: str) -> Path | None:
    """Return the file in a folder with a SHA-256, or the beginning of one."""
    files = Path(folder).expanduser().rglob("*.safetensors")
    return next((each for each in files if _file_digest(each).startswith(sha256)), None)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def vector_counts(embeddings: Iterable[Embedding]) -> dict[str, int]:
    """Return how many vectors each embedding of a plan has, by name."""
    return {str(each.name): examine_embedding(Path(each.file), each.name).vectors for each in embeddings}


def examine_embedding(path: Path, name: str | None) -> Contents:
    """Return what a file has; of a LoRA, its embedding of that name. Raises InputError if it has none."""
    stat = path.stat()
    return _read_contents(path, name, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read_contents(path: Path, name: str | None, _size: int, _changed: int) -> Contents:
    shapes, before = tensor_shapes(path, "embeddings"), f"bundle_emb.{name}."
    if inside := {key: shape for key, shape in shapes.items() if key.startswith(before)}:
        shapes = {key.removeprefix(before): shape for key, shape in inside.items()}
    else:
        before = ""
    names: Sequence[str] = OF_SDXL if set(OF_SDXL) <= shapes.keys() else list(shapes)
    sizes = [[1, *shapes[each]][-2:] for each in names]
    if names != OF_SDXL and (len(names) != 1 or len(shapes[names[0]]) > 2):
        raise InputError(
            f"embeddings: {path} is no embedding: it has {len(shapes)} tensors; one has a single tensor of "
            "vectors, or for Stable Diffusion XL clip_l and clip_g"
        )
    counts = {count for count, _ in sizes}
    if len(counts) > 1 or not 1 <= min(counts) <= markup.MAX_TOKENS:
        numbers = " and ".join(map(str, sorted(counts)))
        raise InputError(
            f"embeddings: {path} has {numbers} vectors; allowed: 1 to {markup.MAX_TOKENS}, as many of both"
        )
    tensors = tuple(f"{before}{each}" for each in names)
    return Contents(_file_digest(path), tensors, tuple(width for _, width in sizes), min(counts))


def without_names(text: str, embeddings: Iterable[Embedding]) -> str:
    """Return a text without the names of embeddings."""
    for each in embeddings:
        text = re.sub(re.escape(str(each.name)), " ", text, flags=re.IGNORECASE)
    return text
