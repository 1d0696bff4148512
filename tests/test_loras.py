"""LoRAs in configs, options and prompt files: painted, recorded, compared and refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from typer.testing import Result

from sdapp.batches.ledger import LEDGER_FILE
from sdapp.jobs import LoadKey
from sdapp.metadata.record import read_header
from sdapp.models.locate import locate
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.settings.additions import Lora
from sdapp.settings.layers import Layer
from sdapp.validation import validate
from test_embeddings import embedding

LAYER = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
Run = Callable[..., Result]


def lora(path: Path, seed: int, size: int = 64, **more: torch.Tensor) -> Path:
    """A file that changes one layer of the tiny model a lot."""
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((size, 4), (4, size)))
    save_file({f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down, **more}, path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "loras").mkdir()
    lora(tmp_path / "loras" / "ink.safetensors", 1)
    lora(tmp_path / "loras" / "oil.safetensors", 2)
    return tmp_path / "loras"


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def paint(sdapp: Run, model: Path, *arguments: object) -> dict[str, Any]:
    done = sdapp("generate", "a cat", "--model", model, "--seed", 7, "--steps", 2, "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    return {"path": found["path"], "job_id": found["record"]["job_id"]}


def test_a_lora_changes_the_image_by_its_weight_and_is_in_id_record_and_infotext(
    sdapp: Run, tiny: Callable[..., Path], files: Path
) -> None:
    without, zero, half, whole = (
        paint(sdapp, tiny(), *more)
        for more in (
            (),
            ("--lora", "loras/ink.safetensors:0"),
            ("--lora", "loras/ink.safetensors:0.5"),
            ("--lora", "loras/ink.safetensors"),
        )
    )
    assert zero["job_id"] == without["job_id"]
    assert len({run["job_id"] for run in (without, half, whole)}) == 3
    assert (pixels(zero["path"]) == pixels(without["path"])).all()
    assert (pixels(half["path"]) != pixels(whole["path"])).any()
    [recorded] = read_header(Path(half["path"]))["job"]["loras"]
    assert (recorded["file"], recorded["weight"]) == ("./../loras/ink.safetensors", 0.5)
    text = Image.open(half["path"]).info["parameters"]
    assert text.startswith("a cat <lora:ink:0.5>\n")
    assert f'Lora hashes: "ink: {recorded["sha256"][:12]}"' in text


def test_a_file_under_another_name_is_the_same_and_another_file_under_its_name_is_not(
    sdapp: Run, tiny: Callable[..., Path], files: Path
) -> None:
    first = paint(sdapp, tiny(), "--lora", "loras/ink.safetensors")
    (files / "ink.safetensors").rename(files / "pen.safetensors")
    assert paint(sdapp, tiny(), "--lora", "loras/pen.safetensors")["job_id"] == first["job_id"]
    gone = sdapp("replay", first["path"])
    assert gone.exit_code == 66
    assert "ink.safetensors: no such file" in gone.stderr
    lora(files / "ink.safetensors", 3)
    other = sdapp("replay", first["path"])
    assert other.exit_code == 65
    assert "is not the file that was used" in other.stderr


def test_an_image_is_replayed_with_its_loras(sdapp: Run, tiny: Callable[..., Path], files: Path) -> None:
    path = paint(sdapp, tiny(), "--lora", "loras/ink.safetensors:0.5:0.2", "--lora", "loras/oil.safetensors")[
        "path"
    ]
    done = sdapp("replay", "--verify", path)
    assert done.exit_code == 0, done.stderr
    assert "largest difference 0 of 255" in done.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "a cat --loras loras/ink.safetensors:0.5\na dog\na cat --loras loras/oil.safetensors, loras/ink.safetensors:0.5\n"),
        ("lines.csv", 'prompt,loras\na cat,loras/ink.safetensors:0.5\na dog,\na cat,"loras/oil.safetensors,loras/ink.safetensors:0.5"\n'),
        ("lines.jsonl", '{"prompt": "a cat", "loras": "loras/ink.safetensors:0.5"}\n{"prompt": "a dog"}\n'
         '{"prompt": "a cat", "loras": ["loras/oil.safetensors", {"file": "loras/ink.safetensors", "weight": 0.5}]}\n'),
        ("lines.yaml", "- {prompt: a cat, loras: 'loras/ink.safetensors:0.5'}\n- prompt: a dog\n"
         "- {prompt: a cat, loras: ['loras/oil.safetensors', {file: loras/ink.safetensors, weight: 0.5}]}\n"),
    ],
)  # fmt: skip
def test_each_line_of_a_prompt_file_has_its_own_loras(
    name: str, content: str, sdapp: Run, tiny: Callable[..., Path], files: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    common = ("--model", tiny(), "--seed", 7, "--seeds", "same", "--steps", 2)
    done = sdapp("batch", name, *common, "--out", "images")
    assert done.exit_code == 0, done.stderr
    lines = map(json.loads, (tmp_path / "images" / LEDGER_FILE).read_text().splitlines())
    images = {line["prompt_line"]: tmp_path / "images" / line["file"] for line in lines}
    assert len(images) == 3
    by_hand = [
        ("--lora", "loras/ink.safetensors:0.5"),
        (),
        ("--lora", "loras/oil.safetensors", "--lora", "loras/ink.safetensors:0.5"),
    ]
    for (_, path), options, prompt in zip(
        sorted(images.items()), by_hand, ("a cat", "a dog", "a cat"), strict=True
    ):
        alone = sdapp("generate", prompt, "--model", tiny(), "--seed", 7, "--steps", 2, *options)
        assert (pixels(alone.stdout.strip()) == pixels(path)).all()


def test_weights_are_compared(sdapp: Run, tiny: Callable[..., Path], files: Path) -> None:
    vary = "loras=loras/ink.safetensors:0.5,loras/ink.safetensors"
    done = sdapp("compare", "a cat", "--model", tiny(), "--schedulers", "ddim", "--steps", "2", "--seeds", "1",
                 "--vary", vary, "--dry-run")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "2 cells and 4 reference images" in done.stderr


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda _: None, 66, "loras: bad.safetensors: no such file"),
        (lambda path: save_file({"a.weight": torch.zeros(1)}, path), 65, "is no LoRA: none of its 1 tensors"),
        (
            lambda path: lora(path, 1, **{"bundle_emb.me.other": torch.zeros(1, 32)}),
            65,
            "has tensors of another kind (bundle_emb.me.other)",
        ),
        (lambda path: path.write_bytes(b"\x80\x04pickle" * 9), 69, "loras: bad.safetensors"),
        (
            lambda path: lora(path, 1, **{f"{LAYER[:-10]}attn2_to_k.lora_down.weight": torch.zeros(4, 2048)}),
            2,
            "loras: bad.safetensors is for Stable Diffusion XL; ",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_before_the_model_is_loaded(
    make: Callable[[Path], object],
    code: int,
    message: str,
    sdapp: Run,
    tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    make(tmp_path / "bad.safetensors")
    done = sdapp("generate", "a cat", "--model", tiny(), "--lora", "bad.safetensors")
    assert done.exit_code == code
    assert message in done.stderr


def test_a_lora_with_layers_of_other_sizes_fails_by_name(
    sdapp: Run, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    lora(tmp_path / "wide.safetensors", 1, size=128)
    done = sdapp("generate", "a cat", "--model", tiny(), "--lora", "wide.safetensors")
    assert done.exit_code in (3, 69)
    assert "wide.safetensors does not fit this model" in done.stderr
    assert load_file(tmp_path / "wide.safetensors")


def test_after_a_lora_that_fails_the_next_image_has_none(
    sdapp: Run, tiny: Callable[..., Path], files: Path, tmp_path: Path
) -> None:
    """The first LoRA of the second line is merged, also into the text encoder, before the second one fails."""
    words = {"lora_te_text_model_encoder_layers_1_mlp_fc1": (64, 32)}
    strong = {}
    for name, (outputs, inputs) in words.items():
        strong |= {
            f"{name}.lora_up.weight": torch.ones(outputs, 2),
            f"{name}.lora_down.weight": torch.ones(2, inputs),
        }
    lora(files / "text.safetensors", 1, **strong)
    lora(files / "wide.safetensors", 1, size=128)
    config = validate(Layer({"model": str(tiny()), "prompt": "a cat", "seed": 7, "steps": 2}))
    model = locate(config.model)
    painter = load(LoadKey.of(config, model), model)
    both = [Lora(file=str(files / "text.safetensors")), Lora(file=str(files / "wide.safetensors"))]
    [plain] = plan(config, model)
    [bad] = plan(config.model_copy(update={"loras": both}), model)
    results = list(painter.paint([plain, bad, plain], keep_going=True))
    assert "does not fit" in str(results[1].error)
    assert (np.asarray(results[0].image) == np.asarray(results[2].image)).all()


def test_a_weight_that_is_no_number_is_named(sdapp: Run, files: Path) -> None:
    done = sdapp("generate", "a cat", "--lora", "loras/ink.safetensors:high")
    assert done.exit_code == 66
    assert "the weight 'high' is not a number, such as 0.8" in done.stderr


def test_a_lora_that_was_moved_is_found_in_the_folder_by_its_hash(
    sdapp: Run, tiny: Callable[..., Path], files: Path, tmp_path: Path
) -> None:
    path = paint(sdapp, tiny(), "--lora", "loras/ink.safetensors")["path"]
    (tmp_path / "own-loras" / "deep").mkdir(parents=True)
    (files / "ink.safetensors").rename(tmp_path / "own-loras" / "deep" / "pen.safetensors")
    lora(tmp_path / "own-loras" / "ink.safetensors", 5)
    save_file({"a": torch.zeros(1)}, tmp_path / "own-loras" / "c.safetensors", {"sshs_model_hash": "0" * 64})
    assert sdapp("config", "set", "folders.loras", tmp_path / "own-loras").exit_code == 0
    done = sdapp("replay", path, "--verify")
    assert (done.exit_code, "difference 0 of 255" in done.stdout) == (0, True), done.stderr
    (tmp_path / "own-loras" / "deep" / "pen.safetensors").unlink()
    gone = sdapp("replay", path)
    assert gone.exit_code == 65
    assert "ink.safetensors is not the file that was used" in gone.stderr
    (tmp_path / "own-loras" / "ink.safetensors").unlink()
    gone = sdapp("replay", path)
    assert gone.exit_code == 66
    assert "no such file, nor is there one with its SHA-256 in" in gone.stderr


def test_files_that_a_config_varies_are_relative_to_it(
    sdapp: Run, tiny: Callable[..., Path], files: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "compare.yaml").write_text(
        "prompt: a cat\ncompare:\n  schedulers: [ddim]\n  steps: [2]\n  seeds: [1]\n"
        "  vary: {loras: ['../loras/ink.safetensors:0.5', '../loras/oil.safetensors']}\n"
    )
    done = sdapp("compare", "--config", "deep/compare.yaml", "--model", tiny(), "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "2 cells and 4 reference images" in done.stderr


def test_an_image_of_another_program_uses_the_files_of_your_folders(
    sdapp: Run, tiny: Callable[..., Path], files: Path, tmp_path: Path
) -> None:
    """By hash, also under another name; without a hash by name. Others are named."""
    embedding(tmp_path / "embeddings" / "mood.safetensors")
    pen, mood = (
        hashlib.sha256(data).hexdigest()[:12]
        for data in (
            tensor_bytes(files / "ink.safetensors"),
            (tmp_path / "embeddings/mood.safetensors").read_bytes(),
        )
    )
    info = PngInfo()
    info.add_text("parameters", "a feeling, <lora:pen:0.5>, <lora:oil:0.4:0.8> <lora:gone:1>\nSteps: 2, Sampler: Euler, CFG scale: 5, "
                  f'Seed: 9, Size: 64x64, RNG: CPU, Lora hashes: "pen: {pen}", TI hashes: "feeling: {mood}, bad: 0123456789ab", Version: v1.10.1')  # fmt: skip
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    for name, folder in (("loras", files), ("embeddings", tmp_path / "embeddings")):
        assert sdapp("config", "set", f"folders.{name}", folder).exit_code == 0
    done = sdapp("generate", "--config", "theirs.png", "--model", tiny())
    assert done.exit_code == 0, done.stderr
    job = read_header(Path(done.stdout.strip()))["job"]
    loras = [(Path(each["file"]).stem, each["weight"], each["text_encoder_weight"]) for each in job["loras"]]
    assert loras == [("ink", 0.5, None), ("oil", 0.8, 0.4)]
    assert [(Path(each["file"]).stem, each["name"]) for each in job["embeddings"]] == [("mood", "feeling")]
    told = " ".join(done.stderr.split())
    assert f"LoRA: gone:1 (not in {files})" in told
    assert "TI hashes: bad: 0123456789ab (not in" in told


def tensor_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_an_embedding_in_a_lora_file_is_one_beside_it(
    sdapp: Run, tiny: Callable[..., Path], files: Path, tmp_path: Path
) -> None:
    vectors = load_file(embedding(tmp_path / "mood.safetensors"))["emb_params"]
    lora(files / "both.safetensors", 1, **{"bundle_emb.mood.string_to_param.*": vectors})
    prompt = ("generate", "a mood cat", "--model", tiny(), "--seed", 7, "--steps", 2)

    def paint_it(*more: object) -> Path:
        done = sdapp(*prompt, *more)
        assert done.exit_code == 0, done.stderr
        return Path(done.stdout.strip())

    beside = paint_it("--lora", "loras/ink.safetensors", "--embedding", "mood.safetensors")
    inside, without = (
        paint_it("--lora", "loras/both.safetensors"),
        paint_it("--lora", "loras/ink.safetensors"),
    )
    assert (pixels(inside) == pixels(beside)).all()
    assert (pixels(inside) != pixels(without)).any()
    [found] = read_header(inside)["job"]["embeddings"]
    assert (Path(found["file"]).name, found["name"]) == ("both.safetensors", "mood")
    assert sdapp("config", "set", "folders.loras", tmp_path / "moved").exit_code == 0
    files.rename(tmp_path / "moved")
    again = sdapp("replay", inside, "--verify")
    assert again.exit_code == 0, again.output
