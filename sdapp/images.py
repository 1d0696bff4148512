"""Input images and masks: read safely, turned the right way up, and made into the RGB that was meant."""

import hashlib
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from sdapp.errors import ConfigError, InputError, MissingInputError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L")
MAX_PIXELS = 67_108_864  # 8192 × 8192
Size = tuple[int, int]


def read_bytes(path: str, key: str) -> tuple[bytes, str]:
    """The bytes of an input file and their SHA-256. Raises MissingInputError; `key` names the file's place in it."""
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise MissingInputError(f"{key}: cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise MissingInputError(f"{key}: cannot read {path!r}: {exc}") from exc
    return data, hashlib.sha256(data).hexdigest()


def decode_image(data: bytes, path: str, key: str) -> Image.Image:
    """Decode with EXIF orientation honoured. Raises InputError for what is no image, too large, or moving."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # the limit is checked here, below
            image = Image.open(BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{key}: {path}: {image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are read"
            )
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # a JPEG with a preview
            raise InputError(f"{key}: {path}: {frames} frames; save the one you mean as a PNG")
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as exc:
        raise InputError(f"{key}: {path}: not an image; allowed: {', '.join(FORMATS)}") from exc
    except Image.DecompressionBombError as exc:
        raise InputError(f"{key}: {path}: {exc}") from exc
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as exc:
        raise InputError(f"{key}: {path}: broken: {exc}") from exc


def _eight_bits(image: Image.Image, path: str, key: str) -> Image.Image:
    """Refuse modes whose white is not defined; 16 bits become 8, where Pillow's own conversion would clip."""
    if image.mode not in MODES:
        raise InputError(
            f"{key}: {path}: mode {image.mode} has no defined white; save it as RGB or grey, 8 or 16 bits"
        )
    return (
        image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
        if image.mode.startswith("I;16")
        else image
    )


def load_image(data: bytes, path: str, size: Size | None, any_size: bool = False) -> Image.Image:
    """An RGB image from the bytes of a file; transparency shows white. `size` resizes to (width, height).

    Raises InputError for images that cannot be used, ConfigError for sides that are no multiple of 8 or a `size` of
    clearly another shape.
    """
    image = _eight_bits(decode_image(data, path, "image"), path, "image")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if size is None:
        if not any_size and (image.width % 8 or image.height % 8):
            raise ConfigError(f"image: {path} is {image.width}×{image.height}; sides must be multiples of 8: "
                              f"{_nearest(image.size)}")  # fmt: skip
        return image
    if not _alike(image.size, size):
        raise ConfigError(f"image: {path} is {image.width}×{image.height}, another shape than {size[0]}×{size[1]}; "
                          "crop it first, or give a size of its shape")  # fmt: skip
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _alike(one: Size, other: Size) -> bool:
    """Whether two sizes have the same shape, within 5 %."""
    return abs(one[0] / one[1] / (other[0] / other[1]) - 1) <= 0.05


def _nearest(size: Size) -> str:
    sides = [sorted({max(8, side // 8 * 8), side // 8 * 8 + 8 if side % 8 else side}) for side in size]
    near = [
        f"--size {width}x{height}"
        for width in sides[0]
        for height in sides[1]
        if _alike(size, (width, height))
    ]
    return (
        f"the nearest are {' and '.join((near[0], near[-1]) if len(near) > 1 else near)}"
        if near
        else "crop it first"
    )


def load_mask(data: bytes, path: str, image_data: bytes, size: Size) -> Image.Image:
    """A mask of 0 and 255 (repaint) in mode L, from a file as large as its image, resized with it to `size`.

    Raises InputError for a mask of another size than the image, with transparency, or with nothing to paint.
    """
    mask = _eight_bits(decode_image(data, path, "mask"), path, "mask")
    whole = decode_image(image_data, "the image", "image").size
    if mask.has_transparency_data and mask.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(
            f"mask: {path} is transparent in part; draw it opaque: white is painted anew, black stays"
        )
    if mask.size != whole:
        raise InputError(
            f"mask: {path} is {mask.width}×{mask.height}, the image is {whole[0]}×{whole[1]}; they must be alike"
        )
    mask = (
        mask.convert("L").resize(size, Image.Resampling.BILINEAR) if mask.size != size else mask.convert("L")
    )
    binary = mask.point(lambda value: 255 if value >= 128 else 0)
    if binary.getbbox() is None:
        raise InputError(f"mask: {path} is all black, so nothing would be painted; white is painted anew")
    return binary


def is_lossy(data: bytes) -> bool:
    """Whether the format of an image's file has changed its pixels: JPEG, and WebP of the lossy kind."""
    if data[:4] != b"RIFF":
        return data[:2] == b"\xff\xd8"
    place = 12
    while place < len(data) and data[place : place + 4] != b"VP8 ":
        place += 8 + (size := int.from_bytes(data[place + 4 : place + 8], "little")) + size % 2
    return place < len(data)
