"""JPEG and WebP carry what a PNG carries: the exact job and its record, and words for other tools."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin
from typer.testing import Result as Run

from other_readers import read_by_sd_parsers
from sdapp.batches.finished import Finished
from sdapp.errors import ConfigError, InputError
from sdapp.images import is_lossy
from sdapp.jobs import Job
from sdapp.metadata import containers
from sdapp.metadata.read import read_settings
from sdapp.metadata.record import SUFFIXES, read_header, read_image
from sdapp.outputs.writer import save
from sdapp.planning import MAX_JPEG_PROMPTS
from sdapp.records import Record, Result
from sdapp.settings.hardware import Memory
from sdapp.settings.output import Output
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.tasks import Txt2Img

Sdapp = Callable[..., Run]
RECORD = Record(
    "0" * 12,
    "DDIMScheduler",
    {"steps_offset": 1},
    "cpu",
    "float32",
    20,
    1,
    0.5,
    "2026-01-01T00:00:00+00:00",
    {},
)
NOISE = Image.effect_noise((72, 48), 80).convert("RGB")
HOSTILE = [
    'tiff:Orientation="6"', "tiff:Orientation>6<", "</sdapp:record>", "<sdapp:record>{}</sdapp:record>", "&lt;&amp;&#60;&copy",
    "<!DOCTYPE x [<!ENTITY e 'boo'>]>&e;", "<sdcpp:parameters>x", "🏠 été \u2028 \0 \ufffe \n", "Steps: 1, Seed: 2, Size: 8x8",
    "",
]  # fmt: skip


def job(**changes: Any) -> Job:
    return Job(**{
        "model": "postcards", "revision": None, "dtype": "float32", "scheduler": SchedulerChoice(name="ddim"), "steps": 20,
        "guidance_scale": 7.5, "negative_prompt": "", "width": 72, "height": 48, "seed": 7, "task": Txt2Img(),
        "prompt": "A red house!", "eta": None, "clip_skip": 0, "memory": Memory(), "inputs": {},
    } | changes)  # fmt: skip


def write(folder: Path, format: str, quality: int = 95, **changes: Any) -> Path:
    painted = job(**changes)
    output = Output(dir=str(folder), name="a", format=format, quality=quality)  # type: ignore[arg-type]
    return save(Result(painted, 0, replace(RECORD, job_id=painted.id), NOISE), output)


# --- the record ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jpeg", "webp"])
@pytest.mark.parametrize("prompt", HOSTILE)
def test_the_job_and_the_record_come_back_and_no_prompt_turns_the_image(
    prompt: str, format: str, tmp_path: Path
) -> None:
    path = write(tmp_path, format, prompt=prompt, negative_prompt=prompt)
    content = read_image(path)
    assert path.suffix == SUFFIXES[format]
    assert Job.model_validate(content["job"]) == job(prompt=prompt, negative_prompt=prompt)
    assert content["record"]["scheduler_config"] == {"steps_offset": 1}
    assert read_header(path) == content
    assert read_settings(path).values["prompt"] == prompt
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert (image.format, image.size) == (format.upper(), (72, 48))


@given(text=st.recursive(st.text() | st.sampled_from(HOSTILE), lambda inner: st.lists(inner, max_size=3)))
def test_any_record_comes_back_out_of_a_packet_that_is_xml(text: Any) -> None:
    packet = containers.xmp("txt2img", json.dumps(text)).encode()
    assert json.loads(containers.record_in(packet) or "") == text
    [record] = ET.fromstring(packet).iter("{urn:sdapp:}record")
    assert json.loads(record.text or "") == text


@pytest.mark.parametrize(
    "packet", [None, "text", b"", b"<sdapp:record>", b"<sdapp:record", b"<sdapp:records>1</sdapp:record>"]
)
def test_what_holds_no_record_gives_none(packet: object) -> None:
    assert containers.record_in(packet) is None


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_other_tools_read_the_settings_and_the_label(format: str, tmp_path: Path) -> None:
    path = write(tmp_path, format, prompt="été, a house", negative_prompt="blurry")
    sampler = read_by_sd_parsers(path)
    assert [prompt.value for prompt in sampler.prompts] == ["été, a house"]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry"]
    assert (sampler.name, sampler.parameters["seed"]) == ("DDIM", "7")
    with Image.open(path) as image:
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_without_the_packet_the_exif_text_still_holds_the_settings(format: str, tmp_path: Path) -> None:
    path = write(tmp_path, format)
    with Image.open(path) as image:
        image.save(tmp_path / "stripped", format, exif=image.info["exif"], xmp=b"")
    assert read_settings(tmp_path / "stripped").values["seed"] == 7
    with pytest.raises(InputError, match="no sdapp record"):
        read_image(tmp_path / "stripped")


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_cut_anywhere_is_broken_or_whole_as_far_as_it_is_read(format: str, tmp_path: Path) -> None:
    path = write(tmp_path, format)
    data = path.read_bytes()
    end = len(data) - 21  # the last 21 bytes of a PNG are checksums and the mark of its end
    for size in range(0, end, max(1, len(data) // 97)):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="a\\."):
            read_image(path)
        with suppress(InputError):
            assert read_header(path)["job"]["seed"] == 7


# --- the pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "quality", "lossy"),
    [("png", 95, False), ("webp", 100, False), ("webp", 99, True), ("jpeg", 100, True), ("jpeg", 1, True)],
)
def test_what_is_lossless_keeps_every_pixel(format: str, quality: int, lossy: bool, tmp_path: Path) -> None:
    path = write(tmp_path, format, quality)
    assert is_lossy(path.read_bytes()) == lossy
    with Image.open(path) as image:
        assert (image.convert("RGB").tobytes() != NOISE.tobytes()) == lossy


def test_a_jpeg_keeps_its_colours_at_full_size(tmp_path: Path) -> None:
    with Image.open(write(tmp_path, "jpeg")) as image:
        assert JpegImagePlugin.get_sampling(image) == 0


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_less_quality_is_a_smaller_file(format: str, tmp_path: Path) -> None:
    sizes = [write(tmp_path, format, quality).stat().st_size for quality in (10, 60, 95)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"RIFF\0\0\0\0WEBP", b"RIFF" + bytes(40), b"RIFF" + b"\xff" * 40, b"\xff"]
)
def test_what_is_no_image_is_not_lossy(data: bytes) -> None:
    assert not is_lossy(data)


# --- what a JPEG has no room for ----------------------------------------------------------------------------------

PLAIN = ("--set", "prompt_syntax=plain")  # what is not read of a plain prompt is in the record too
WORST = ["\x01", "\U0001d160", "a\x01", "'\"", "\\", "&", "<", "é", "\U0010ffff", "İ", "\u0344", "! "]


@pytest.mark.parametrize("piece", WORST, ids=ascii)
def test_the_longest_prompts_that_are_taken_fit_whatever_they_are_made_of(piece: str, sdapp: Sdapp) -> None:
    half = piece * (MAX_JPEG_PROMPTS // 2 // len(piece.encode()))
    result = sdapp(
        "generate",
        half,
        "-n",
        half,
        "--model",
        "postcards",
        "--steps",
        1,
        "--seed",
        7,
        "--set",
        "output.format=jpeg",
        *PLAIN,
    )
    assert result.exit_code == 0, result.stderr
    content = read_image(Path(result.stdout.strip()))
    assert (content["job"]["prompt"], content["job"]["negative_prompt"]) == (half, half)
    assert len(content["record"]["notes"]) == 2


@pytest.mark.parametrize(("prompt", "negative"), [("x" * 4001, ""), ("é" * 1500, "é" * 501)])
def test_longer_prompts_are_refused_before_anything_is_painted(
    prompt: str, negative: str, sdapp: Sdapp
) -> None:
    words = ("generate", prompt, "-n", negative, "--model", "postcards", "--steps", 1, "--seed", 7, "--set")
    result = sdapp(*words, "output.format=jpeg")
    assert result.exit_code == 2
    assert "room for 4,000 bytes of prompts, these have 4,00" in result.stderr
    assert "use png or webp" in result.stderr
    assert not Path("outputs").exists()
    assert sdapp(*words, "output.format=webp").exit_code == 0


def test_a_record_that_a_jpeg_has_no_room_for_is_told(tmp_path: Path) -> None:
    record = replace(RECORD, scheduler_config={"trained_betas": [0.00085] * 8000})
    result = Result(job(), 0, record, NOISE)
    with pytest.raises(ConfigError, match="does not fit into a JPEG; use png or webp"):
        save(result, Output(dir=str(tmp_path), format="jpeg"))
    assert list(tmp_path.iterdir()) == []
    assert (
        len(read_image(save(result, Output(dir=str(tmp_path), format="webp")))["record"]["scheduler_config"])
        == 1
    )


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_an_image_as_config_has_the_same_job_and_show_prints_it(format: str, sdapp: Sdapp) -> None:
    fast = ("--steps", 2, "--seed", 7, "--scheduler", "Euler a", "--set", f"output.format={format}")
    [first] = sdapp("generate", 'a "white" <cat> & co', *fast).stdout.split()
    assert Path(first).suffix == SUFFIXES[format]
    again = sdapp("generate", "--config", first, "--out", "again").stdout.strip()
    ids = [json.loads(sdapp("show", path, "--json").stdout)["record"]["job_id"] for path in (first, again)]
    assert ids[0] == ids[1]
    assert 'prompt: a "white" <cat> & co' in sdapp("show", first).stdout


def test_a_quality_that_a_png_has_not_is_told(sdapp: Sdapp) -> None:
    words = ("generate", "a cat", "--steps", 1, "--seed", 7, "--set", "output.quality=80")
    assert "output.quality has no effect on PNG" in sdapp(*words).stderr
    assert sdapp(*words, "--set", "output.format=webp").stderr == ""


@pytest.mark.parametrize("value", ["format=jpg", "quality=0", "quality=101", "quality=9.5"])
def test_other_formats_and_qualities_are_refused(value: str, sdapp: Sdapp) -> None:
    result = sdapp("generate", "a cat", "--set", f"output.{value}")
    assert result.exit_code == 2
    assert f"--set output.{value}: " in result.stderr
    assert "must be" in result.stderr


def test_a_job_is_done_in_the_format_that_is_asked_for(tmp_path: Path) -> None:
    for format, seed in (("png", 1), ("jpeg", 2), ("webp", 3), ("webp", 1)):
        write(tmp_path, format, seed=seed)
    (tmp_path / "text.jpg").write_text("no image")
    ids = [job(seed=seed).id for seed in (1, 2, 3)]
    done = {suffix: Finished(tmp_path, suffix).done for suffix in SUFFIXES.values()}
    assert done == {
        ".png": {ids[0]: "a.png"},
        ".jpg": {ids[1]: "a.jpg"},
        ".webp": {ids[2]: "a.webp", ids[0]: "a-2.webp"},
    }
