"""Find another autoencoder for a model and check that it fits, before anything heavy is imported."""

from dataclasses import dataclass, replace
from pathlib import Path

from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.files import read_json, refuse_pickled, tensor_shapes
from sdapp.models.hub import cached_commit, download, is_hub_id
from sdapp.models.locate import Model, locate

KINDS = ("AutoencoderKL", "AutoencoderTiny")
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Its tensors' names begin with one of these, in a file of its own and in one with a whole model.
PREFIXES = ("", "first_stage_model.", "vae.")


@dataclass(frozen=True)
class _Facts:
    """What must be equal for an autoencoder and its model."""

    channels: int
    scale: int  # pixels per latent, along one side
    latent_scaling: float | None = None  # None if it takes the UNet's latents as they are


def locate_model(name: str, revision: str | None = None, vae: str | None = None) -> Model:
    """Find a model, and the autoencoder that replaces its own if `vae` is given.

    `vae` is a folder, a `.safetensors` file, `org/name` or `org/name@revision`. Raises what `locate` raises,
    and ConfigError for an autoencoder that does not fit the model.
    """
    model = locate(name, revision)
    if vae is None:
        return model
    path, commit = _find(vae)
    _check_fit(vae, _facts_of_file(path) if path.is_file() else _facts_of_folder(path), model)
    return replace(model, vae=path, vae_revision=commit)


def _find(name: str) -> tuple[Path, str | None]:
    """The path of an autoencoder, and its commit if it is from the Hub."""
    path = Path(name) if not name.startswith("~/") else Path(name).expanduser()
    refuse_pickled(name, path, "vae")
    if path.exists():
        return path, None
    name, _, revision = name.partition("@")
    if not is_hub_id(name):
        raise UnavailableError(
            f"vae: no folder or file {name}; allowed: a diffusers folder, a .safetensors file, or a Hub id "
            "such as stabilityai/sd-vae-ft-mse or madebyollin/taesd"
        )
    files = ("config.json", WEIGHTS)
    folder = cached_commit(name, revision)
    if folder is None or not all((folder / file).is_file() for file in files):
        folder = download(name, revision or None, files, key="vae")
    return folder, folder.name


def _facts_of_folder(folder: Path) -> _Facts:
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            inner = f"; give the autoencoder inside: {folder / 'vae'}" if (folder / "vae").is_dir() else ""
            raise UnavailableError(
                f"vae: {folder} is not the diffusers folder of an autoencoder: {name} is missing{inner}"
            )
    config = read_json(folder / "config.json", "vae")
    try:
        kind = config["_class_name"]
        # AutoencoderTiny halves in its encoder as often as it doubles in its decoder.
        levels = len(config.get("block_out_channels") or config["decoder_block_out_channels"])
        facts = _Facts(config["latent_channels"], 2 ** (levels - 1), config.get("scaling_factor"))
    except (KeyError, TypeError, AttributeError) as exc:
        raise UnavailableError(
            f"vae: {folder}: its config.json is not that of an autoencoder: {exc}"
        ) from exc
    if kind not in KINDS:
        raise UnavailableError(f"vae: {folder} is a {kind}; allowed: {', '.join(KINDS)}")
    return facts if kind == KINDS[0] else replace(facts, latent_scaling=None)


def _facts_of_file(path: Path) -> _Facts:
    shapes = tensor_shapes(path)
    prefix = next(
        (prefix for prefix in PREFIXES if f"{prefix}encoder.down.0.block.0.conv1.weight" in shapes), None
    )
    if prefix is None or f"{prefix}decoder.conv_in.weight" not in shapes:
        raise UnavailableError(
            f"vae: {path} has no AutoencoderKL in the layout of the original checkpoints; for others give "
            f"the diffusers folder, with config.json and {WEIGHTS}"
        )
    halvings = sum(
        key.startswith(f"{prefix}encoder.down.") and key.endswith("downsample.conv.weight") for key in shapes
    )
    return _Facts(shapes[f"{prefix}decoder.conv_in.weight"][1], 2**halvings)


def _check_fit(name: str, facts: _Facts, model: Model) -> None:
    """Raise ConfigError for an autoencoder whose latents are not those of the model."""
    scaling = None if facts.latent_scaling is None else model.latent_scaling
    own = _Facts(model.family.latent_channels, model.scale, scaling)
    words = {
        "channels": "latent channels",
        "scale": "pixels per latent along one side",
        "latent_scaling": "as its scaling factor",
    }
    for key, word in words.items():
        here, there = getattr(facts, key), getattr(own, key)
        if here != there:
            raise ConfigError(
                f"vae: {name} does not fit {model.name}: it has {here} {word}, the model has {there}"
            )
