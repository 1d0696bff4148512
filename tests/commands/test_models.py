"""`sdapp models` and `sdapp show` of model files."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import POSTCARDS
from headers import checkpoint, save_header

Run = Callable[..., Any]
COMMIT = "a" * 40
LORA = {
    "lora_unet_output_blocks_3_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048),
    "lora_unet_output_blocks_3_1_transformer_blocks_0_attn2_to_k.lora_up.weight": (640, 8),
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sdapp: Run) -> Path:
    """A Hub cache with one model, and a folder of models with more."""
    repo = tmp_path / "hub" / "models--org--dreamer"
    shutil.copytree(POSTCARDS, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "models"
    (folder / "inside").mkdir(parents=True)
    shutil.copytree(POSTCARDS, folder / "folder")
    save_header(folder / "noob.safetensors", checkpoint(4, 2048, v_pred=(), ztsnr=()))
    save_header(folder / "inside" / "paint.safetensors", checkpoint(9))
    save_header(folder / "flux.safetensors", {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)})
    save_header(folder / "ink.safetensors", LORA)
    (folder / "broken.safetensors").write_bytes(b"\0" * 9)
    (folder / "old.ckpt").write_bytes(b"\x80\x02pickle")
    assert sdapp("config", "set", "folders.models", "models").exit_code == 0
    return folder


def test_models_lists_what_is_on_this_machine_and_what_is_refused(machine: Path, sdapp: Run) -> None:
    listed = sdapp("models", "--json")
    assert listed.exit_code == 0, listed.stderr
    rows = {Path(row["name"]).name: row for row in map(json.loads, listed.stdout.splitlines())}
    assert list(rows) == [
        "postcards", "dreamer", "broken.safetensors", "flux.safetensors", "folder", "ink.safetensors",
        "paint.safetensors", "noob.safetensors", "old.ckpt",
    ], listed.stdout  # fmt: skip
    assert rows["dreamer"]["revision"] == COMMIT
    assert rows["dreamer"]["size"] == rows["postcards"]["size"] > 20_000_000
    noob, paint = rows["noob.safetensors"], rows["paint.safetensors"]
    assert (noob["what"], noob["side"], noob["prediction"], noob["zero_snr"]) == (
        "Stable Diffusion XL", 1024, "v_prediction", True,
    )  # fmt: skip
    assert (paint["what"], paint["channels"], paint["problem"]) == ("Stable Diffusion 1.x", 9, None)
    what = {name: row["what"] for name, row in rows.items() if row["problem"]}
    assert what == {
        "broken.safetensors": "damaged",
        "flux.safetensors": "FLUX",
        "ink.safetensors": "LoRA for Stable Diffusion XL",
        "old.ckpt": "pickled checkpoint",
    }
    plain = sdapp("models")
    lines = plain.stdout.splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[-2].split("  ")[0].endswith("ink.safetensors")
    assert "no: LoRA for Stable Diffusion XL" in lines[-2]
    assert "note: a pickled checkpoint can run code, so it is not read. Convert it once" in plain.stderr
    assert "can run code" in sdapp("show", machine / "old.ckpt").stdout
    assert any("Stable Diffusion 1.x, inpainting" in line for line in lines)
    assert any(line.startswith("org/dreamer ") and line.endswith(COMMIT[:10]) for line in lines)


def test_show_says_what_a_file_is_and_its_hash(machine: Path, sdapp: Run) -> None:
    file = machine / "noob.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads(sdapp("show", file, "--json").stdout)["sha256"] == digest
    shown = yaml.safe_load(sdapp("show", file).stdout)
    assert (shown["what"], shown["zero_snr"], shown["model_hash"]) == (
        "Stable Diffusion XL",
        "yes",
        digest[:10],
    )
    listed = sdapp("models").stdout.splitlines()  # the hash is known now
    assert any(line.endswith(digest[:10]) for line in listed)
    assert (
        yaml.safe_load(sdapp("show", machine / "ink.safetensors").stdout)["what"]
        == "LoRA for Stable Diffusion XL"
    )
    assert yaml.safe_load(sdapp("show", machine / "folder").stdout)["channels"] == 4
    assert sdapp("show", "nothing.safetensors").exit_code == 66


def test_a_hash_is_computed_again_when_the_file_changes(machine: Path, sdapp: Run) -> None:
    file = machine / "ink.safetensors"
    before = json.loads(sdapp("show", file, "--json").stdout)["sha256"]
    save_header(file, LORA | {"lora_te_x.alpha": ()})
    after = json.loads(sdapp("show", file, "--json").stdout)["sha256"]
    assert before != after == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["./models", "models", "a b/c", "org/name/more", "C:\\models"])
def test_pull_wants_an_id(name: str, sdapp: Run) -> None:
    run = sdapp("pull", name)
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1)
    assert "is no id of the Hub" in run.stderr
