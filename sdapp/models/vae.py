"""Another autoencoder in the place of the model's own: found, and seen to fit, before anything heavy is imported."""

from dataclasses import dataclass, replace
from pathlib import Path

from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.files import read_json, refuse_pickled, tensor_shapes
from sdapp.models.hub import download, is_hub_id
from sdapp.models.locate import Model, locate

KINDS = ("AutoencoderKL", "AutoencoderTiny")
WEIGHTS = "diffusion_pytorch_model.safetensors"
LATENT_CHANNELS = 4
PREFIXES = (
    "",
    "first_stage_model.",
    "vae.",
)  # of its tensors in a file of its own, and in one with a whole model


@dataclass(frozen=True)
class _Facts:
    """What an autoencoder's config says, or the shapes in its file."""

    channels: int
    scale: int  # pixels a latent, along one side
    latent_scaling: float | None = None  # none where the UNet's own latents go in


def locate_model(name: str, revision: str | None = None, vae: str | None = None) -> Model:
    """Find a model, with another autoencoder in place of its own if `vae` names one. Raises UnavailableError, ConfigError."""
    model = locate(name, revision)
    if vae is None:
        return model
    path, commit = _find(vae)
    _check_fit(vae, _facts_of_file(path) if path.is_file() else _facts_of_folder(path), model)
    return replace(model, vae=path, vae_revision=commit)


def _find(name: str) -> tuple[Path, str | None]:
    """Where it lies and, of `org/name` or `org/name@revision` from the Hub, the commit."""
    path = Path(name) if not name.startswith("~/") else Path(name).expanduser()
    refuse_pickled(name, path, "vae")
    if path.exists():
        return path, None
    name, _, revision = name.partition("@")
    if not is_hub_id(name):
        raise UnavailableError(
            f"vae: no folder or file {name}; allowed: a diffusers folder, a .safetensors file, or a Hub id such as "
            "stabilityai/sd-vae-ft-mse or madebyollin/taesd"
        )
    folder = download(name, revision or None, ("config.json", WEIGHTS), key="vae")
    return folder, folder.name


def _facts_of_folder(folder: Path) -> _Facts:
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            inner = f"; give the autoencoder inside: {folder / 'vae'}" if (folder / "vae").is_dir() else ""
            raise UnavailableError(
                f"vae: {folder} is no autoencoder's diffusers folder ({name} is missing){inner}"
            )
    said = read_json(folder / "config.json", "vae")
    try:
        kind = said["_class_name"]
        # The tiny one's encoder goes down as often as its decoder goes up.
        levels = len(said.get("block_out_channels") or said["decoder_block_out_channels"])
        facts = _Facts(said["latent_channels"], 2 ** (levels - 1), said.get("scaling_factor"))
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
            f"vae: {path} holds no AutoencoderKL in the layout of the original checkpoints; for another one give its diffusers "
            f"folder, with config.json and {WEIGHTS}"
        )
    halvings = sum(
        key.startswith(f"{prefix}encoder.down.") and key.endswith("downsample.conv.weight") for key in shapes
    )
    return _Facts(shapes[f"{prefix}decoder.conv_in.weight"][1], 2**halvings)


def _check_fit(name: str, facts: _Facts, model: Model) -> None:
    """Refuse one whose latents are not those of the model. Raises ConfigError."""
    own = _Facts(
        LATENT_CHANNELS, model.scale, model.latent_scaling if facts.latent_scaling is not None else None
    )
    words = {
        "channels": "latent channels",
        "scale": "pixels a latent along one side",
        "latent_scaling": "as scaling factor",
    }
    for key, word in words.items():
        here, there = getattr(facts, key), getattr(own, key)
        if here != there:
            raise ConfigError(
                f"vae: {name} was made for other models: it has {here} {word}, {model.name} has {there}"
            )
