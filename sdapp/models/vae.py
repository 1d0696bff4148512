"""Find another autoencoder for a model and check that it fits, before anything heavy is imported."""

from dataclasses import replace
from pathlib import Path

from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.checksums import check_download
from sdapp.models.files import read_json, tensor_shapes
from sdapp.models.hub import fetch
from sdapp.models.locate import find_path, locate
from sdapp.models.model import Model

CLASSES = ("AutoencoderKL", "AutoencoderTiny")
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Its tensors' names begin with one of these, in a file of its own and in one with a whole model.
PREFIXES = ("", "first_stage_model.", "vae.")


def locate_model(
    name: str, revision: str | None = None, vae: str | None = None, base: str | None = None
) -> Model:
    """Find a model, the autoencoder that replaces its own if `vae` is given, and its `base`.

    `vae` is a folder, a `.safetensors` file, `org/name` or `org/name@revision`; so is `base`, a whole model
    that has the parts which a single file lacks. Raises what `locate` raises, and ConfigError for what does
    not fit the model.
    """
    if base is not None:
        find_path(name)  # raises before the base is downloaded
    whole = None if base is None else locate(*split_revision(base))
    if vae is None:
        return _with_base(locate(name, revision, base=whole))
    path, commit = find_part(vae, "vae")
    model = _with_base(locate(name, revision, path, whole))
    channels, scale, scaling = _facts_of_file(path) if path.is_file() else _facts_of_folder(path)
    for here, there, fact in (
        (channels, model.family.latent_channels, "latent channels"),
        (scale, model.scale, "pixels per latent along one side"),
        (scaling or model.latent_scaling, model.latent_scaling, "as its scaling factor"),
    ):
        if here != there:
            raise ConfigError(
                f"vae: {vae} does not fit {model.name}: it has {here} {fact}, the model has {there}"
            )
    return replace(model, vae_revision=commit)


def _with_base(model: Model) -> Model:
    """Check that the base fits a model. Raises ConfigError."""
    base = model.base
    if base and base.family is not model.family:
        raise ConfigError(f"base: {base.name} is {base.family.name}, {model.name} is {model.family.name}")
    if base and not model.lacks:
        raise ConfigError(f"base: {model.name} has all parts of its own; leave out base")
    return model


def split_revision(name: str) -> tuple[str, str | None]:
    """The Hub id and the revision in `org/name@revision`; a path stays as it is."""
    hub_id, _, revision = name.partition("@")
    return (name, None) if Path(name).expanduser().exists() else (hub_id, revision or None)


def refuse_missing(name: str, key: str) -> None:
    """Raise UnavailableError if a setting `key` names a model that is neither here nor a Hub id."""
    if name not in ("on", "off"):  # as `safety_checker` can be
        find_path(name if key == "model" else split_revision(name)[0], key)


def find_part(name: str, key: str) -> tuple[Path, str | None]:
    """The path of one part of a model that the setting `key` names, and its commit if it is from the Hub."""
    hub_id, revision = split_revision(name)
    if path := find_path(hub_id, key):
        return path, None
    folder = fetch(hub_id, revision, ("config.json", WEIGHTS), key=key)
    return folder, folder.name


def _facts_of_folder(folder: Path) -> tuple[int, int, float | None]:
    """The latent channels, the pixels per latent along one side, and the scaling factor if it has one."""
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            inner = f"; give the autoencoder inside: {folder / 'vae'}" if (folder / "vae").is_dir() else ""
            raise UnavailableError(
                f"vae: {folder} is not the diffusers folder of an autoencoder: {name} is missing{inner}"
            )
    config = read_json(folder / "config.json", "vae")
    try:
        if (kind := config["_class_name"]) not in CLASSES:
            raise UnavailableError(f"vae: {folder} is a {kind}; allowed: {', '.join(CLASSES)}")
        # AutoencoderTiny halves in its encoder as often as it doubles in its decoder.
        levels = len(config.get("block_out_channels") or config["decoder_block_out_channels"])
        facts = config["latent_channels"], 2 ** (levels - 1), config.get("scaling_factor")
    except (KeyError, TypeError, AttributeError) as exc:
        raise UnavailableError(
            f"vae: {folder}: its config.json is not that of an autoencoder: {exc}"
        ) from exc
    tensor_shapes(folder / WEIGHTS, "vae")  # raises UnavailableError for a damaged file
    check_download(folder / WEIGHTS, "vae")
    return facts if kind == "AutoencoderKL" else (*facts[:2], None)  # the others take latents as they are


def _facts_of_file(path: Path) -> tuple[int, int, float | None]:
    shapes = tensor_shapes(path, "vae")
    for prefix in PREFIXES:
        first, last = f"{prefix}encoder.down.0.block.0.conv1.weight", f"{prefix}decoder.conv_in.weight"
        if first in shapes and last in shapes:
            down = [name for name in shapes if name.startswith(f"{prefix}encoder.down.")]
            return shapes[last][1], 2 ** sum(name.endswith("downsample.conv.weight") for name in down), None
    raise UnavailableError(
        f"vae: {path} has no AutoencoderKL in the layout of the original checkpoints; for others give "
        f"the diffusers folder, with config.json and {WEIGHTS}"
    )
