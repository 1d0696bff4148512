import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sdapp.errors import ConfigError, InputError, MissingInputError, SdappError
from sdapp.images import Inputs, Size, read_bytes

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def load_image(data: bytes, size: Size | None = None, **options: bool) -> Image.Image:
    """Return the image of a file named `x`."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path("x").write_bytes(data)
        return Inputs().image("x", size, **options)


def load_mask(data: bytes, image: bytes, size: Size) -> Image.Image:
    """Return the mask of a file named `m`."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path("m").write_bytes(data)
        Path("x").write_bytes(image)
        return Inputs().mask("m", "x", size)


def plain(mode: str, color: Any, form: str = "PNG", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    return encode(Image.new(mode, size, color), form, **options)


def indexed(**options: Any) -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*WHITE, *RED])
    return encode(image, **options)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""

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


# --- images -------------------------------------------------------------------------------------------------


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
def test_images_of_every_mode_become_rgb(data: bytes, color: tuple[int, int, int]) -> None:
    image = load_image(data)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (8, 8), color)


@pytest.mark.parametrize(
    ("data", "mode", "color"),
    [
        (plain("RGBA", (1, 2, 3, 0)), "RGBA", (1, 2, 3, 0)),
        (plain("RGBA", (1, 2, 3, 128)), "RGBA", (1, 2, 3, 128)),
        (plain("LA", (9, 7)), "RGBA", (9, 9, 9, 7)),
        (plain("RGB", RED, transparency=RED), "RGBA", (*RED, 0)),
        (indexed(transparency=bytes([0, 70])), "RGBA", (*RED, 70)),
        (plain("RGBA", (1, 2, 3, 4), "WEBP", lossless=True, exact=True), "RGBA", (1, 2, 3, 4)),
        (plain("RGBA", (1, 2, 3, 255)), "RGB", (1, 2, 3)),
        (indexed(transparency=0), "RGB", RED),
    ],
)
def test_transparency_is_kept_on_demand_with_the_colours_under_it(
    data: bytes, mode: str, color: tuple[int, ...]
) -> None:
    image = load_image(data, keep_alpha=True)
    assert (image.mode, image.getpixel((3, 3))) == (mode, color)


# --- ICC profiles -------------------------------------------------------------------------------------------

LINEAR = (Path(__file__).parent / "cases/B-12-icc/linear.icc").read_bytes()  # RGB, its name is "sRGB"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space: bytes, colours: bytes, **tags: bytes) -> bytes:
    """A profile of version 2.4 for a colour space; `colours` is the space that its tags convert to (ICC.1:2001)."""
    white = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))
    parts = {"wtpt": b"XYZ \0\0\0\0" + white, **tags}
    table, body, start = b"", b"", 132 + 12 * len(parts)
    for name, part in parts.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, b"prtr", space, colours, b"acsp")
    return head + white + bytes(48) + struct.pack(">I", len(parts)) + table + body


LINEAR_GREY = profile(b"GRAY", b"XYZ ", kTRC=b"curv" + bytes(4) + struct.pack(">IH", 1, 256))
# All black with black ink, else white without cyan and L* = 50 with it; whatever magenta and yellow do.
INKS = b"".join(bytes([0 if i & 1 else 128 if i & 8 else 255, 128, 128]) for i in range(16))
IDENTITY = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
LUT = (
    b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + IDENTITY + bytes(range(256)) * 4 + INKS + bytes(range(256)) * 3
)
CMYK = profile(b"CMYK", b"Lab ", A2B0=LUT)


def encoded(level: int) -> int:
    """The sRGB level of a linear one (IEC 61966-2-1)."""
    light = level / 255
    return round(255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize(
    ("data", "color"),
    [
        (plain("RGB", (20, 80, 200), icc_profile=LINEAR), (20, 80, 200)),
        (plain("RGB", (55, 55, 55), "JPEG", quality=100, icc_profile=LINEAR), (55, 55, 55)),
        (plain("RGB", (20, 80, 200), "WEBP", lossless=True, icc_profile=LINEAR), (20, 80, 200)),
        (plain("RGB", (20, 80, 200), "TIFF", icc_profile=LINEAR), (20, 80, 200)),
        (plain("RGBA", (20, 80, 200, 255), icc_profile=LINEAR), (20, 80, 200)),
        (plain("RGBA", (20, 80, 200, 60), icc_profile=LINEAR), (20, 80, 200, 60)),
        (indexed(icc_profile=LINEAR), RED),
        (plain("L", 55, icc_profile=LINEAR_GREY), (55, 55, 55)),
        (plain("LA", (55, 60), icc_profile=LINEAR_GREY), (55, 55, 55, 60)),
        (plain("I;16", 55 * 257, icc_profile=LINEAR_GREY), (55, 55, 55)),
        (plain("L", 55, icc_profile=LINEAR), (55, 55, 55)),
    ],
)
def test_linear_colours_become_srgb(data: bytes, color: tuple[int, ...]) -> None:
    found = load_image(data, keep_alpha=True).getpixel((3, 3))
    assert isinstance(found, tuple)
    wanted = (*map(encoded, color[:3]), *color[3:])
    assert [abs(one - other) <= 1 for one, other in zip(found, wanted, strict=True)] == [True] * len(wanted)


@pytest.mark.parametrize(
    ("inks", "grey"),
    [((0, 0, 0, 0), 255), ((255, 0, 0, 0), 119), ((0, 255, 255, 0), 255), ((0, 0, 0, 255), 0)],
)
def test_inks_become_the_colours_of_their_profile(inks: tuple[int, ...], grey: int) -> None:
    found = load_image(plain("CMYK", inks, "TIFF", icc_profile=CMYK)).getpixel((3, 3))
    assert isinstance(found, tuple)
    assert all(abs(level - grey) <= 2 for level in found)


def test_a_profile_of_srgb_changes_no_level() -> None:
    image = Image.frombytes("RGB", (256, 3), bytes(range(256)) * 9)
    assert load_image(encode(image, icc_profile=SRGB), any_size=True).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        plain("RGB", RED, icc_profile=b"no profile"),
        plain("RGB", RED, icc_profile=LINEAR[:300]),
        plain("RGB", RED, icc_profile=LINEAR_GREY),
        plain("CMYK", (0, 0, 0, 0), "TIFF", icc_profile=LINEAR),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(
        InputError, match=r"^image: x: its ICC profile cannot be used .*; convert the image to sRGB"
    ):
        load_image(data)


def test_what_is_made_from_an_image_does_not_inherit_its_metadata() -> None:
    again = Image.open(BytesIO(encode(load_image(plain("RGB", RED, icc_profile=LINEAR, dpi=(9, 9))))))
    assert again.info == {}


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
def test_exif_orientation_is_applied(orientation: int, first: tuple[int, int], last: tuple[int, int]) -> None:
    stored = Image.new("RGB", (16, 8), "white")
    stored.putpixel((0, 0), RED)
    stored.putpixel((15, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(encode(stored, exif=exif))
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
        (animated("GIF"), "2 frames; save the one that you want as a PNG"),
        (animated("PNG"), "2 frames"),
        (animated("WEBP"), "2 frames"),
        (plain("RGB", RED, "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 8))]), "2 frames"),
        (plain("I", 7, "TIFF"), "mode I does not define white"),
        (plain("F", 0.5, "TIFF"), "mode F does not define white"),
        (claiming(8192, 8200), "8192×8200 pixels; at most 67,108,864 are allowed"),
        (claiming(10_000, 10_000), "10000×10000 pixels; at most 67,108,864 are allowed"),
        (claiming(60_000, 60_000), "pixels"),
    ],
)  # fmt: skip
def test_files_that_are_not_a_single_image_are_refused(data: bytes, fragment: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_image(data)
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
def test_damaged_files_give_an_image_or_an_error_with_their_place(
    data: bytes, changes: list[tuple[int, int]], size: int
) -> None:
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    try:
        seen = load_image(bytes(damaged[:size]), any_size=True).mode
    except SdappError as exc:
        seen = str(exc)
    assert seen == "RGB" or seen.startswith("image: x: ")


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
def test_an_image_keeps_its_size_or_is_resized(
    given: tuple[int, int], asked: tuple[int, int] | None, any_size: bool, size: tuple[int, int]
) -> None:
    assert load_image(plain("RGB", RED, size=given), asked, any_size=any_size).size == size


@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        ((100, 64), None, "image: x is 100×64; sides must be multiples of 8: "),
        ((64, 3), None, "image: x is 64×3; sides must be multiples of 8: "),
        ((96, 64), (64, 64), "image: x is 96×64, another shape than 64×64; crop it, or"),
        ((64, 68), (64, 64), "image: x is 64×68, another shape than 64×64"),
    ],
)
def test_an_image_of_another_shape_is_refused(
    given: tuple[int, int], asked: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_image(plain("RGB", RED, size=given), asked)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    "given", [(100, 64), (64, 100), (60, 60), (30, 20), (9, 9), (1000, 667), (403, 600), (5, 5)]
)
def test_every_suggested_size_is_accepted(given: tuple[int, int]) -> None:
    data = plain("RGB", RED, size=given)
    with pytest.raises(ConfigError) as refusal:
        load_image(data)
    advised = [(int(width), int(height)) for width, height in re.findall(r"(\d+)x(\d+)", str(refusal.value))]
    assert advised
    assert [load_image(data, size).size for size in advised] == advised


def test_a_missing_file_is_named() -> None:
    with pytest.raises(MissingInputError, match=r"^task\.image: cannot read none\.png: No such file"):
        read_bytes("none.png", "task.image")


def test_an_impossible_path_is_an_input_error() -> None:
    with pytest.raises(InputError):
        read_bytes("a\0b", "task.image")


# --- masks --------------------------------------------------------------------------------------------------

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
def test_light_is_repainted_and_dark_is_kept(data: bytes) -> None:
    mask = load_mask(data, IMAGE, (8, 8))
    assert mask.mode == "L"
    assert mask.tobytes() == (b"\0" * 4 + b"\xff" * 4) * 8


def test_a_resized_mask_stays_black_and_white() -> None:
    mask = load_mask(encode(half("L", 0, 255)), IMAGE, (64, 64))
    assert mask.size == (64, 64)
    assert mask.tobytes() == (b"\0" * 32 + b"\xff" * 32) * 64


@pytest.mark.parametrize("size", [(56, 56), (40, 40), (8, 8)])
def test_a_mask_that_is_shrunk_loses_no_white(size: Size) -> None:
    """One row, one column and one pixel alone, each of them far thinner than a pixel of the smaller mask."""
    mask = Image.new("L", (640, 640), 0)
    for box in ((0, 70, 640, 71), (70, 0, 71, 640), (500, 500, 501, 501)):
        mask.paste(255, box)
    found = np.asarray(load_mask(encode(mask), plain("RGB", RED, size=(640, 640)), size))
    expected = np.zeros_like(found)
    expected[70 * size[1] // 640] = expected[:, 70 * size[0] // 640] = 255
    expected[500 * size[1] // 640, 500 * size[0] // 640] = 255
    assert (found == expected).all()


def test_the_colour_profile_of_a_mask_means_nothing() -> None:
    data = encode(half("L", 100, 200), icc_profile=LINEAR_GREY)
    assert load_mask(data, IMAGE, (8, 8)).tobytes() == (b"\0" * 4 + b"\xff" * 4) * 8


def test_the_mask_has_the_size_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = load_mask(plain("L", 255, size=(8, 16)), plain("RGB", RED, size=(16, 8), exif=exif), (8, 16))
    assert mask.size == (8, 16)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (plain("RGBA", (255, 255, 255, 254)), "mask: m is partly transparent"),
        (plain("LA", (255, 0)), "mask: m is partly transparent"),
        (indexed(transparency=1), "mask: m is partly transparent"),
        (plain("L", 255, size=(8, 16)), "mask: m is 8×16, its image is 8×8; they must have the same size"),
        (plain("L", 0), "mask: m is all black, so nothing would be repainted"),
        (plain("L", 127), "mask: m is all black"),
        (plain("F", 1, "TIFF"), "mask: m: mode F does not define white"),
        (plain("LAB", (255, 0, 0), "TIFF"), "mask: m"),
        (b"", "mask: m: not an image"),
    ],
)
def test_unusable_masks_are_refused(data: bytes, fragment: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_mask(data, IMAGE, (8, 8))
    assert str(refusal.value).startswith(fragment)


# --- read once ----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """An image and its mask, 16 × 16."""
    (tmp_path / "image.png").write_bytes(plain("RGB", RED, size=(16, 16)))
    (tmp_path / "mask.png").write_bytes(plain("L", 255, size=(16, 16)))
    return str(tmp_path / "image.png"), str(tmp_path / "mask.png")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every file that is read, in order; of every image that is decoded, its format."""
    seen: list[str] = []
    read, decode = Path.read_bytes, Image.open

    def reading(path: Path) -> bytes:
        seen.append(path.name)
        return read(path)

    def decoding(*arguments: Any, **options: Any) -> Image.Image:
        image = decode(*arguments, **options)
        seen.append(str(image.format))
        return image

    monkeypatch.setattr(Path, "read_bytes", reading)
    monkeypatch.setattr(Image, "open", decoding)
    return seen


def test_each_file_is_read_and_decoded_once(files: tuple[str, str], opened: list[str]) -> None:
    inputs, (image, mask) = Inputs(), files
    for _ in range(20):
        inputs.read(image, "image")
        assert inputs.image(image, (32, 32)).size == (32, 32)
        assert inputs.image(image, None).size == (16, 16)
        assert inputs.mask(mask, image, (32, 32)).size == (32, 32)
    assert opened == ["image.png", "PNG", "mask.png", "PNG"]


def test_threads_share_one_reading(files: tuple[str, str], opened: list[str]) -> None:
    inputs = Inputs()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: inputs.image(files[0], None), range(64)))
    assert all(image is found[0] for image in found)
    assert opened == ["image.png", "PNG"]


def test_a_changed_file_is_read_again_and_a_job_planned_with_the_old_one_is_refused(
    files: tuple[str, str],
) -> None:
    inputs, (image, mask) = Inputs(), files
    planned = {path: inputs.read(path, "image")[1] for path in files}
    assert inputs.image(image, None, planned=planned[image]).getpixel((0, 0)) == RED
    Path(image).write_bytes(plain("RGB", BLUE, size=(16, 16)))
    Path(mask).write_bytes(plain("L", 128, size=(16, 16)))
    assert inputs.image(image, None).getpixel((0, 0)) == BLUE
    with pytest.raises(InputError, match=r"^image: .*image\.png changed since it was planned"):
        inputs.image(image, None, planned=planned[image])
    with pytest.raises(InputError, match=r"^mask: .*mask\.png changed since it was planned"):
        inputs.mask(mask, image, (16, 16), planned=planned[mask])
    with pytest.raises(InputError, match=r"^task\.image: .*image\.png changed since"):
        inputs.read(image, "task.image", planned[image])


def test_a_size_that_one_use_allows_is_refused_for_another(tmp_path: Path) -> None:
    inputs, path = Inputs(), tmp_path / "a.png"
    path.write_bytes(plain("RGB", RED, size=(60, 60)))
    assert inputs.image(str(path), None, any_size=True).size == (60, 60)
    with pytest.raises(ConfigError, match="multiples of 8"):
        inputs.image(str(path), None)


def test_memory_is_bounded(tmp_path: Path, opened: list[str]) -> None:
    inputs = Inputs(max_bytes=3 * 16 * 16 * 3)  # three images, less their files
    for name in "abc":
        (tmp_path / name).write_bytes(plain("RGB", (ord(name), 0, 0), size=(16, 16)))
    for name in "abcca":
        inputs.image(str(tmp_path / name), None)
    assert opened == ["a", "PNG", "b", "PNG", "c", "PNG", "a", "PNG"]


def test_a_missing_file_is_looked_for_each_time(tmp_path: Path) -> None:
    inputs, path = Inputs(), tmp_path / "a.png"
    with pytest.raises(MissingInputError, match=r"^image: cannot read .*a\.png: No such file"):
        inputs.image(str(path), None)
    path.write_bytes(plain("RGB", RED))
    assert inputs.image(str(path), None).size == (8, 8)
    with pytest.raises(InputError):
        inputs.read("a\0b", "image")
