"""Input images and masks: read them safely and once, upright, 8 bits a channel, colours in sRGB."""

import hashlib
import math
import threading
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageChops, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from sdapp.errors import ConfigError, InputError, MissingInputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L")
MAX_PIXELS = 67_108_864  # 8192 × 8192
ROUNDING = 1  # of 255: a profile that changes no level by more is sRGB itself
Size = tuple[int, int]  # width, height
Made = TypeVar("Made", tuple[bytes, str], Image.Image)


class Inputs:
    """A cache of input files, so that a run reads, hashes and decodes each of them once.

    Planning and painting share one instance in all threads: `images.inputs`. A file is read again when its
    inode, size or modification time changes. The least recently used is dropped when everything together
    exceeds `max_bytes`. The images are shared as well: copy one before you change it.

    `planned` is the digest that a job was planned with: InputError if the file has another one now.
    """

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:  # an image of MAX_PIXELS, its mask, their files
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._max_bytes, self._lock = max_bytes, threading.Lock()

    def read(self, path: str, key: str, planned: str | None = None) -> tuple[bytes, str]:
        """Return the bytes of a file and their SHA-256 in hex. Raises MissingInputError, InputError."""
        with _named_errors(path, key):
            stat = Path(path).stat()
        stamp = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        data, digest = self._once(stamp, lambda: read_bytes(path, key))
        if planned not in (None, digest):
            raise InputError(f"{key}: {path} changed since it was planned; run again to use it as it is now")
        return data, digest

    def image(
        self,
        path: str,
        size: Size | None,
        any_size: bool = False,
        planned: str | None = None,
        keep_alpha: bool = False,
        key: str = "image",
    ) -> Image.Image:
        """Return an RGB image, resized to `size` if given; transparency becomes white.

        With `keep_alpha` it is RGBA instead if any pixel is transparent. `key` is its setting, for errors.
        Raises MissingInputError, InputError for a file that cannot be used, and ConfigError if `size` has
        another shape (by more than 5 %) or, without `size` and `any_size`, if a side is no multiple of 8.
        """
        data, digest = self.read(path, key, planned)
        whole = decoded = self._once(("image", digest), lambda: decode_pixels(data, path))
        if decoded.mode == "RGBA" and not keep_alpha:
            whole = self._once(("on white", digest), lambda: on_white(decoded))
        _check_size(whole.size, f"{key}: {path}", size, any_size)
        if size is None or size == whole.size:
            return whole
        return self._once((whole.mode, digest, size), lambda: whole.resize(size, Image.Resampling.LANCZOS))

    def mask(self, path: str, image: str, size: Size, planned: str | None = None) -> Image.Image:
        """Return a mask in mode L, resized to `size`: 255 where to repaint, 0 elsewhere.

        Raises MissingInputError, and InputError for a mask that is transparent, all black, or of another size
        than the file `image`.
        """
        whole = self.image(image, None, any_size=True).size
        data, digest = self.read(path, "mask", planned)
        return self._once(("mask", digest, whole, size), lambda: _to_mask(data, path, whole, size))

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` returned for this key before, or call it. One thread at a time."""
        with self._lock:
            made: Made = self._kept.pop(key, None) or make()
            self._kept[key] = made
            while len(self._kept) > 1 and sum(map(_bytes_of, self._kept.values())) > self._max_bytes:
                self._kept.popitem(last=False)
            return made


inputs = Inputs()


def _bytes_of(kept: Made) -> int:
    if isinstance(kept, tuple):
        return len(kept[0])
    return kept.width * kept.height * len(kept.getbands())


@contextmanager
def _named_errors(path: str, key: str) -> Iterator[None]:
    """Raise MissingInputError, with the key of the setting, for a file that cannot be opened."""
    try:
        yield
    except OSError as exc:
        raise MissingInputError(f"{key}: cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise MissingInputError(f"{key}: cannot read {path!r}: {exc}") from exc


def read_bytes(path: str, key: str) -> tuple[bytes, str]:
    """Return the bytes of a file and their SHA-256 in hex. Raises MissingInputError, naming `key`."""
    with _named_errors(path, key):
        data = Path(path).read_bytes()
    return data, hashlib.sha256(data).hexdigest()


def decode_image(data: bytes, path: str, key: str) -> Image.Image:
    """Decode an image and turn it as its EXIF orientation says.

    Raises InputError if it is not an image, has more than MAX_PIXELS, or has several frames.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(BytesIO(_without_huge_texts(data)), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}×{image.height}"
            raise InputError(f"{key}: {path}: {size} pixels; at most {MAX_PIXELS:,} are allowed")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a JPEG with a preview
            raise InputError(f"{key}: {path}: {frames} frames; save the one that you want as a PNG")
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as exc:
        raise InputError(f"{key}: {path}: not an image; allowed: {', '.join(FORMATS)}") from exc
    except Image.DecompressionBombError as exc:
        raise InputError(f"{key}: {path}: {exc}") from exc
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as exc:
        raise InputError(f"{key}: {path}: broken: {exc}") from exc


def _without_huge_texts(data: bytes) -> bytes:
    """Return a PNG without the text chunks that Pillow refuses as too large; other data as it is."""
    if data[:4] != b"\x89PNG":
        return data
    kept, place, memory = [data[:8]], 8, 0.0
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        size = _text_size(data[place + 4 : place + 8], data[place + 8 : end - 4])
        if memory + size <= PngImagePlugin.MAX_TEXT_MEMORY:
            kept.append(data[place:end])
            memory += size
        place = len(data) if data[place + 4 : place + 8] == b"IEND" else end
    return b"".join(kept)


def _text_size(kind: bytes, body: bytes) -> float:
    """Return the size of the text in a PNG chunk, 0 for others; infinity if Pillow refuses to unpack it."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return 0
    text = body.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] != b"\1"):
        return len(text)
    packed, unzip = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1], zlib.decompressobj()
    try:
        size = len(unzip.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK))
    except zlib.error:  # Pillow reads it as an empty text
        return 0
    return math.inf if unzip.unconsumed_tail else size


def decode_file(path: str, key: str = "image") -> Image.Image:
    """Read and decode an image file. Raises MissingInputError, InputError."""
    return decode_image(read_bytes(path, key)[0], path, key)


def _decode_8_bits(data: bytes, path: str, key: str) -> Image.Image:
    """Decode an image. Refuse modes without a defined white; scale 16 bits to 8 (Pillow would clip)."""
    image = decode_image(data, path, key)
    if image.mode not in MODES:
        fix = "does not define white; save it as RGB or grey (8 or 16 bits)"
        raise InputError(f"{key}: {path}: mode {image.mode} {fix}")
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image


def decode_pixels(data: bytes, path: str) -> Image.Image:
    """Decode an image as RGB, or as RGBA if any pixel is transparent; colours in sRGB. Raises InputError."""
    image = _decode_8_bits(data, path, "image")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    colours = _to_srgb(image, path)
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            colours.putalpha(alpha)
    colours.info = {}  # or Pillow would write some of it into files made from this image
    return colours


def on_white(image: Image.Image) -> Image.Image:
    """Return an RGB or RGBA image as RGB; transparency becomes white."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_srgb(image: Image.Image, path: str) -> Image.Image:
    """Return a new RGB image without transparency, its colours converted from its ICC profile to sRGB."""
    plain = image.convert("RGB")
    if not image.info.get("icc_profile"):
        return plain
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        mode = "CMYK" if image.mode == "CMYK" else Image.getmodebase(image.mode)
        if mode == "L" and profile.profile.xcolor_space == "RGB ":
            mode = "RGB"  # an image that was made grey and kept its profile
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image.convert(mode), profile, srgb, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as exc:
        fix = "convert the image to sRGB, or remove the profile"
        raise InputError(f"image: {path}: its ICC profile cannot be used ({exc}); {fix}") from exc
    assert converted is not None  # it is None only for a conversion in place
    changes = ImageChops.difference(plain, converted).point(lambda change: change > ROUNDING)
    return converted if changes.getbbox() else plain


def _check_size(has: Size, named: str, wanted: Size | None, any_size: bool) -> None:
    if wanted and not _same_shape(has, wanted):
        raise ConfigError(
            f"{named} is {has[0]}×{has[1]}, another shape than {wanted[0]}×{wanted[1]}; "
            "crop it, or give a size of its shape"
        )
    if not (wanted or any_size) and (has[0] % 8 or has[1] % 8):
        advice = _nearest_sizes(has)
        raise ConfigError(f"{named} is {has[0]}×{has[1]}; sides must be multiples of 8: {advice}")


def _same_shape(one: Size, other: Size) -> bool:
    return abs(one[0] / one[1] / (other[0] / other[1]) - 1) <= 0.05


def _nearest_sizes(size: Size) -> str:
    widths, heights = (sorted({max(8, side // 8 * 8), -(-side // 8) * 8}) for side in size)
    near = [(width, height) for width in widths for height in heights if _same_shape(size, (width, height))]
    options = [f"--size {width}x{height}" for width, height in dict.fromkeys([*near[:1], *near[-1:]])]
    return f"the nearest are {' and '.join(options)}" if options else "crop it first"


def _to_mask(data: bytes, path: str, whole: Size, size: Size) -> Image.Image:
    mask = _decode_8_bits(data, path, "mask")
    if mask.has_transparency_data and mask.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(f"mask: {path} is partly transparent; make it opaque, white where to repaint")
    if mask.size != whole:
        sizes = f"{mask.width}×{mask.height}, its image is {whole[0]}×{whole[1]}"
        raise InputError(f"mask: {path} is {sizes}; they must have the same size")
    binary = resize_mask(mask.convert("L"), size, Image.Resampling.BILINEAR)
    if binary.getbbox() is None:
        reason = "is all black, so nothing would be repainted; white marks what to repaint"
        raise InputError(f"mask: {path} {reason}")
    return binary


def resize_mask(mask: Image.Image, size: Size, enlarging: Image.Resampling) -> Image.Image:
    """Resize a mask in mode L and make it black and white: from level 128 on it is white.

    Shrinking loses no white: a pixel becomes white if any white falls into it.
    """

    def is_light(level: int) -> int:
        return 255 if level >= 128 else 0

    if size[0] >= mask.width and size[1] >= mask.height:
        return mask.resize(size, enlarging).point(is_light)
    shares = mask.point(is_light).convert("F").resize(size, Image.Resampling.BOX)  # of white in each pixel
    return shares.point(lambda share: share * 1e9).convert("L")  # which clips to 255


def is_lossy(data: bytes) -> bool:
    """Return whether a file's format changed the pixels of its image: JPEG, or WebP unless it is lossless."""
    if data[:4] != b"RIFF":
        return data[:2] == b"\xff\xd8"
    place = 12
    while place < len(data) and data[place : place + 4] != b"VP8 ":
        place += 8 + (size := int.from_bytes(data[place + 4 : place + 8], "little")) + size % 2
    return place < len(data)
