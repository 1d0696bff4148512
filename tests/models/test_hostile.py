"""Files and folders that were made to run code, to lie or to hang: none is executed, none ends in a traceback."""

import gzip
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from conftest import POSTCARDS
from headers import UNET, checkpoint, save_header
from sdapp.models.files import PICKLED

MARK = "executed"  # the file that the code in these files would make


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


CODE = f"open({MARK!r}, 'w').close()\n"
PICKLE = pickle.dumps({"state_dict": Evil()}, protocol=2)


def torch_zip() -> bytes:
    """A checkpoint as torch.save writes it."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensors(**changes: Any) -> bytes:
    """A checkpoint whose first tensor says something else of itself."""
    header, end = {}, 0
    for name, shape in ((f"{UNET}input_blocks.0.0.weight", [2, 4, 3, 3]), ("other", [2])):
        size = 2 * (72 if len(shape) > 1 else 2)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header[f"{UNET}input_blocks.0.0.weight"] |= changes
    return with_header(header, bytes(end))


def named(name: str) -> bytes:
    """A checkpoint with a tensor of this name, whose data end early."""
    entry = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}
    return with_header({name: entry, f"{UNET}input_blocks.0.0.weight": entry}, bytes(4))


PLACE = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}
CONTENTS: dict[str, bytes] = {
    "pickle.safetensors": PICKLE,
    "pickle-of-protocol-0.safetensors": pickle.dumps(Evil(), protocol=0),
    "pickle-of-protocol-5.safetensors": pickle.dumps(Evil(), protocol=5),
    "torch.safetensors": torch_zip(),
    "model.ckpt": torch_zip(),
    "MODEL.CKPT": PICKLE,
    "model.pt": torch_zip(),
    "model.pth": PICKLE,
    "model.bin": PICKLE,
    "model.pkl": PICKLE,
    "model.safetensors.ckpt": PICKLE,
    "model": PICKLE,
    "script.safetensors": f"#!/bin/sh\ntouch {MARK}\n".encode(),
    "python.safetensors": CODE.encode() * 10,
    "elf.safetensors": b"\x7fELF\x02\x01\x01" + bytes(100),
    "gzip.safetensors": gzip.compress(PICKLE),
    "page.safetensors": b"<html><script>alert(1)</script></html>",
    "gguf.safetensors": b"GGUF\x03\0\0\0" + bytes(100),
    "empty.safetensors": b"",
    "zeros.safetensors": bytes(1000),
    "header-of-0.safetensors": bytes(8),
    "header-of-2-to-63.safetensors": (1 << 63).to_bytes(8, "little") + bytes(100),
    "header-of-100-MB.safetensors": (100_000_000).to_bytes(8, "little") + b"{}",
    "header-past-the-end.safetensors": (5000).to_bytes(8, "little") + b'{"a": {}}',
    "header-no-json.safetensors": with_header(b"not json at all"),
    "header-no-text.safetensors": with_header(b"\xff\xfe\xfd\xfc"),
    "header-list.safetensors": with_header([1, 2]),
    "header-null.safetensors": with_header(None),
    "header-deep.safetensors": with_header(b"[" * 90_000),
    "header-number.safetensors": with_header(b"9" * 5000),
    "metadata-list.safetensors": with_header({"__metadata__": [1], "a": PLACE}, bytes(4)),
    "tensor-null.safetensors": with_header({f"{UNET}input_blocks.0.0.weight": None}),
    "offsets-negative.safetensors": tensors(data_offsets=[-8, 136]),
    "offsets-backwards.safetensors": tensors(data_offsets=[144, 0]),
    "offsets-far.safetensors": tensors(data_offsets=[0, 1 << 62]),
    "offsets-overlap.safetensors": tensors(data_offsets=[0, 148]),
    "offsets-hole.safetensors": tensors(data_offsets=[0, 100]),
    "offsets-text.safetensors": tensors(data_offsets=["0", "144"]),
    "offsets-one.safetensors": tensors(data_offsets=[144]),
    "shape-huge.safetensors": tensors(shape=[1 << 40, 1 << 40]),
    "shape-negative.safetensors": tensors(shape=[-2, 4, -3, 3]),
    "shape-text.safetensors": tensors(shape="2433"),
    "shape-float.safetensors": tensors(shape=[2.0, 4.0, 3.0, 3.0]),
    "dtype-unknown.safetensors": tensors(dtype="X7"),
    "dtype-wider.safetensors": tensors(dtype="F64"),
    "dtype-list.safetensors": tensors(dtype=["F16"]),
    "data-too-long.safetensors": with_header({f"{UNET}input_blocks.0.0.weight": PLACE}, PICKLE),
    "name-of-escapes.safetensors": named("\x1b]0;pwned\x07\x1b[2J"),
    "name-of-lines.safetensors": named("x\ncode evil\ncontext 2048"),
    "name-long.safetensors": named("n" * 1_000_000),
    "many-tensors.safetensors": with_header({f"t{i}": PLACE for i in range(50_000)}, bytes(4)),
}
Change = Callable[[Path], object]


def index(**facts: Any) -> Change:
    return config("model_index.json", **facts)


def config(file: str, **facts: Any) -> Change:
    def change(folder: Path) -> None:
        before = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps(before | facts))

    return change


def text(file: str, content: str) -> Change:
    return lambda folder: (folder / file).write_text(content)


def replaced(file: str, make: Change) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return change


def only_pickles(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(PICKLE)


def with_code_beside(folder: Path) -> None:
    for name in (
        "pipeline.py",
        "unet/my_unet.py",
        "scheduler/scheduler.py",
        "text_encoder/modeling.py",
        "model.py",
    ):
        (folder / name).write_text(CODE)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
REMOTE = {"AutoModel": "modeling.Evil", "AutoTokenizer": ["tokenization.Evil", None]}


def elsewhere(folder: Path) -> None:
    """Whole, but its UNet is a link to a folder beside it."""
    (folder / "unet").rename(folder.parent / "unet")
    (folder / "unet").symlink_to(folder.parent / "unet")


FOLDERS: dict[str, Change] = {
    "a part of its own library": index(unet=["my_unet", "MyUNet"]),
    "a tokenizer of its own library": index(tokenizer=["tokenization", "Evil"]),
    "a scheduler of its own library": index(scheduler=["scheduler", "Evil"]),
    "the library os": index(text_encoder=["os", "system"]),
    "a path as library": index(vae=["../../evil", "Evil"]),
    "a function as class": index(text_encoder=["transformers", "pipeline"]),
    "a pipeline as part": index(unet=["diffusers", "DiffusionPipeline"]),
    "a class that reads auto_map": index(text_encoder=["transformers", "AutoModel"]),
    "an attribute path as class": index(vae=["diffusers", "utils.os.system"]),
    "a pipeline with code": index(_class_name=["pipeline", "Evil"]),
    "custom_pipeline": index(custom_pipeline="pipeline.py"),
    "custom_pipeline of the Hub": index(custom_pipeline="evil/pipeline"),
    "auto_map of the text encoder": config("text_encoder/config.json", auto_map=REMOTE),
    "auto_map of the UNet": config("unet/config.json", auto_map=REMOTE),
    "auto_map of the tokenizer": config("tokenizer/tokenizer_config.json", auto_map=REMOTE),
    "an index that is a list": text("model_index.json", "[]"),
    "an index that is deep": text("model_index.json", "[" * 100_000),
    "a part that is null": index(unet=None),
    "a config that is a program": text("unet/config.json", CODE),
    "only pickled weights": only_pickles,
    "pickled weights by the name of safetensors": lambda folder: (folder / WEIGHTS).write_bytes(PICKLE),
    "weights that are a pipe": replaced(WEIGHTS, os.mkfifo),
    "weights that are a device": replaced(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    "weights that are a loop": replaced(WEIGHTS, lambda path: path.symlink_to(path)),
    "weights that lead to nothing": replaced(WEIGHTS, lambda path: path.symlink_to("/nothing")),
    "weights that lead to a secret": replaced(WEIGHTS, lambda path: path.symlink_to("/etc/passwd")),
    "a config that is a pipe": replaced("unet/config.json", os.mkfifo),
    "a config that leads to a secret": replaced("unet/config.json", lambda path: path.symlink_to("/etc/passwd")),
    "a part that is elsewhere": elsewhere,
}  # fmt: skip


def check(run: Any, secret: str = "root:") -> None:
    assert run.exit_code in (65, 69), run.output
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.output
    assert "\x1b" not in run.stderr
    assert secret not in run.stderr
    assert len(run.stderr) < 5000
    assert not Path(MARK).exists()


@pytest.mark.parametrize("name", CONTENTS)
def test_a_hostile_file_is_refused(name: str, sdapp: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(CONTENTS[name])
    check(sdapp("generate", "a cat", "--steps", 1, "--model", f"./{name}"))
    check(sdapp("generate", "a cat", "--steps", 1, "--set", f"vae=./{name}"))


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_hostile_folder_is_refused(kind: str, sdapp: Callable[..., Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(POSTCARDS, tmp_path / "model"))
    with_code_beside(folder)
    FOLDERS[kind](folder)
    check(sdapp("generate", "a cat", "--steps", 1, "--model", "model"))


def test_code_that_lies_beside_a_model_is_not_run(sdapp: Callable[..., Any], tmp_path: Path) -> None:
    with_code_beside(Path(shutil.copytree(POSTCARDS, tmp_path / "model")))
    run = sdapp("generate", "a cat", "--steps", 1, "--model", "model")
    assert run.exit_code == 0, run.stderr
    assert not Path(MARK).exists()


def test_whatever_it_is_its_listing_says_so_without_a_traceback(
    sdapp: Callable[..., Any], tmp_path: Path
) -> None:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    save_header(tmp_path / "good.safetensors", checkpoint())
    assert sdapp("config", "set", "folders.models", tmp_path).exit_code == 0
    listed = sdapp("models", "--json")
    assert listed.exit_code == 0
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    problems = {Path(row["path"]).name: row["problem"] for row in rows}
    assert problems.pop("good.safetensors") is None
    assert problems.pop("postcards") is None
    assert problems.keys() == {
        name for name in CONTENTS if Path(name).suffix.lower() in (".safetensors", *PICKLED)
    }
    assert all(problems.values())
    assert "\x1b" not in sdapp("models").stdout
