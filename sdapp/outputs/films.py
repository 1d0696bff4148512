"""Films of how an image was painted: GIF and WebP by Pillow, MP4 by ffmpeg."""

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import chain
from pathlib import Path
from shutil import which
from subprocess import PIPE
from tempfile import TemporaryFile

from PIL import Image

from sdapp.errors import ConfigError, OutputError, UnavailableError
from sdapp.outputs.files import check_folder, overwrite, unfinished

FILM_FORMATS = (".gif", ".webp", ".mp4")
MAX_FRAMES = 1_000
DURATION, LONGEST, SHORTEST = 6.0, 0.2, 0.02  # of a film about, and of a frame in it
LAST = 2.0  # seconds that the finished image stays
SMALL, ENLARGED = 160, 4  # images up to so many pixels a side are shown so many times as large


def check_film(film: str, images: int, frames: int) -> Path:
    """Return the path of a film. Raises ConfigError, UnavailableError, OutputError if it cannot be made."""
    path = Path(film)
    if path.suffix.lower() not in FILM_FORMATS:
        raise ConfigError(f"film: {film}: write the suffix as one of {', '.join(FILM_FORMATS)}")
    if images > 1:
        raise ConfigError(f"film: a film shows one image, and {images:,} are asked for; use --count 1")
    if frames > MAX_FRAMES:
        most = f"a film has at most {MAX_FRAMES:,} frames, and the UNet would be called {frames:,} times"
        raise ConfigError(f"film: {most}; use fewer --steps")
    if frames == 0:
        raise ConfigError(
            "film: the model denoises nothing of this image, so there is nothing to see; leave it out"
        )
    if path.suffix.lower() == ".mp4" and which("ffmpeg") is None:
        raise UnavailableError("film: there is no ffmpeg to make an MP4; install it, or name a .gif or .webp")
    check_folder(path.parent, "film")
    return path


def write_film(path: Path, frames: Iterable[Image.Image], number: int, last: Image.Image) -> None:
    """Write so many frames and the finished image as a film, or replace it, whole or not at all.

    Frames of another size than the last are scaled to fit it. Raises OutputError.
    """
    shown = min(LONGEST, max(SHORTEST, DURATION / number))
    still = _fit(last.convert("RGB"), last.size)
    whole = chain((_fit(frame, last.size) for frame in frames), [still])
    if path.suffix.lower() == ".mp4":
        _write_mp4(path, whole, still.size, shown)
        return
    first = next(whole)
    times = [round(1000 * shown)] * number + [round(1000 * LAST)]
    buffer = BytesIO()
    how = {"save_all": True, "append_images": whole, "duration": times, "loop": 0}
    first.save(buffer, path.suffix[1:].lower(), **how)
    overwrite(path, [buffer.getvalue()])


def _fit(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A frame in the middle of a picture of a size, or of a multiple of it for small ones."""
    factor = ENLARGED if max(size) <= SMALL else 1
    width, height = size[0] * factor, size[1] * factor
    scale = min(width / frame.width, height / frame.height)
    inner = round(frame.width * scale), round(frame.height * scale)
    is_whole = scale.is_integer()
    fitted = frame.resize(inner, Image.Resampling.NEAREST if is_whole else Image.Resampling.BICUBIC)
    if inner == (width, height):
        return fitted
    canvas = Image.new("RGB", (width, height))
    canvas.paste(fitted, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _write_mp4(path: Path, frames: Iterator[Image.Image], size: tuple[int, int], shown: float) -> None:
    """Write a film by ffmpeg, its sides rounded up to even ones, which the format needs."""
    temporary = unfinished(path.parent)
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{1 / shown:g}"]
    filters = f"tpad=stop_mode=clone:stop_duration={LAST:g},pad=ceil(iw/2)*2:ceil(ih/2)*2"
    made = ["-vf", filters, "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    command = ["ffmpeg", "-v", "error", "-y", *given, "-i", "-", *made, str(temporary)]
    try:
        with TemporaryFile() as said:
            # A broken pipe: ffmpeg has ended, and says why.
            with suppress(BrokenPipeError), subprocess.Popen(command, stdin=PIPE, stderr=said) as ffmpeg:
                assert ffmpeg.stdin is not None
                for frame in frames:
                    ffmpeg.stdin.write(frame.tobytes())
            if ffmpeg.returncode:
                said.seek(0)
                reason = said.read(300).decode(errors="replace").strip()
                raise OutputError(f"film: ffmpeg cannot write {path}: {reason}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
