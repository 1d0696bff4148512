"""The safety checker: off by default; what it flags is a result of its own kind, and no black image."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig

from conftest import POSTCARDS
from sdapp.api import generate, stream
from sdapp.batches.ledger import read_ledger
from sdapp.diffusion.safety import SafetyChecker
from sdapp.errors import ConfigError, UnavailableError
from sdapp.grids.folder import read_grid
from sdapp.records import Result

QUICK: dict[str, Any] = {"prompt": "a red house", "steps": 2, "seed": 7}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FLAGGED = 7  # the seed of the image that the checker of the tests flags


def paint(**settings: Any) -> list[Result]:
    return list(stream(**QUICK | settings))


def save_checker(folder: Path, concept: Image.Image | None = None) -> Path:
    """A checker of the real class with random weights that flags one image, or none."""
    torch.manual_seed(0)
    vision = SIZES | {"image_size": 32, "patch_size": 8, "projection_dim": 8}
    text = SIZES | {"vocab_size": 49408}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
    )
    checker.special_care_embeds_weights.data.fill_(2)  # no two vectors are so close
    checker.concept_embeds_weights.data.fill_(2)
    checker.save_pretrained(folder)
    if concept:
        seen: list[torch.Tensor] = []
        loaded = SafetyChecker(folder, skips=True)
        loaded._model.visual_projection.register_forward_hook(lambda *call: seen.append(call[2]))
        loaded.look(concept)
        checker.concept_embeds.data[0] = seen[0][0]
        checker.concept_embeds_weights.data[0] = 0.999
        checker.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain() -> list[Result]:
    """Two images without a checker."""
    return paint(count=2)


@pytest.fixture(scope="module")
def checker(plain: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checker that flags the first of them."""
    return save_checker(tmp_path_factory.mktemp("checker"), plain[0].image)


def test_it_is_off_by_default(plain: list[Result]) -> None:
    assert [result.record.flagged for result in plain] == [None, None]


def test_a_flagged_image_is_kept_out_with_its_reason_and_the_others_are_as_ever(
    checker: Path, plain: list[Result]
) -> None:
    first, second = paint(count=2, batch_size=2, safety_checker=str(checker))
    assert (first.flagged, first.image, first.record.flagged) == (True, None, True)
    assert "flagged by the safety checker" in first.error
    assert (second.flagged, second.error, second.record.flagged) == (False, None, False)
    assert np.abs(np.asarray(second.image).astype(int) - np.asarray(plain[1].image)).max() <= 2
    assert [first.job.id, second.job.id] == [each.job.id for each in plain]


def test_a_flagged_image_is_written_if_that_is_asked_for(checker: Path, plain: list[Result]) -> None:
    [result] = paint(safety_checker=str(checker), flagged="write")
    assert (result.flagged, result.error) == (True, None)
    assert result.image.tobytes() == plain[0].image.tobytes()


def test_a_checker_that_flags_nothing_says_so(tmp_path: Path) -> None:
    [result] = paint(safety_checker=str(save_checker(tmp_path / "checker")))
    assert (result.flagged, result.error, result.record.flagged) == (False, None, False)


def test_on_is_the_one_that_the_model_ships(checker: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(POSTCARDS, tmp_path / "model")
    shutil.copytree(checker, folder / "safety_checker")
    [result] = paint(model=str(folder), safety_checker="on")
    assert result.flagged
    [other] = paint(safety_checker=str(folder))  # or of another model
    assert other.flagged
    with pytest.raises(ConfigError, match=r"safety_checker: postcards ships none; name one"):
        generate(**QUICK, safety_checker="on")


def test_generate_writes_the_others_and_exits_with_3(
    checker: Path, sdapp: Callable[..., Any], tmp_path: Path
) -> None:
    command = ["generate", "a red house", "--steps", 2, "--seed", FLAGGED, "--count", 2, "--json"]
    done = sdapp(*command, "--set", f"safety_checker={checker}", "--out", "night")
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 3
    assert "seed 7: flagged by the safety checker" in done.stderr
    assert (first["path"], first["record"]["flagged"]) == (None, True)
    assert second["record"]["flagged"] is False
    assert len(list(Path("night").glob("*.png"))) == 1


def test_a_grid_says_that_an_image_was_flagged(sdapp: Callable[..., Any], checker: Path) -> None:
    done = sdapp(
        "grid", "a red house", "--steps", "2", "--x", "seed=7,8", "--set", f"safety_checker={checker}"
    )
    assert (done.exit_code, "1 of 2 images failed" in done.stderr) == (3, True), done.stderr
    flagged, fine = read_grid(Path("grid")).cells
    assert (flagged.status, fine.status) == ("failed", "done")
    assert "flagged by the safety checker" in str(flagged.reason)


def test_a_batch_keeps_what_was_flagged_in_its_ledger_and_paints_it_when_it_is_wanted(
    checker: Path, sdapp: Callable[..., Any], tmp_path: Path
) -> None:
    Path("prompts.txt").write_text("a red house --seed 7,8 --steps 2\n")
    command = ["batch", "prompts.txt", "--out", "night", "--set", f"safety_checker={checker}"]
    done = sdapp(*command)
    assert done.exit_code == 3
    assert "1 done, 1 flagged" in done.stderr
    lines = {line.seed: line for line in read_ledger(Path("night"))}
    assert (lines[7].status, lines[7].file, lines[8].status) == ("flagged", None, "done")
    again = sdapp(*command)
    assert (again.exit_code, again.stdout) == (3, "")
    wanted = sdapp(*command, "--set", "flagged=write")
    assert (wanted.exit_code, len(wanted.stdout.splitlines())) == (0, 1)
    assert {line.status for line in read_ledger(Path("night"))} == {"done"}


def test_a_checker_that_cannot_be_used_is_refused_by_its_reason(checker: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"safety_checker: no folder or file"):
        paint(safety_checker="./nowhere")
    (tmp_path / "config.json").write_bytes((checker / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(UnavailableError, match=r"safety_checker: .* has no model\.safetensors; name one"):
        paint(safety_checker=str(tmp_path))
    with pytest.raises(UnavailableError, match=r"safety_checker: .* is a CLIPTextModel, no StableDiff"):
        paint(safety_checker=str(POSTCARDS / "text_encoder"))
