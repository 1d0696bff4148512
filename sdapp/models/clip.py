"""Find a CLIP model, which compares images with texts, before anything heavy is imported."""

from pathlib import Path

from sdapp.errors import UnavailableError
from sdapp.models.files import read_json, tensor_shapes
from sdapp.models.hub import download
from sdapp.models.locate import EXAMPLES, find_path
from sdapp.models.vae import split_revision

SCORE = "score.model"
NEEDED = ("config.json", "model.safetensors")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # one of these
CLIP_FILES = (*NEEDED, *TOKENIZERS[0], *TOKENIZERS[1], "tokenizer_config.json", "preprocessor_config.json")


def find_clip(name: str) -> Path:
    """The folder of a CLIP model: a folder, or `org/name[@revision]` on the Hub, which is downloaded.

    Raises UnavailableError for what is none.
    """
    hub_id, revision = split_revision(name)
    path = find_path(hub_id, SCORE)
    if path is not None and path.is_file():
        raise UnavailableError(f"{SCORE}: {name} is a file; give the folder that has its config.json")
    if path is None:
        _check_config(download(hub_id, revision, NEEDED[:1], key=SCORE), name)
        path = download(hub_id, revision, CLIP_FILES, key=SCORE)
    _check_config(path, name)
    if not (path / NEEDED[1]).is_file():
        raise UnavailableError(f"{SCORE}: {name} has no {NEEDED[1]}; download it again")
    tensor_shapes(path / NEEDED[1], SCORE)
    if not any(all((path / file).is_file() for file in files) for files in TOKENIZERS):
        raise UnavailableError(f"{SCORE}: {name} has no tokenizer.json; download it again")
    return path


def _check_config(folder: Path, name: str) -> None:
    """Refuse what is no CLIP with both halves, by its name. Raises UnavailableError."""
    if not (folder / NEEDED[0]).is_file():
        raise UnavailableError(f"{SCORE}: {name} has no config.json; give a CLIP such as {EXAMPLES[SCORE]}")
    config = read_json(folder / NEEDED[0], SCORE)
    kinds = config.get("architectures") or [f"a {config.get('model_type')}"]
    if "CLIPModel" not in kinds:
        raise UnavailableError(f"{SCORE}: {name} is {kinds[0]}, no CLIPModel; give {EXAMPLES[SCORE]}")
