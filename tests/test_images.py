import re
import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sdapp.errors import ConfigError, InputError, MissingInputError, SdappError
from sdapp.images import load_image, load_mask, read_bytes

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(mode: str, color: Any, form: str = "PNG", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    return encode(Image.new(mode, size, color), form, **options)


def indexed(**options: Any) -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*WHITE, *RED])
    return encode(image, **options)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is as large as that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def animated(form: str) -> bytes:
    return plain(
        "RGB", RED, form, save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)], lossless=True
    )


# --- images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "color"),
    [
        (plain("1", 1), WHITE),
        (plain("1", 0), (0, 0, 0)),
        (plain("L", 100), (100, 100, 100)),
        (plain("L", 100, transparency=100), WHITE),
        (plain("LA", (100, 255)), (100, 100, 100)),
        (plain("LA", (0, 0)), WHITE),
        (plain("LA", (0, 128)), (127, 127, 127)),
        (indexed(), RED),
        (indexed(transparency=0), RED),
        (indexed(transparency=1), WHITE),
        (plain("RGB", RED), RED),
        (plain("RGB", RED, transparency=RED), WHITE),
        (plain("RGBA", (*RED, 255)), RED),
        (plain("RGBA", (*RED, 0)), WHITE),
        (plain("RGBA", (0, 0, 0, 128)), (127, 127, 127)),
        (plain("CMYK", (0, 255, 255, 0), "TIFF"), RED),
        (plain("I;16", 0), (0, 0, 0)),
        (plain("I;16", 100 * 257), (100, 100, 100)),
        (plain("I;16", 65535), WHITE),
        (plain("I;16", 100 * 257, "TIFF"), (100, 100, 100)),
        (plain("I;16B", 100 * 257, "TIFF"), (100, 100, 100)),
        (plain("RGB", RED, "BMP"), RED),
        (plain("RGB", RED, "WEBP", lossless=True), RED),
        (plain("P", 0, "GIF"), (0, 0, 0)),
    ],
)
def test_an_image_of_any_mode_becomes_the_rgb_that_was_meant(
    data: bytes, color: tuple[int, int, int]
) -> None:
    image = load_image(data, "x", None)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (8, 8), color)


# Where the first row's first and last pixels belong: EXIF 2.32, 4.6.4, tag 0x0112.
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT = (0, 0), (-1, 0), (0, -1), (-1, -1)


@pytest.mark.parametrize(
    ("orientation", "first", "last"),
    [
        (1, TOP_LEFT, TOP_RIGHT),
        (2, TOP_RIGHT, TOP_LEFT),
        (3, BOTTOM_RIGHT, BOTTOM_LEFT),
        (4, BOTTOM_LEFT, BOTTOM_RIGHT),
        (5, TOP_LEFT, BOTTOM_LEFT),
        (6, TOP_RIGHT, BOTTOM_RIGHT),
        (7, BOTTOM_RIGHT, TOP_RIGHT),
        (8, BOTTOM_LEFT, TOP_LEFT),
    ],
)
def test_an_image_is_turned_the_way_its_camera_was_held(
    orientation: int, first: tuple[int, int], last: tuple[int, int]
) -> None:
    stored = Image.new("RGB", (16, 8), "white")
    stored.putpixel((0, 0), RED)
    stored.putpixel((15, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(encode(stored, exif=exif), "x", None)
    assert image.size == ((16, 8) if orientation < 5 else (8, 16))
    assert [image.getpixel((x % image.width, y % image.height)) for x, y in (first, last)] == [RED, BLUE]


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"", "not an image; allowed: PNG, JPEG, WEBP, TIFF, BMP, GIF"),
        (b"a red house", "not an image"),
        (plain("RGB", RED, "PPM"), "not an image"),
        (plain("RGB", RED, size=(64, 64))[:-40], "broken: "),
        (plain("RGB", RED, "JPEG", size=(64, 64))[:-99], "broken: "),
        (animated("GIF"), "2 frames; save the one you mean as a PNG"),
        (animated("PNG"), "2 frames"),
        (animated("WEBP"), "2 frames"),
        (plain("RGB", RED, "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 8))]), "2 frames"),
        (plain("I", 7, "TIFF"), "mode I has no defined white"),
        (plain("F", 0.5, "TIFF"), "mode F has no defined white"),
        (claiming(8192, 8200), "8192×8200 pixels; at most 67,108,864 are read"),
        (claiming(10_000, 10_000), "10000×10000 pixels; at most 67,108,864 are read"),
        (claiming(60_000, 60_000), "pixels"),
    ],
)  # fmt: skip
def test_what_is_no_single_image_is_refused(data: bytes, fragment: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_image(data, "x", None)
    assert str(refusal.value).startswith("image: x: ")
    assert fragment in str(refusal.value)


SMALL = [plain("RGB", RED, form) for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")] + [
    plain("P", 0, "GIF"),
    animated("PNG"),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=4),
    st.integers(1, 999),
)
@example(SMALL[3], [(130, 1)], 140)  # a TIFF that claims a second frame beyond its end
def test_any_bytes_are_an_image_or_refused(data: bytes, changes: list[tuple[int, int]], size: int) -> None:
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    try:
        said = load_image(bytes(damaged[:size]), "x", None, any_size=True).mode
    except SdappError as exc:
        said = str(exc)
    assert said == "RGB" or said.startswith("image: x: ")


@pytest.mark.parametrize(
    ("given", "asked", "any_size", "size"),
    [
        ((64, 48), None, False, (64, 48)),
        ((60, 50), None, True, (60, 50)),
        ((60, 60), (64, 64), False, (64, 64)),
        ((128, 96), (64, 48), False, (64, 48)),
        ((62, 60), (64, 64), False, (64, 64)),
    ],
)
def test_an_image_keeps_its_size_or_takes_the_one_asked_for(
    given: tuple[int, int], asked: tuple[int, int] | None, any_size: bool, size: tuple[int, int]
) -> None:
    assert load_image(plain("RGB", RED, size=given), "x", asked, any_size).size == size


@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        ((100, 64), None, "image: x is 100×64; sides must be multiples of 8: "),
        ((64, 3), None, "image: x is 64×3; sides must be multiples of 8: "),
        ((96, 64), (64, 64), "image: x is 96×64, another shape than 64×64; crop it first"),
        ((64, 68), (64, 64), "image: x is 64×68, another shape than 64×64"),
    ],
)
def test_an_image_of_another_shape_is_refused(
    given: tuple[int, int], asked: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_image(plain("RGB", RED, size=given), "x", asked)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    "given", [(100, 64), (64, 100), (60, 60), (30, 20), (9, 9), (1000, 667), (403, 600), (5, 5)]
)
def test_every_size_that_is_advised_is_accepted(given: tuple[int, int]) -> None:
    data = plain("RGB", RED, size=given)
    with pytest.raises(ConfigError) as refusal:
        load_image(data, "x", None)
    advised = [(int(width), int(height)) for width, height in re.findall(r"(\d+)x(\d+)", str(refusal.value))]
    assert advised
    assert [load_image(data, "x", size).size for size in advised] == advised


def test_a_missing_file_is_named() -> None:
    with pytest.raises(MissingInputError, match=r"^task\.image: cannot read none\.png: No such file"):
        read_bytes("none.png", "task.image")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InputError):
        read_bytes("a\0b", "task.image")


# --- masks --------------------------------------------------------------------------------------------------------

IMAGE = plain("RGB", RED)


def half(mode: str, left: Any, right: Any) -> Image.Image:
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


@pytest.mark.parametrize(
    "data",
    [
        encode(half("1", 0, 1)),
        encode(half("L", 0, 255)),
        encode(half("L", 127, 128)),
        encode(half("I;16", 127 * 257, 128 * 257)),
        encode(half("RGB", (0, 0, 0), WHITE)),
        encode(half("RGB", BLUE, (0, 255, 0))),
        encode(half("RGBA", (0, 0, 0, 255), (*WHITE, 255))),
        encode(half("LA", (0, 255), (255, 255))),
        encode(half("L", 0, 255), "JPEG", quality=100),
    ],
)
def test_what_is_light_is_painted_and_what_is_dark_stays(data: bytes) -> None:
    mask = load_mask(data, "m", IMAGE, (8, 8))
    assert mask.mode == "L"
    assert mask.tobytes() == (b"\0" * 4 + b"\xff" * 4) * 8


def test_a_mask_is_resized_with_its_image_and_stays_black_and_white() -> None:
    mask = load_mask(encode(half("L", 0, 255)), "m", IMAGE, (64, 64))
    assert mask.size == (64, 64)
    assert mask.tobytes() == (b"\0" * 32 + b"\xff" * 32) * 64


def test_a_mask_is_compared_with_the_image_as_it_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = load_mask(plain("L", 255, size=(8, 16)), "m", plain("RGB", RED, size=(16, 8), exif=exif), (8, 16))
    assert mask.size == (8, 16)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (plain("RGBA", (255, 255, 255, 254)), "mask: m is transparent in part"),
        (plain("LA", (255, 0)), "mask: m is transparent in part"),
        (indexed(transparency=1), "mask: m is transparent in part"),
        (plain("L", 255, size=(8, 16)), "mask: m is 8×16, the image is 8×8; they must be alike"),
        (plain("L", 0), "mask: m is all black, so nothing would be painted"),
        (plain("L", 127), "mask: m is all black"),
        (plain("F", 1, "TIFF"), "mask: m: mode F has no defined white"),
        (plain("LAB", (255, 0, 0), "TIFF"), "mask: m"),
        (b"", "mask: m: not an image"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(data: bytes, fragment: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_mask(data, "m", IMAGE, (8, 8))
    assert str(refusal.value).startswith(fragment)
