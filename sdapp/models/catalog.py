"""Say what a file or folder is, and list the models that are on this machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdapp.errors import SdappError
from sdapp.models.checks import find_problem
from sdapp.models.checksums import known_sha256
from sdapp.models.families import FAMILIES, family_of_width
from sdapp.models.files import BUILT_IN, NOT_READ, PICKLED, POSTCARDS
from sdapp.models.kinds import find_kind
from sdapp.models.lora_files import text_width
from sdapp.models.model import Model

EMBEDDING_WIDTHS = {768: 0, 1024: 1, 1280: 2}  # the width of a textual inversion → its family


@dataclass(frozen=True)
class Found:
    """What a file or folder is. `problem` is why sdapp cannot paint with it as a model."""

    name: str
    path: Path
    what: str  # such as `Stable Diffusion XL` or `LoRA`
    size: int  # bytes of the weights that would be loaded
    side: int | None = None  # pixels of the images that it was trained on
    channels: int | None = None  # of the UNet's input: 9 in a model for inpainting
    prediction: str | None = None
    zero_snr: bool = False
    revision: str | None = None
    sha256: str | None = None  # of a single file, if it was computed before
    problem: str | None = None


def describe(path: Path, name: str | None = None, revision: str | None = None) -> Found:
    """Say what a file or a diffusers folder is; nothing is loaded."""
    if path.suffix.lower() in PICKLED:
        return Found(name or str(path), path, "pickled checkpoint", path.stat().st_size, problem=NOT_READ)
    model = Model(name or str(path), path, revision)
    sha256 = known_sha256(path) if model.is_file else None
    try:
        problem = find_problem(model)
        if problem:
            what, size = _name_of(model, problem), sum(map(_weight_bytes, _files(model)))
            return Found(
                model.name, path, what, size, sha256=sha256, revision=revision, problem=_clause(problem)
            )
        schedule = model.scheduler_config
        return Found(
            model.name,
            path,
            model.family.name,
            sum(map(_weight_bytes, model.weight_files)),
            model.size,
            model.in_channels,
            str(schedule.get("prediction_type", "epsilon")),
            bool(schedule.get("rescale_betas_zero_snr")),
            revision,
            sha256,
        )
    except SdappError as exc:
        problem = str(exc).partition(": ")[2].removeprefix(str(path)).strip()
        return Found(model.name, path, "damaged", sum(map(_weight_bytes, _files(model))), problem=problem)


def _clause(problem: str) -> str:
    """The end of a sentence as a text of its own."""
    return problem.removeprefix(":").strip()


def _name_of(model: Model, problem: str) -> str:
    """What a model is that is refused: `LoRA for Stable Diffusion XL`, `FLUX`."""
    kind = find_kind(model.marks, model.is_file and "channels" not in model.facts)
    what = (kind or _clause(problem)).partition(";")[0]
    what = re.sub(r"^(is )?(an?|the) (?=\w)", "", what)
    if what == "LoRA" and (width := text_width(model.shapes)):
        what += f" for {family_of_width(width)}"
    elif what.startswith("textual inversion"):
        number = EMBEDDING_WIDTHS.get(max((shape[-1] for shape in model.shapes.values() if shape), default=0))
        what += "" if number is None else f" for {FAMILIES[number].name}"
    return what


def _files(model: Model) -> list[Path]:
    return [model.path] if model.is_file else list(model.path.rglob("*.safetensors"))


def _weight_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def list_models(folder: str | None) -> Iterator[Found]:
    """The built-in model, those in the Hub's cache, and what is in a folder of the user, if any."""
    yield describe(POSTCARDS, BUILT_IN)
    yield from _cached()
    root = Path(folder).expanduser() if folder else None
    for path in sorted(root.rglob("*")) if root else ():
        is_weights = path.suffix.lower() in (".safetensors", *PICKLED)
        is_file = is_weights and path.is_file() and not _is_inside_folder(path)
        if is_file or (path / "model_index.json").is_file():
            yield describe(path)


def _is_inside_folder(path: Path) -> bool:
    """Whether a file is a part of a diffusers folder."""
    return (path.parent.parent / "model_index.json").is_file()


def _cached() -> Iterator[Found]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # `sdapp doctor` says what is wrong
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda each: each.last_modified, reverse=True):
            if repo.repo_type == "model" and (revision.snapshot_path / "model_index.json").is_file():
                yield describe(revision.snapshot_path, repo.repo_id, revision.commit_hash)
