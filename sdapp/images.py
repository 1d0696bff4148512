"""Input pictures and masks: read safely, turned the right way up, and made into the RGB that was meant."""

import hashlib
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from sdapp.errors import ConfigError, InputError, MissingInputError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MAX_PIXELS = 67_108_864  # 8192 × 8192
Size = tuple[int, int]


def read_bytes(path: str, key: str) -> tuple[bytes, str]:
    """The bytes of an input file and their SHA-256. Raises MissingInputError."""
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise MissingInputError(f"{key}: cannot read {path}: {exc.strerror}") from exc
    return data, hashlib.sha256(data).hexdigest()


def _open(data: bytes, path: str, key: str) -> Image.Image:
    """Decode with EXIF orientation honoured. Raises InputError for what is no picture, too large, or moving."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked here, below
            image = Image.open(BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{key}: {path}: {image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are read")
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{key}: {path}: {getattr(image, 'n_frames', 1)} frames; save the one you mean as a PNG")
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as exc:
        raise InputError(f"{key}: {path}: not a picture; allowed: {', '.join(FORMATS)}") from exc
    except Image.DecompressionBombError as exc:
        raise InputError(f"{key}: {path}: {exc}") from exc
    except (OSError, SyntaxError, ValueError, EOFError) as exc:
        raise InputError(f"{key}: {path}: broken: {exc}") from exc


def _grey(image: Image.Image) -> Image.Image:
    """16 bits to 8, where Pillow's own conversion would clip."""
    return image.point(lambda value: value / 257, "L") if image.mode.startswith("I;16") else image


def load_image(data: bytes, path: str, size: Size | None, any_size: bool = False) -> Image.Image:
    """An RGB picture from the bytes of a file; transparency shows white. `size` resizes to (width, height).

    Raises InputError for pictures that cannot be used, ConfigError for sides that are no multiple of 8 or a `size` of
    clearly another shape.
    """
    image = _grey(_open(data, path, "image"))
    if image.mode in ("I", "F"):
        raise InputError(f"image: {path}: mode {image.mode} has no defined white; save it as 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if size is None:
        if not any_size and (image.width % 8 or image.height % 8):
            below, above = ("x".join(str(side // 8 * 8 + more) for side in image.size) for more in (0, 8))
            raise ConfigError(f"image: {path} is {image.width}×{image.height}; sides must be multiples of 8: "
                              f"the nearest are --size {below} and --size {above}")  # fmt: skip
        return image
    if abs(image.width / image.height / (size[0] / size[1]) - 1) > 0.05:
        raise ConfigError(f"image: {path} is {image.width}×{image.height}, another shape than {size[0]}×{size[1]}; "
                          "crop it first, or give a size of its shape")  # fmt: skip
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def load_mask(data: bytes, path: str, image_data: bytes, size: Size) -> Image.Image:
    """A mask of 0 and 255 (repaint) in mode L, from a file as large as its picture, resized with it to `size`.

    Raises InputError for a mask of another size than the picture, with transparency, or with nothing to paint.
    """
    mask = _grey(_open(data, path, "mask"))
    whole = _open(image_data, "the image", "image").size
    if mask.has_transparency_data and mask.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(f"mask: {path} is transparent in part; draw it opaque: white is painted anew, black stays")
    if mask.mode in ("I", "F"):
        raise InputError(f"mask: {path}: mode {mask.mode} has no defined white; save it as 8 bits")
    if mask.size != whole:
        raise InputError(f"mask: {path} is {mask.width}×{mask.height}, the image is {whole[0]}×{whole[1]}; they must be alike")
    mask = mask.convert("L").resize(size, Image.Resampling.BILINEAR) if mask.size != size else mask.convert("L")
    binary = mask.point(lambda value: 255 if value >= 128 else 0)
    if binary.getbbox() is None:
        raise InputError(f"mask: {path} is all black, so nothing would be painted; white is painted anew")
    return binary
