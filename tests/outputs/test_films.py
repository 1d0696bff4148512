"""Films of how an image was painted."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdapp.errors import ConfigError, UnavailableError
from sdapp.outputs.films import check_film, write_film

FRAMES = [Image.new("RGB", (32, 24), (40 * number, 0, 0)) for number in range(5)]
LARGE = Image.new("RGB", (64, 48), (0, 200, 0))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_their_times_and_the_last_image(suffix: str, tmp_path: Path) -> None:
    write_film(tmp_path / f"a{suffix}", iter(FRAMES), 5, LARGE)
    with Image.open(tmp_path / f"a{suffix}") as film:
        assert (film.n_frames, film.size) == (6, (256, 192))  # small images are enlarged
        times, colours = [], []
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            times.append(film.info["duration"])
            colours.append(film.convert("RGB").getpixel((128, 96)))
    assert times == [200] * 5 + [2000]
    assert all(abs(red - 40 * number) < 12 for number, (red, _, _) in enumerate(colours[:-1]))
    assert colours[-1][1] > 180


def test_frames_of_another_shape_stand_in_the_middle(tmp_path: Path) -> None:
    write_film(tmp_path / "a.webp", [Image.new("RGB", (200, 200), "white")], 1, Image.new("RGB", (400, 200)))
    with Image.open(tmp_path / "a.webp") as film:
        frame = film.convert("RGB")
    assert frame.size == (400, 200)
    assert frame.getpixel((20, 100))[0] < 20
    assert frame.getpixel((200, 100))[0] > 235


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_an_mp4_has_even_sides(tmp_path: Path) -> None:
    frames = [each.resize((333, 251)) for each in FRAMES]
    write_film(tmp_path / "a.mp4", iter(frames), 5, Image.new("RGB", (333, 251)))
    asked = ("ffprobe", "-v", "error", "-show_entries", "stream=width,height", "-of", "csv=p=0")
    said = subprocess.run(
        [*asked, str(tmp_path / "a.mp4")], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "334,252"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("film", "images", "frames", "message"),
    [
        ("a.avi", 1, 20, "write the suffix as one of .gif, .webp, .mp4"),
        ("a.gif", 3, 20, "a film shows one image, and 3 are asked for"),
        (
            "a.gif",
            1,
            10_000,
            "at most 1,000 frames, and the UNet would be called 10,000 times; use fewer --steps",
        ),
        ("a.gif", 1, 0, "the model denoises nothing of this image"),
    ],
)
def test_what_is_refused(film: str, images: int, frames: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_film(film, images, frames)


def test_without_ffmpeg_an_mp4_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match="no ffmpeg to make an MP4; install it"):
        check_film("a.mp4", 1, 20)


def test_a_film_of_a_run_changes_nothing_else(sdapp: Callable[..., Any], tiny: Callable[..., Path]) -> None:
    shared = ("a", "--model", tiny(), "--steps", 3, "--seed", 1, "--upscale", 2)
    seen = sdapp("generate", *shared, "--out", "seen", "--film", "films/a.gif")
    assert seen.exit_code == 0, seen.output
    image, film = map(Path, seen.stdout.split())
    [plain] = sdapp("generate", *shared, "--out", "plain").stdout.split()
    assert Image.open(image).tobytes() == Image.open(plain).tobytes()
    with Image.open(film) as frames:
        assert (frames.n_frames, frames.size) == (3 + 1 + 1, (512, 512))  # both passes, and the image


def test_steps_are_counted_before_the_model_is_loaded(sdapp: Callable[..., Any]) -> None:
    result = sdapp("generate", "a cat", "--steps", 1000, "--scheduler", "heun", "--film", "a.gif")
    assert result.exit_code == 2
    assert "film: a film has at most 1,000 frames, and the UNet would be called 1,999 times" in result.stderr
