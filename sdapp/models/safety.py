"""Find a safety checker before anything heavy is imported."""

from pathlib import Path

from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.files import read_json
from sdapp.models.hub import cached_commit, download
from sdapp.models.locate import EXAMPLES, find_path
from sdapp.models.model import Model

PART, CLASS = "safety_checker", "StableDiffusionSafetyChecker"
FILES = ("config.json", "model.safetensors")
ADVICE = f"name one: safety_checker: {EXAMPLES[PART]}, or a folder with one"


def find_checker(asked: str, model: Model) -> Path | None:
    """The folder of the safety checker that a setting asks for; None for `off`.

    `on` is the one that the model ships; else it is a folder, or `org/name` on the Hub, of a checker or of a
    model that ships one. It is downloaded if it is not in the cache. Raises ConfigError if the model ships
    none, UnavailableError for a checker that cannot be used.
    """
    if asked == "off":
        return None
    if asked == "on":
        return _with_files(_of_model(model))
    path = find_path(asked, PART)
    if path is not None and path.is_file():
        raise UnavailableError(f"{PART}: {asked} is a file; give the folder that has its config.json")
    return _with_files(path or _download(asked, None))


def check_ships(asked: str, model: Model) -> None:
    """Refuse `on` for a model on this machine that ships no safety checker. Raises ConfigError."""
    if asked == "on" and model.revision is None and not (model.path / PART).is_dir():
        raise ConfigError(f"{PART}: {model.name} ships none; {ADVICE}")


def _of_model(model: Model) -> Path:
    check_ships("on", model)
    is_whole = all((model.path / PART / name).is_file() for name in FILES)
    return model.path if is_whole or model.revision is None else _download(model.name, model.revision)


def _download(hub_id: str, revision: str | None) -> Path:
    """Its files on the Hub, whether they are in a folder of a model or not."""
    wanted = [*FILES, *(f"{PART}/{name}" for name in FILES)]
    cached = cached_commit(hub_id, revision)
    if cached and any((folder / FILES[1]).is_file() for folder in (cached, cached / PART)):
        return cached
    return download(hub_id, revision, wanted, key=PART)


def _with_files(folder: Path) -> Path:
    """The folder of the checker in a folder. Raises UnavailableError if there is none."""
    folder = folder / PART if (folder / PART).is_dir() else folder
    for name in FILES:
        if not (folder / name).is_file():
            raise UnavailableError(f"{PART}: {folder} has no {name}; {ADVICE}")
    kinds = read_json(folder / FILES[0], PART).get("architectures") or [CLASS]
    if CLASS not in kinds:
        raise UnavailableError(f"{PART}: {folder} is a {kinds[0]}, no {CLASS}; {ADVICE}")
    return folder
