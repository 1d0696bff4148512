"""Images painted again: what each was painted with, planned anew, and the new pixels beside the old."""

import reprlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import ImageChops

from sdapp import images
from sdapp.config import RunConfig, validate
from sdapp.errors import InputError, SdappError, gathered
from sdapp.jobs import Job, plan
from sdapp.metadata.read import read_settings
from sdapp.metadata.record import read_header
from sdapp.models.locate import Model
from sdapp.models.vae import locate_model
from sdapp.records import Record, Result
from sdapp.settings.layers import Layer, merge

TOLERANCE = 2  # of 255; what another batch size may change


@dataclass(frozen=True)
class Replay:
    """An image that is painted again, as it was or with other settings, and what the user should know of it."""

    path: Path
    config: RunConfig
    model: Model
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]

    @property
    def load(self) -> Hashable:
        """Equal for images that one load of a model can paint."""
        return (
            self.model.path,
            self.model.revision,
            self.model.vae,
            self.config.dtype,
            self.config.device,
            self.config.memory,
        )


@dataclass(frozen=True)
class PixelCheck:
    """The pixels in an image's file beside those painted again; no difference where they cannot be compared."""

    path: Path
    seed: int
    largest_difference: int | None  # of 255
    lossy: bool  # the format alone has changed the pixels in the file
    error: str | None

    @property
    def good(self) -> bool:
        """Whether the two are alike, as far as one can tell."""
        return self.largest_difference is not None and (self.lossy or self.largest_difference <= TOLERANCE)


def plan_replays(paths: Sequence[Path], over: Sequence[Layer]) -> list[Replay]:
    """The jobs of every image, with the layers `over` laid over its own settings. Nothing heavy is imported.

    Raises one SdappError with the errors of all images, each naming its image.
    """
    found: list[Replay] = []
    errors: list[SdappError] = []
    models: dict[Hashable, Model] = {}
    for path in paths:
        try:
            found.append(_plan(path, over, models))
        except SdappError as exc:
            lines = [line if str(path) in line else f"{path}: {line}" for line in str(exc).splitlines()]
            errors.append(type(exc)("\n".join(lines)))
    if errors:
        raise gathered(errors)
    return found


def _plan(path: Path, over: Sequence[Layer], models: dict[Hashable, Model]) -> Replay:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the images in it: {path}/*.png")
    inside = read_settings(path)
    config = validate(merge([inside, *over]))
    key = config.model, config.revision, config.vae
    if key not in models:
        models[key] = locate_model(config.model, config.revision, config.vae)
    notes = inside.notes
    if config.seed is None:
        notes += (f"{path}: there is no seed inside, so one is drawn; --seed gives it another",)
    return Replay(path, config, models[key], tuple(plan(config, models[key])), notes)


def group_by_load(replays: Iterable[Replay]) -> list[list[Replay]]:
    """The images that one load of a model can paint side by side, else in the order given."""
    groups: dict[Hashable, list[Replay]] = {}
    for replay in replays:
        groups.setdefault(replay.load, []).append(replay)
    return list(groups.values())


# --- comparing ----------------------------------------------------------------------------------------------------


def compare_pixels(path: Path, result: Result) -> PixelCheck:
    """Hold the pixels in a file against those that were painted again."""
    error, lossy, largest = result.error, False, None
    try:
        data, _ = images.read_bytes(str(path), "image")
        lossy, before = images.is_lossy(data), images.load_image(data, str(path), None, any_size=True)
    except InputError as exc:
        return PixelCheck(path, result.job.seed, None, False, str(exc))
    if result.image is not None and before.size != result.image.size:
        sizes = "{}x{} in the file, {}x{} painted again".format(*before.size, *result.image.size)
        error = f"the sizes differ: {sizes}"
    elif result.image is not None:
        levels = ImageChops.difference(before, result.image).histogram()  # 256 for each of R, G and B
        largest = max(i % 256 for i, pixels in enumerate(levels) if pixels)
    return PixelCheck(path, result.job.seed, largest, lossy, error)


def setup_differences(path: Path, here: Record) -> str | None:
    """What is other here than the record in an image says, in words, since that explains other pixels."""
    try:
        then, now = _surroundings(read_header(path).get("record")), _surroundings(asdict(here))
    except InputError:  # another tool's image
        return None
    other = [
        f"{name} {then[name]} (here {now[name]})" for name in now if then.get(name, now[name]) != now[name]
    ]
    return f"{path} was painted with {', '.join(other)}" if other else None


def _surroundings(record: object) -> dict[str, str]:
    """Device, dtype and versions of a record, which may be any JSON, as printable text."""
    facts = record if isinstance(record, dict) else {}
    versions = facts.get("versions")
    found = {key: facts[key] for key in ("device", "dtype") if key in facts} | (
        versions if isinstance(versions, dict) else {}
    )
    return {
        key: value if isinstance(value, str) and value.isprintable() else reprlib.repr(value)
        for key, value in found.items()
    }
