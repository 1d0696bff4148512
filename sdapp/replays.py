"""Images painted again from the settings inside them, and compared with what they were."""

import reprlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import ImageChops

from sdapp import images
from sdapp.batches.executors import Executor
from sdapp.config import Folders, RunConfig, folders_of
from sdapp.errors import InputError, MissingInputError, SdappError
from sdapp.jobs import JobList, LoadKey, Work
from sdapp.metadata.read import read_settings
from sdapp.metadata.record import read_header
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.notes import Notes, notes_before_painting
from sdapp.planning import plan
from sdapp.prompts.lines import SPACES, PromptFileError, is_read, read_lines
from sdapp.records import OnStep, Record, Result
from sdapp.settings.layers import Layer, merge
from sdapp.validation import validate

TOLERANCE = 2  # of 255; what another batch size may change


@dataclass(frozen=True)
class Replay:
    """An image that is painted again, as it was or with other settings."""

    path: Path
    config: RunConfig
    model: Model
    jobs: JobList

    @property
    def load(self) -> LoadKey:
        return LoadKey.of(self.config, self.model)


def _with_lists(paths: Sequence[Path]) -> list[Path]:
    """Put the images that a .txt file names, a path a line, in the place of that file.

    Paths are relative to the folder of the file; lines that begin with # are comments. Raises
    MissingInputError for a file that cannot be read, ConfigError for lines that are not text.
    """
    found: list[Path] = []
    for path in paths:
        if path.suffix.lower() != ".txt":
            found.append(path)
            continue
        errors = PromptFileError()
        try:
            with path.open("rb") as stream:
                lines = read_lines(stream, str(path), errors)
                found += [path.parent / line.strip(SPACES) for _, line in lines if is_read(line)]
        except OSError as exc:
            raise MissingInputError(f"{path}: cannot read the list of images: {exc.strerror}") from exc
        errors.raise_if_any()
    return found


def plan_replays(
    paths: Sequence[Path],
    layers: Sequence[Layer],
    notes: Notes,
    below: Sequence[Layer] = (),
    read: Callable[[Path, Folders], Layer] = read_settings,
) -> tuple[list[Replay], list[SdappError]]:
    """Plan the jobs of all images, with `layers` over what is read of each image and `below` under that.

    Tells the notes of each image; returns the errors of those that cannot be painted, which name the image.
    If an option is wrong for all of them, that is one error without their names.
    """
    replays: list[Replay] = []
    raised, errors = list[SdappError](), list[SdappError]()
    models: dict[tuple[str | None, ...], Model] = {}
    for path in _with_lists(paths):
        try:
            if path.is_dir():
                raise InputError(f"{path}: is a folder; give the images in it: {path}/*.png")
            inside = read(path, folders_of([*below, *layers]))
            notes.tell(inside.notes)
            config = validate(merge([*below, inside, *layers]))
            replays.append(_plan_replay(path, config, models, notes))
        except SdappError as exc:
            lines = [line if str(path) in line else f"{path}: {line}" for line in str(exc).splitlines()]
            errors.append(type(exc)("\n".join(lines)))
            raised.append(exc)
    of_option = not replays and len({str(each) for each in raised}) == 1 and str(raised[0]).startswith("--")
    return replays, raised[:1] if of_option else errors


def _plan_replay(
    path: Path, config: RunConfig, models: dict[tuple[str | None, ...], Model], notes: Notes
) -> Replay:
    key = config.model, config.revision, config.vae, config.base
    if key not in models:
        models[key] = locate_model(*key)
    jobs = plan(config, models[key])
    if config.seed is None:
        notes.tell([f"{path}: there is no seed inside, so a random one is used; --seed sets it"])
    notes.tell(notes_before_painting(config, models[key], jobs[0]))
    return Replay(path, config, models[key], jobs)


def group_by_load(replays: Iterable[Replay]) -> list[list[Replay]]:
    """Put images next to each other that one load of a model can paint, else in the order given."""
    groups: dict[LoadKey, list[Replay]] = {}
    for replay in replays:
        groups.setdefault(replay.load, []).append(replay)
    return list(groups.values())


def paint_replays(
    replays: Sequence[Replay], executor: Executor, on_step: OnStep | None = None
) -> Generator[Result, None, None]:
    """Paint images again, one model after the other; yield each result with the path of its image as
    `source`.

    A job that cannot be painted is a result with its error. Raises UnavailableError if a model cannot be
    loaded.
    """
    painted = 0
    for group in group_by_load(replays):
        jobs = [job for each in group for job in each.jobs]
        sources = [each.path for each in group for _ in each.jobs]
        calls = sum(job.unet_calls for job in jobs)
        config = group[0].config
        work = Work(
            group[0].load, jobs, config.batch_size, True, unet_calls=calls, preview=config.preview_file
        )
        for result in executor.paint(work, counting_from(painted, on_step)):
            yield replace(result, index=painted + result.index, source=sources[result.index])
        painted += len(jobs)


def counting_from(painted: int, on_step: OnStep | None) -> OnStep | None:
    """A hook for jobs that come after so many others of the run."""
    return on_step and (lambda first, *step: on_step(painted + first, *step))


# --- comparing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelCheck:
    """The pixels in the file of an image, compared with those that were painted again."""

    path: Path
    seed: int
    largest_difference: int | None  # of 255; None if they cannot be compared
    lossy: bool  # the format of the file changes pixels by itself
    error: str | None

    @property
    def good(self) -> bool:
        """Whether the two are alike, as far as that can be seen."""
        return self.largest_difference is not None and (self.lossy or self.largest_difference <= TOLERANCE)


def compare_pixels(path: Path, result: Result) -> PixelCheck:
    """Compare the pixels in a file with those of a result."""
    error, lossy, largest = result.error, False, None
    try:
        data, _ = images.read_bytes(str(path), "image")
        lossy, before = images.is_lossy(data), images.on_white(images.decode_pixels(data, str(path)))
    except InputError as exc:
        return PixelCheck(path, result.job.seed, None, False, str(exc))
    if result.image is not None and before.size != result.image.size:
        sizes = "{}x{} in the file, {}x{} painted again".format(*before.size, *result.image.size)
        error = f"the sizes differ: {sizes}"
    elif result.image is not None:
        levels = ImageChops.difference(
            before, images.on_white(result.image)
        ).histogram()  # 256 for each of R, G, B
        largest = max(i % 256 for i, pixels in enumerate(levels) if pixels)
    return PixelCheck(path, result.job.seed, largest, lossy, error)


def setup_differences(path: Path, here: Record) -> str | None:
    """How this machine differs from the record in an image, in words; it explains other pixels."""
    try:
        then, now = _setup(read_header(path).get("record")), _setup(asdict(here))
    except InputError:  # an image of another tool
        return None
    is_unnamed = now["device"].startswith(f"{then.get('device')} (")
    differ = [
        f"{name} {then[name]} (here {now[name]})"
        for name in now
        if then.get(name, now[name]) != now[name] and not (is_unnamed and name == "device")
    ]
    if is_unnamed:
        differ.append(f"a {then['device']} that its record does not name (small differences are normal)")
    return ", ".join(differ) or None


def _setup(record: object) -> dict[str, str]:
    """Device, dtype and versions of a record, which may be any JSON, as printable text."""
    facts = record if isinstance(record, dict) else {}
    keys = ("device", "dtype", "model_sha256", "vae_sha256", "base_sha256")
    found = {key: facts[key] for key in keys if facts.get(key) is not None}
    if isinstance(versions := facts.get("versions"), dict):
        found |= versions
    return {
        key: value if isinstance(value, str) and value.isprintable() else reprlib.repr(value)
        for key, value in found.items()
    }
