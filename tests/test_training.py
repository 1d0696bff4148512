"""The trainer of postcards: its world, its words, and a run of a few steps for each image size."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml

import sdapp
from sdapp.models.files import POSTCARDS
from sdapp.models.locate import locate
from sdapp.notes import unknown_words

TRAINING = Path(__file__).parents[1] / "training"


@pytest.fixture(autouse=True)
def training_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))


def test_held_out_combinations_are_never_drawn_for_training() -> None:
    from scenes import sample_scene

    scenes = [sample_scene(Random(seed)) for seed in range(3000)]
    assert not any(scene.held_out for scene in scenes)
    assert {len(scene.things) for scene in scenes} == {0, 1, 2}
    assert any(sample_scene(Random(seed), held_out=True).held_out for seed in range(300))


def test_the_built_in_model_knows_every_word_of_every_caption() -> None:
    from captions import caption_with_position
    from scenes import sample_scene

    model = locate("postcards")
    for seed in range(2000):
        rng = Random(seed)
        words = caption_with_position(sample_scene(rng), rng)
        assert unknown_words(model, words) == [], words


@pytest.mark.parametrize("size", [64, 128])
def test_a_scene_is_drawn_again_exactly(size: int) -> None:
    from drawing import draw
    from scenes import sample_scene

    one, other = (draw(sample_scene(Random(5)), size, Random(6)) for _ in range(2))
    assert one.size == (size, size)
    assert one.tobytes() == other.tobytes()


def test_masks_are_where_the_things_are_drawn() -> None:
    from dataclasses import replace

    from drawing import draw, draw_with_masks
    from scenes import sample_scene

    scene = next(each for each in map(sample_scene, map(Random, range(99))) if len(each.things) == 2)
    plain = replace(scene, style="plain", place="meadow")
    image, masks = draw_with_masks(plain, 64, Random(6))
    assert image.tobytes() == draw(plain, 64, Random(6)).tobytes()
    empty = np.asarray(draw(replace(plain, things=()), 64, Random(6))).astype(int)
    changed = np.abs(np.asarray(image) - empty).max(axis=2) > 0
    drawn = np.max([np.asarray(mask) for mask in masks], axis=0) > 0
    assert [mask.getextrema() for mask in masks] == [(0, 255)] * 2
    assert (changed & drawn).sum() / (changed | drawn).sum() > 0.85  # a mask has pixels that are half covered


def test_a_model_that_finds_things_is_trained_scored_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import masks

    monkeypatch.setattr(masks, "FRESH", 20)
    config = yaml.safe_load((TRAINING / "postcards-64-masks.yaml").read_text(encoding="utf-8"))
    config |= {"drawings": 16, "folder": str(tmp_path / "build")}
    config["masks"] |= {"steps": 2, "batch": 4}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="marks that are missed:\nIoU: "):
        masks.main(str(tmp_path / "few.yaml"))
    scores = json.loads((tmp_path / "build" / "scores.json").read_text())
    assert scores.keys() >= {"IoU", "IoU of palm tree", "found if absent"}
    detail = {"mask_prompt": "house", "mask_threshold": 0.01, "mask_model": str(tmp_path / "build" / "model")}
    result = sdapp.generate("a red house", steps=4, seed=7, device="cpu", detail=[detail])
    assert [each["mask_prompt"] for each in result.record.found] == ["house"]


def test_a_tiny_autoencoder_learns_to_stand_in_for_that_of_postcards(tmp_path: Path) -> None:
    config = yaml.safe_load((TRAINING / "postcards-64-tiny.yaml").read_text(encoding="utf-8"))
    config |= {"drawings": 32, "folder": str(tmp_path / "build")}
    config["tiny"] |= {"steps": 2, "batch": 2}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(config))
    run = subprocess.run(
        [sys.executable, str(TRAINING / "tiny.py"), str(tmp_path / "few.yaml")],
        check=True,
        capture_output=True,
    )
    vae = run.stdout.decode().splitlines()[-1]
    exact, other = (sdapp.generate("a cat", seed=7, steps=2, **more) for more in ({}, {"vae": vae}))
    assert other.image.size == exact.image.size
    assert other.record.unet_calls == exact.record.unet_calls


@pytest.mark.parametrize("size", [64, 128])
def test_a_run_of_a_few_steps_ends_in_a_model_that_paints_and_goes_on_where_it_stopped(
    size: int, tmp_path: Path
) -> None:
    config = yaml.safe_load((TRAINING / f"postcards-{size}.yaml").read_text(encoding="utf-8"))
    config |= {"drawings": 32, "folder": str(tmp_path / "build")}
    config["autoencoder"] |= {"steps": 2, "batch": 2}
    config["unet"] |= {"steps": 2, "batch": 2}
    if size == 128:  # as deep as the real one, but narrow; the smaller size has its real widths
        config["autoencoder"]["channels"] = [8, 8, 16, 16]
        config["start"] = str(POSTCARDS)
    path = tmp_path / "few.yaml"

    def train() -> str:
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        run = subprocess.run(
            [sys.executable, TRAINING / "train.py", path], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert "autoencoder: PSNR" in train()
    result = sdapp.generate("a cat", model=tmp_path / "build" / "model", steps=2, seed=7, device="cpu")
    assert result.image.size == (size, size)
    config["unet"]["steps"] = 3
    assert "unet: resumed at step 2" in train()


def test_an_evaluation_scores_a_model_and_names_the_marks_that_it_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import evaluate

    for name, few in {
        "PROMPTS": 4,
        "MEADOWS": 1,
        "DRAWINGS": 128,
        "FRESH": 40,
        "REBUILT": 20,
        "EPOCHS": 1,
    }.items():
        monkeypatch.setattr(evaluate, name, few)
    config = yaml.safe_load((TRAINING / "postcards-128.yaml").read_text(encoding="utf-8"))
    config |= {"folder": str(tmp_path), "size": 64}  # that of the built-in model
    config["marks"]["as a whole"] |= {"MB": "<= 1", "dB PSNR of the autoencoder": ">= 28"}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as ended:
        evaluate.main(str(tmp_path / "few.yaml"), "postcards")
    missed = str(ended.value).splitlines()
    assert missed[0] == "marks that are missed:"
    assert "as a whole, MB: 25.5 is not <= 1" in missed
    assert not any("PSNR" in line for line in missed)
    assert '"trees in meadows"' in capsys.readouterr().out
    assert (tmp_path / "sheet.png").exists()
