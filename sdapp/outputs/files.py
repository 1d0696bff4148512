"""Pictures on disk: their names, their publishing (whole or not at all), and the record inside them."""



import errno
import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, Self

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdapp import images
from sdapp.metadata import infotext
from sdapp.config import Output
from sdapp.errors import ConfigError, DiskFullError, InputError, JobsFailedError, OutputError
from sdapp.metadata.comfyui import read_foreign
from sdapp.jobs import Job, dotted_keys, to_layer, to_portable
from sdapp.settings.layers import Layer
from sdapp.outputs.naming import file_stem
from sdapp.profiling import timed

CHUNK = "sdapp"  # the PNG text chunk that holds job and record; other formats have them in the XMP packet
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
MAX_SEGMENT = 65_504  # bytes of an XMP packet in a JPEG
FULL = (errno.ENOSPC, errno.EDQUOT)
HOST_PROCESSES = 0xEFFFFFFC  # PROC_PID_INIT_INO of Linux: the processes of the machine itself
NO_LINKS = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Record:
    """What ran, read off the objects that ran it."""

    job_id: str
    scheduler_class: str
    scheduler_config: Mapping[str, Any]
    device: str
    dtype: str
    unet_calls: int
    batch_size: int
    seconds: float  # of the batch, shared out among its pictures
    created: str  # ISO 8601, with the time zone
    versions: Mapping[str, str]
    peak_memory: int | None = None  # bytes on a GPU, of the batch
    optimizations: tuple[str, ...] = ()  # what made it faster than the plain pipeline call would be
    unguided_calls: int = 0  # of the UNet calls, those outside the guidance_interval
    cached_calls: int = 0  # of the UNet calls, those whose deep part came from one before, by the cache_interval
    notes: tuple[str, ...] = ()  # what the user should know, such as a decode repeated in float32


@dataclass(frozen=True)
class Result:
    """A finished job: a picture and its record, or the reason why there is none."""

    job: Job
    index: int
    record: Record | None  # none where the job never ran to its end
    picture: Image.Image | None
    error: str | None = None
    choices: Mapping[str, str] = field(default_factory=dict)  # of `{a|b}` and `__words__` in the prompt that it came from
    line: int = 0  # of the prompt file that asked for it
    path: Path | None = None  # where it was published
    latents: Any = None  # the end of the denoising, float32 on the CPU, [4, h, w]
    file: bytes | None = None  # the picture as a file with job and record inside, once it is encoded

    def save(self, output: Output) -> Path:
        """Publish the picture under a name of its own, with job and record inside; no file is ever overwritten.

        Raises JobsFailedError where there is no picture, ConfigError where the format has no room for the record, OutputError
        where the folder cannot be written.
        """
        file = self.file or self.encoded(output).file
        if file is None:
            raise JobsFailedError(f"seed {self.job.seed}: {self.error}")
        with timed("save"):
            return publish(file, Path(output.dir), file_stem(output.name, self.job, self.index), SUFFIXES[output.format])

    def encoded(self, output: Output) -> Self:
        """With its `file`, if it has a picture. Raises ConfigError where the format has no room for the record."""
        if self.picture is None or self.record is None:
            return self
        folder = Path(output.dir)
        content = {"job": to_portable(self.job, folder), "record": asdict(self.record)}
        content |= {"choices": dict(self.choices)} if self.choices else {}
        name = Path(self.job.model).name.removesuffix(".safetensors")
        parameters = infotext.write(self.job.model_dump(), name, self.record.versions.get("sdapp", ""))
        options = _for_png(content, parameters) if output.format == "png" else _for_others(content, parameters, output)
        buffer = BytesIO()
        with timed("save"):
            self.picture.save(buffer, output.format, **options)
        return replace(self, file=buffer.getvalue())


def _for_png(content: dict[str, Any], parameters: str) -> dict[str, Any]:
    """What Pillow needs to save a PNG with its metadata."""
    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps(content, ensure_ascii=False))
    info.add_itxt("parameters", parameters)
    info.add_itxt("XML:com.adobe.xmp", infotext.xmp(content["job"]["task"]["kind"]))
    return {"pnginfo": info, "compress_level": 1}  # a third of the time of Pillow's 6, for files a tenth larger


def _for_others(content: dict[str, Any], parameters: str, output: Output) -> dict[str, Any]:
    """What Pillow needs to save a JPEG or WebP with its metadata. Raises ConfigError where that is too long for a JPEG."""
    exif, packet = infotext.exif_bytes(parameters), infotext.xmp(content["job"]["task"]["kind"], json.dumps(content)).encode()
    if output.format == "webp":
        return {"quality": output.quality, "lossless": output.quality == 100, "exif": exif, "xmp": packet}
    if max(len(exif), len(packet)) > MAX_SEGMENT:  # prompts are refused before; paths may be as long
        raise ConfigError(f"output.format: the record of {len(packet):,} bytes does not fit into a JPEG; use png or webp")
    return {"quality": output.quality, "subsampling": 0, "exif": exif, "xmp": packet}


def check_folder(folder: Path) -> None:
    """Make the folder and see that it can be written, before anything is painted. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = unfinished(folder)
        probe.touch(exist_ok=False)
        probe.unlink()
    except FileExistsError as exc:
        raise OutputError(
            f"output.dir: cannot write to {folder}: it is a file, not a folder; choose another with --out"
        ) from exc
    except OSError as exc:
        error = DiskFullError if exc.errno in FULL else OutputError
        raise error(f"output.dir: cannot write to {folder}: {exc.strerror}; choose another with --out") from exc


def publish(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    """Write `data` to a new file `stem + suffix`, or `stem-2 …` where that is taken; it appears whole or not at all.

    The bytes are on the disk before the name is. Raises OutputError.
    """
    temporary = unfinished(folder)
    with writing(folder / f"{stem}{suffix}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            for number in count(1):
                final = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
                if claim_name(temporary, final):
                    _sync_folder(folder)
                    return final
        finally:
            temporary.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def overwrite(path: Path, chunks: Iterable[bytes]) -> None:
    """Make or replace a file, whole or not at all. Raises OutputError."""
    temporary = unfinished(path.parent)
    with writing(path):
        try:
            with temporary.open("xb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a disk into OutputError, or DiskFullError, with the place in it."""
    try:
        yield
    except OSError as exc:
        if exc.errno in FULL:
            raise DiskFullError(f"no room left for {path}; make some and run again: what is finished is safe") from exc
        raise OutputError(f"cannot write {path}: {exc.strerror}; what is finished is safe") from exc


def unfinished(folder: Path) -> Path:
    """The name of a file that is being written, with the host and the process that write it."""
    return folder / f".sdapp-{this_host()}-{os.getpid()}-{secrets.token_hex(8)}.part"


def this_host() -> str:
    """The name of this machine, as far as it fits into a file name; of a container, which may share it, with a number."""
    name, processes = re.sub(r"[^\w.]", "_", socket.gethostname())[:60], Path("/proc/self/ns/pid")
    number = processes.stat().st_ino if processes.exists() else HOST_PROCESSES
    return name if number == HOST_PROCESSES else f"{name}.{number}"


def claim_name(temporary: Path, final: Path) -> bool:
    """Give the file its name unless the name is taken. A hard link is the exclusive rename of POSIX.

    Where a file system has no links, such as exFAT, the name is taken first, and is an empty file for a moment.
    """
    try:
        if os.name == "nt":  # there, renaming is exclusive
            temporary.rename(final)
            return True
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        try:
            final.open("xb").close()
        except FileExistsError:
            return False
        temporary.replace(final)
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    with suppress(OSError):  # the picture is there; some network folders cannot promise more
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- reading back -------------------------------------------------------------------------------------------------


def read_picture(path: Path) -> dict[str, Any]:
    """The `job` and the `record` inside a picture, which is read to its end. Raises MissingInputError, InputError."""
    return _content(images.decode(images.read_bytes(str(path), "picture")[0], str(path), "picture"), path)


def read_settings(path: Path) -> Layer:
    """What a picture was painted with, as a layer of settings: by sdapp, or by a tool whose metadata it can read.

    What could not be carried over from another tool is in the layer's notes. Raises MissingInputError, InputError.
    """
    image = images.decode(images.read_bytes(str(path), "picture")[0], str(path), "picture")
    if _record(image) is not None:
        return to_layer(_content(image, path)["job"], path)
    found = read_foreign(image.info, infotext.exif_comment(image))
    if found is None:
        raise InputError(f"{path}: has no sdapp record inside, nor settings of another tool; take the file as it was painted: "
                         "editors and messengers leave them out")  # fmt: skip
    tool, values, left_out = found
    if not {"width", "height"} & values.keys() and not (image.width % 8 or image.height % 8):
        values |= {"width": image.width, "height": image.height}
    notes = (f"{path} was painted by {tool}; not carried over: {'; '.join(left_out)}",) if left_out else ()
    return Layer(values, {dotted: str(path) for dotted in dotted_keys(values)}, notes)


def read_header(path: Path) -> dict[str, Any]:
    """The same without the pixels, for folders of thousands: sdapp writes its record before them. Raises InputError."""
    try:
        with Image.open(path, formats=tuple(SUFFIXES)) as image:
            return _content(image, path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise InputError(f"{path}: broken: {exc}") from exc


def _record(image: Image.Image) -> str | None:
    text = image.info.get(CHUNK)
    return text if isinstance(text, str) else infotext.record_in(image.info.get("xmp"))


def _content(image: Image.Image, path: Path) -> dict[str, Any]:
    text = _record(image)
    try:
        content = json.loads(text) if text is not None else None
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path}: its record is broken: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("job"), dict):
        raise InputError(f"{path}: has no sdapp record inside; was it edited, or painted by another tool?")
    return content
