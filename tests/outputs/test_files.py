import errno
import json
import multiprocessing
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError

from sdapp.errors import DiskFullError, InputError, JobsFailedError, MissingInputError, OutputError
from sdapp.jobs import Job
from sdapp.metadata.record import read_image
from sdapp.outputs.files import check_folder, publish
from sdapp.outputs.naming import RESERVED, file_stem
from sdapp.outputs.writer import save
from sdapp.records import Record, Result
from sdapp.settings.hardware import Memory
from sdapp.settings.output import PLACEHOLDERS, Output
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.tasks import Txt2Img


def job(**changes: Any) -> Job:
    return Job(**{
        "model": "postcards", "revision": None, "dtype": "float32", "scheduler": SchedulerChoice(name="ddim"), "steps": 20,
        "guidance_scale": 7.5, "negative_prompt": "", "width": 64, "height": 64, "seed": 7, "task": Txt2Img(),
        "prompt": "A red house!", "eta": None, "clip_skip": 0, "memory": Memory(), "inputs": {},
    } | changes)  # fmt: skip


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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- publishing ---------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_overwritten(tmp_path: Path) -> None:
    paths = [publish(data, tmp_path / "new" / "folder", "cat", ".png") for data in (b"1", b"2", b"3")]
    assert [(path.name, path.read_bytes()) for path in paths] == [
        ("cat.png", b"1"),
        ("cat-2.png", b"2"),
        ("cat-3.png", b"3"),
    ]
    assert names(tmp_path / "new" / "folder") == ["cat-2.png", "cat-3.png", "cat.png"]


def test_even_an_empty_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cat.png").mkdir()
    assert publish(b"1", tmp_path, "cat", ".png").name == "cat-2.png"


@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK], ids=errno.errorcode.get
)
def test_a_disk_without_links_serves_as_well(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    paths = [publish(data, tmp_path, "cat", ".png") for data in (b"1", b"2")]
    assert [(path.name, path.read_bytes()) for path in paths] == [("cat.png", b"1"), ("cat-2.png", b"2")]
    assert names(tmp_path) == ["cat-2.png", "cat.png"]


def test_a_disk_that_fails_while_linking_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OutputError, match=r"^cannot write .*cat\.png: Input/output error"):
        publish(b"1", tmp_path, "cat", ".png")
    assert names(tmp_path) == []


def publish_many(folder: Path, process: int) -> None:
    for i in range(50):
        publish(f"{process}/{i}".encode(), folder, "cat", ".png")


def test_eight_processes_with_one_name_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=publish_many, args=(tmp_path, process)) for process in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert names(tmp_path) == sorted(["cat.png", *(f"cat-{i}.png" for i in range(2, 401))])
    assert {path.read_text() for path in tmp_path.iterdir()} == {
        f"{process}/{i}" for process in range(8) for i in range(50)
    }


FILE_TOO_LARGE = """
import resource, sys
from pathlib import Path
from sdapp.errors import DiskFullError, OutputError
from sdapp.outputs.files import publish
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    publish(bytes(5000), Path(sys.argv[1]), "cat", ".png")
except OutputError as exc:
    print(exc)
"""


def test_a_full_disk_is_told_and_leaves_no_part_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_TOO_LARGE, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cannot write {tmp_path}/cat.png: File too large; finished files are safe\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize("folder", ["file", "file/below", "x" * 300], ids=lambda folder: folder[:6])
def test_a_folder_that_cannot_be_is_refused_before_and_while_publishing(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"^output\.dir: cannot write to .*; choose another with --out$"):
        check_folder(tmp_path / folder)
    with pytest.raises(OutputError, match=r"^cannot write "):
        publish(b"1", tmp_path / folder, "cat", ".png")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]


def test_a_disk_that_is_full_from_the_start_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_room)
        with pytest.raises(DiskFullError, match="No space left on device"):
            check_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        check_folder(tmp_path)


def test_a_good_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "stem"),
    [
        ("{prompt}-{seed}", "A-red-house-7"),
        ("{index}_{scheduler}_{steps}", "0003_ddim_20"),
        ("{width}x{height} g{guidance_scale} {task}", "64x64 g7.5 txt2img"),
        ("{model}", "postcards"),
        ("{id}", job().id),
        ("..{seed}..", "7"),
        ("-{seed}", "7"),
        ("~{seed}", "7"),
        ("- {seed}", "7"),
        ("-.{seed}", "7"),
        ("CON", "CON_"),
        ("con.{seed}", "con_.7"),
        ("---", "image"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_a_template_becomes_a_name(template: str, stem: str) -> None:
    assert file_stem(Output(name=template).name, job(), 3) == stem


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [
        ("", "empty"),
        ("🏠" * 70, "empty"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\0b\nc", "a-b-c"),
        ("un café, été", "un-café-été"),
        ("красный дом", "красный-дом"),
        ("नमस्ते दुनिया", "नमस्ते-दुनिया"),
        ("\u202egnp.exe", "gnp-exe"),
        ("nul", "nul_"),
        ("x" * 500, "x" * 80),
        ("é" * 500, "é" * 40),
        ("{seed}", "seed"),
    ],
)  # fmt: skip
def test_a_prompt_becomes_a_name(prompt: str, stem: str) -> None:
    assert file_stem("{prompt}", job(prompt=prompt), 0) == stem


@pytest.mark.parametrize(
    ("model", "stem"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5"),
        ("/models/mine.safetensors", "mine"),
        ("./models/mine", "mine"),
        ("org/model-2.1", "model-2-1"),
    ],
)
def test_a_model_becomes_a_name(model: str, stem: str) -> None:
    assert file_stem("{model}", job(model=model), 0) == stem


PIECES = [
    *(f"{{{token}}}" for token in PLACEHOLDERS), "..", ".", " ", "-", "~", "_", "CON", "nul", "com1", "🏠" * 70, "x" * 300,
    "\u202e", "\u05d0\u05d1", "e\u0301", "\u2028",
]  # fmt: skip
TEMPLATES = st.lists(
    st.sampled_from(PIECES) | st.text(" .-~x", max_size=5) | st.text(max_size=5), max_size=5
).map("".join)
PROMPTS = st.text(max_size=300) | st.sampled_from(
    ["../" * 50, "\0", "🏠" * 70, "\u202egnp", "-rf", "CON", "été " * 99, "/"]
)


@settings(max_examples=500, deadline=None)
@given(template=TEMPLATES, prompt=PROMPTS, model=PROMPTS.filter(bool))
def test_every_name_is_one_safe_file_inside_its_folder(
    template: str, prompt: str, model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        name = Output(name=template).name
    except ValidationError:
        return
    stem = file_stem(name, job(prompt=prompt, model=model), 10**6)
    file = Path(f"{stem}-999999.png")
    assert file.name == str(file)
    assert not stem.startswith((".", "-", "~", " "))
    assert stem == stem.strip(" .")
    assert stem.partition(".")[0].strip().lower() not in RESERVED
    assert len(os.fsencode(file)) <= 255
    path = tmp_path_factory.getbasetemp() / file
    path.touch()
    path.unlink()


# --- reading back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["A red house!", "", "🏠 été \u2028 \0 \n </script>", "x" * 200_000])
def test_an_image_carries_its_job_and_its_record(prompt: str, tmp_path: Path) -> None:
    painted = job(prompt=prompt)
    path = save(
        Result(painted, 0, RECORD, Image.new("RGB", (64, 64), "red")), Output(dir=str(tmp_path), name="a")
    )
    content = read_image(path)
    assert Job.model_validate(content["job"]) == painted
    assert content["record"]["scheduler_config"] == {"steps_offset": 1}
    with Image.open(path) as image:
        assert (image.format, image.getpixel((0, 0))) == ("PNG", (255, 0, 0))


def test_a_result_without_an_image_says_why(tmp_path: Path) -> None:
    with pytest.raises(JobsFailedError, match=r"^seed 7: not finite$"):
        save(Result(job(), 0, RECORD, None, "not finite"), Output(dir=str(tmp_path)))
    assert names(tmp_path) == []


def png(folder: Path, text: str | None = None, size: int = 64) -> Path:
    info = PngInfo()
    if text is not None:
        info.add_itxt("sdapp", text)
    Image.new("RGB", (size, size), "red").save(folder / "a.png", pnginfo=info)
    return folder / "a.png"


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "{}", '{"job": 5}', '{"job": ' + "[" * 100_000, "null"],
    ids=lambda text: str(text)[:12],
)
def test_an_image_without_a_record_of_ours_is_refused(text: str | None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: (has no sdapp record inside|its record is broken)"):
        read_image(png(tmp_path, text))


@pytest.mark.parametrize("keep", [0, 8, 30, 60, 150])
def test_a_truncated_image_is_broken_and_not_missing(keep: int, tmp_path: Path) -> None:
    path = png(tmp_path, json.dumps({"job": {}}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as refusal:
        read_image(path)
    assert refusal.type is InputError
    assert str(path) in str(refusal.value)


def test_another_format_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg: has no sdapp record"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_an_image_that_claims_to_be_huge_is_refused(side: int, tmp_path: Path) -> None:
    path = png(tmp_path, json.dumps({"job": {}}))
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_image(path)


@pytest.mark.parametrize("name", ["none.png", "."])
def test_a_file_that_cannot_be_opened_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="cannot read "):
        read_image(tmp_path / name)
