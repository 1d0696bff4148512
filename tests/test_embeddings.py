"""Textual inversion in prompts, options, configs and prompt files: painted, recorded, replayed and refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import Result

from sdapp.metadata.record import read_header

Run = Callable[..., Result]


def embedding(path: Path, seed: int = 1, vectors: int = 3, key: str = "emb_params", width: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = torch.randn(vectors, width, generator=torch.Generator().manual_seed(seed)) * 3
    save_file({key: found}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, sdapp: Run) -> Path:
    """The user's folder of embeddings."""
    embedding(tmp_path / "embeddings" / "Mood.safetensors")
    embedding(tmp_path / "embeddings" / "deep" / "bad-hands.safetensors", 2, 1)
    assert sdapp("config", "set", "folders.embeddings", tmp_path / "embeddings").exit_code == 0
    return tmp_path / "embeddings"


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def paint(sdapp: Run, model: Path, prompt: str, *arguments: object) -> Path:
    done = sdapp("generate", prompt, "--model", model, "--seed", 7, "--steps", 2, *arguments)
    assert done.exit_code == 0, done.stderr
    return Path(done.stdout.strip())


def job(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_header(path)["job"]
    return found


def test_a_name_in_the_folder_counts_in_both_prompts_and_is_in_record_and_infotext(
    sdapp: Run, tiny: Callable[..., Path], folder: Path
) -> None:
    path = paint(sdapp, tiny(), "a (mood:1.2) house", "-n", "bad-hands, tree")
    digest = hashlib.sha256((folder / "Mood.safetensors").read_bytes()).hexdigest()
    assert [each["name"] for each in job(path)["embeddings"]] == ["Mood", "bad-hands"]
    assert job(path)["embeddings"][0] == {
        "file": "./../embeddings/Mood.safetensors", "name": "Mood", "sha256": digest
    }  # fmt: skip
    text = Image.open(path).info["parameters"]
    assert f'TI hashes: "Mood: {digest[:12]}, bad-hands: ' in text
    without = paint(sdapp, tiny(), "a (mood:1.2) house", "-n", "bad-hands, tree", "--set", "embeddings=[]")
    assert job(without)["embeddings"] == []
    assert (pixels(path) != pixels(without)).any()
    assert "TI hashes" not in Image.open(without).info["parameters"]


def test_a_file_can_have_another_name_and_the_id_depends_on_name_and_content(
    sdapp: Run, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    embedding(tmp_path / "a.safetensors")
    embedding(tmp_path / "b.safetensors")
    embedding(tmp_path / "c.safetensors", 2)
    ids = [
        read_header(paint(sdapp, tiny(), "a mood", "--embedding", f"{file}.safetensors:mood"))["record"][
            "job_id"
        ]
        for file in "abc"
    ]
    assert ids[0] == ids[1] != ids[2]
    assert read_header(paint(sdapp, tiny(), "a mood"))["record"]["job_id"] not in ids


def test_an_image_without_embeddings_stays_so_when_the_folder_gets_one_of_its_words(
    sdapp: Run, tiny: Callable[..., Path], folder: Path
) -> None:
    path = paint(sdapp, tiny(), "a house")
    embedding(folder / "house.safetensors")
    done = sdapp("replay", path, "--verify")
    assert (done.exit_code, "difference 0 of 255" in done.stdout) == (0, True), done.stderr


def test_an_image_is_replayed_with_its_embeddings(
    sdapp: Run, tiny: Callable[..., Path], folder: Path
) -> None:
    path = paint(sdapp, tiny(), "a mood", "-n", "bad-hands")
    done = sdapp("replay", path, "--verify")
    assert (done.exit_code, "difference 0 of 255" in done.stdout) == (0, True), done.stderr
    (folder / "Mood.safetensors").rename(folder / "other.safetensors")
    moved = sdapp("replay", path, "--verify")
    assert (moved.exit_code, "difference 0 of 255" in moved.stdout) == (0, True), moved.stderr
    (folder / "other.safetensors").unlink()
    embedding(folder / "Mood.safetensors", 5)
    changed = sdapp("replay", path, "--verify")
    assert changed.exit_code == 65
    assert "Mood.safetensors is not the file that was used: its SHA-256 is" in changed.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "a mood --embeddings embeddings/Mood.safetensors\na mood\na x, a y --embedding embeddings/Mood.safetensors:x, "
         "embeddings/deep/bad-hands.safetensors:y\n"),
        ("lines.csv", 'prompt,embeddings\na mood,embeddings/Mood.safetensors\na mood,\n"a x, a y",'
         '"embeddings/Mood.safetensors:x,embeddings/deep/bad-hands.safetensors:y"\n'),
        ("lines.jsonl", '{"prompt": "a mood", "embeddings": "embeddings/Mood.safetensors"}\n{"prompt": "a mood"}\n'
         '{"prompt": "a x, a y", "embeddings": [{"file": "embeddings/Mood.safetensors", "name": "x"}, "embeddings/deep/bad-hands.safetensors:y"]}\n'),
        ("lines.yaml", "- {prompt: a mood, embeddings: embeddings/Mood.safetensors}\n- prompt: a mood\n"
         "- {prompt: 'a x, a y', embeddings: ['embeddings/Mood.safetensors:x', 'embeddings/deep/bad-hands.safetensors:y']}\n"),
    ],
)  # fmt: skip
def test_each_line_of_a_prompt_file_has_its_own_embeddings(
    name: str, content: str, sdapp: Run, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    embedding(tmp_path / "embeddings" / "Mood.safetensors")
    embedding(tmp_path / "embeddings" / "deep" / "bad-hands.safetensors", 2, 1)
    (tmp_path / name).write_text(content)
    common = ("--model", tiny(), "--seed", 7, "--seeds", "same", "--steps", 2)
    done = sdapp(
        "batch", name, *common, "--set", "output.name={index}", "--set", "batch_size=3", "--out", "images"
    )
    assert done.exit_code == 0, done.stderr
    by_hand = [
        ("a mood", "--embedding", "embeddings/Mood.safetensors"),
        ("a mood",),
        ("a x, a y", "--embedding", "embeddings/Mood.safetensors:x", "--embedding",
         "embeddings/deep/bad-hands.safetensors:y"),
    ]  # fmt: skip
    images = sorted((tmp_path / "images").glob("*.png"))
    for path, asked in zip(images, by_hand, strict=True):
        alone = paint(sdapp, tiny(), *asked)
        assert job(path)["embeddings"] == job(alone)["embeddings"]
        assert np.abs(pixels(alone) - pixels(path)).max() <= 1


def test_many_vectors_take_more_chunks_and_the_dry_run_says_so(
    sdapp: Run, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    embedding(tmp_path / "mood.safetensors", vectors=60)
    (tmp_path / "lines.txt").write_text("mood (mood:1.2)\n")
    asked = ("batch", "lines.txt", "--model", tiny(), "--embedding", "mood.safetensors", "--steps", 1)
    assert "prompt: 2 chunks of up to 75 tokens: 60 + 60" in sdapp(*asked, "--dry-run").stderr
    done = sdapp(*asked, "--seed", 1)
    assert done.exit_code == 0, done.stderr


def test_what_is_in_no_prompt_is_noted(sdapp: Run, tiny: Callable[..., Path], tmp_path: Path) -> None:
    embedding(tmp_path / "mood.safetensors")
    done = sdapp("generate", "a cat", "--model", tiny(), "--embedding", "mood.safetensors", "--steps", 1)
    assert "embeddings: 'mood' is not in the prompts, so it has no effect" in done.stderr
    assert job(Path(done.stdout.strip()))["embeddings"] == []


def test_a_file_of_diffusers_has_its_word_inside(
    sdapp: Run, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    embedding(tmp_path / "learned_embeds.safetensors", key="<cat-toy>")
    path = paint(sdapp, tiny(), "a <cat-toy>", "--embedding", "learned_embeds.safetensors")
    assert [each["name"] for each in job(path)["embeddings"]] == ["<cat-toy>"]


def tensors(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda _: None, 66, "embeddings: mood.safetensors: no such file"),
        (lambda path: save_file(tensors(a=(1, 32), b=(1, 32)), path), 65, "no embedding: it has 2 tensors"),
        (lambda path: save_file(tensors(a=(1, 32, 2)), path), 65, "is no embedding"),
        (lambda path: save_file(tensors(a=(76, 32)), path), 65, "has 76 vectors; allowed: 1 to 75"),
        (lambda path: save_file(tensors(clip_l=(1, 32), clip_g=(2, 48)), path), 65, "has 1 and 2 vectors"),
        (lambda path: save_file(tensors(a=(1, 768)), path), 2,
         "is for Stable Diffusion 1.x, its vectors are 768 wide; "),
        (lambda path: save_file(tensors(clip_l=(1, 768), clip_g=(1, 1280)), path), 2,
         "is for Stable Diffusion XL, its vectors are 768 + 1280 wide; "),
        (lambda path: path.write_bytes(b"\x80\x04pickle" * 9), 69, "embeddings: mood.safetensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_the_model_is_loaded(
    make: Callable[[Path], object],
    code: int,
    message: str,
    sdapp: Run,
    tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    make(tmp_path / "mood.safetensors")
    done = sdapp("generate", "a mood", "--model", tiny(), "--embedding", "mood.safetensors")
    assert done.exit_code == code
    assert message in done.stderr


def test_a_pickle_in_the_folder_is_refused_where_it_is_named_only(
    sdapp: Run, tiny: Callable[..., Path], folder: Path
) -> None:
    (folder / "old.pt").write_bytes(b"PK\x03\x04")
    paint(sdapp, tiny(), "a cat")
    done = sdapp("generate", "an old cat", "--model", tiny())
    assert done.exit_code == 69
    assert "old.pt is not safetensors; a pickled checkpoint can run code" in done.stderr


def test_a_folder_that_is_not_there_is_named(sdapp: Run) -> None:
    done = sdapp("generate", "a cat", "--set", "folders.embeddings=nowhere")
    assert (done.exit_code, "folders.embeddings: there is no folder nowhere" in done.stderr) == (66, True)


def test_plain_prompts_have_no_embeddings(sdapp: Run, tiny: Callable[..., Path], folder: Path) -> None:
    path = paint(sdapp, tiny(), "a mood", "--set", "prompt_syntax=plain")
    assert job(path)["embeddings"] == []
    both = ("--set", "prompt_syntax=plain", "--embedding", folder / "Mood.safetensors")
    done = sdapp("generate", "a mood", *both)
    assert (done.exit_code, "prompt_syntax: plain reads every word as text" in done.stderr) == (2, True)


def test_sdapp_tokens_shows_embeddings(sdapp: Run, tiny: Callable[..., Path], folder: Path) -> None:
    done = sdapp("tokens", "a (mood:1.3) house, bad-hands")
    assert done.stdout == "chunk 1, 7 of 75 tokens: a <Mood: 3 vectors>×1.3 house , <bad-hands: 1 vector>\n"
    found = json.loads(sdapp("tokens", "mood", "--json").stdout)["tokens"]
    assert found == [{"embedding": "Mood", "vector": i, "weight": 1.0} for i in range(3)]
    alone = sdapp("tokens", "a mood", "--embedding", folder / "deep" / "bad-hands.safetensors:mood")
    assert "<mood: 1 vector>" in alone.stdout
    assert (
        "is for a model with text embeddings 32 wide"
        in sdapp("tokens", "mood", "--model", "postcards").stderr
    )
