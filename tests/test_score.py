"""`score: clip`: how alike image and prompt are, in records, ledgers and galleries, by a real CLIP with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from browser import Open
from conftest import POSTCARDS
from sdapp.batches.ledger import read_ledger
from sdapp.gallery.gallery import build_gallery
from sdapp.metadata.record import read_header

Command = Callable[..., Any]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 8,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(POSTCARDS / "tokenizer", local_files_only=True)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = SIZES | ends | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    vision = SIZES | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():  # weights as large as those of a trained one: the images differ
        for each in model.parameters():
            each.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def exact(folder: Path, image: Path, text: str) -> float:
    """As transformers computes it with the files of the model."""
    model, prepare = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    with Image.open(image) as opened, torch.no_grad():
        output = model(**prepare(text=[text], images=[opened.convert("RGB")], return_tensors="pt"))
    return float(torch.cosine_similarity(output.image_embeds, output.text_embeds))


def test_records_ledger_and_gallery_have_it_and_nothing_else_changes(
    clip: Path, sdapp: Command, tiny: Callable[..., Path], visit: Open
) -> None:
    Path("prompts.txt").write_text("a (red:1.2) house\na sea\na blue ship\n")
    shared = ("batch", "prompts.txt", "--model", tiny(), "--steps", 2, "--seed", 1)
    result = sdapp(*shared, "--out", "scored", "--set", "score=clip", "--set", f"score.model={clip}")
    assert result.exit_code == 0, result.output
    scored = [Path(line) for line in result.stdout.splitlines()]
    plain = [Path(line) for line in sdapp(*shared, "--out", "plain").stdout.splitlines()]
    found = {}
    for path, other, text in zip(scored, plain, ("a red house", "a sea", "a blue ship"), strict=True):
        content, before = read_header(path), read_header(other)
        found[path.name] = content["record"]["clip_similarity"]
        assert found[path.name] == pytest.approx(exact(clip, path, text), abs=1e-4)
        assert Image.open(path).tobytes() == Image.open(other).tobytes()
        assert content["job"] == before["job"]
        assert content["record"]["job_id"] == before["record"]["job_id"]
        assert before["record"]["clip_similarity"] is None
    assert len(set(found.values())) == 3
    assert {line.file: line.clip_similarity for line in read_ledger(Path("scored"))} == found
    page = visit(build_gallery(Path("scored").resolve()).path)
    page.locator("#order").select_option("most")
    order = sorted(found, key=lambda name: -found[name])
    files = [f"{name[:4].lstrip('0')}" for name in order]
    notes = page.locator(".tile .note").all_inner_texts()
    by_place = {page.locator(f'.tile[data-place="{place}"] .note').inner_text() for place in (0,)}
    assert all("CLIP similarity" in note for note in notes)
    assert by_place.pop().startswith(f"line {files[0]} ")
    assert visit(build_gallery(Path("plain").resolve()).path).locator("#order").is_hidden()


def test_one_image_with_its_score_as_json(clip: Path, sdapp: Command, tiny: Callable[..., Path]) -> None:
    Path("own.yaml").write_text(f"score: {{kind: clip, model: {clip}}}\nsteps: 2\nseed: 1\n")
    result = sdapp("generate", "a sea", "--model", tiny(), "--config", "own.yaml", "--json")
    assert -1 <= json.loads(result.stdout)["record"]["clip_similarity"] <= 1


def test_what_is_refused(clip: Path, sdapp: Command, tiny: Callable[..., Path], tmp_path: Path) -> None:
    def refused(*sets: object) -> str:
        given = [part for each in sets for part in ("--set", each)]
        result = sdapp("generate", "a sea", "--model", tiny(), *given)
        assert result.exit_code in (2, 69), result.output
        return str(result.stderr)

    assert "score.kind: must be 'clip'" in refused("score=beauty")
    assert "score.model: no folder or file none" in refused("score.model=none")
    assert "is not in the cache and" in refused("score=clip")
    assert "is CLIPTextModel, no CLIPModel" in refused(f"score.model={tiny() / 'text_encoder'}")
    for name, message in (
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "has no tokenizer.json"),
    ):
        broken = shutil.copytree(clip, tmp_path / name)
        (broken / name).unlink()
        assert message in refused(f"score.model={broken}")
