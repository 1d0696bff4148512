"""The user's own config: defaults, and folders in which models and LoRAs are found by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from test_loras import lora, pixels

Run = Callable[..., Result]


@pytest.fixture
def folders(sdapp: Run, tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """Folders with the model `small` and the LoRA `ink`, which the user's own config names."""
    shutil.copytree(tiny(), tmp_path / "models" / "sd1" / "small")
    (tmp_path / "loras" / "styles").mkdir(parents=True)
    lora(tmp_path / "loras" / "styles" / "Ink.safetensors", 1)
    for key in ("models", "loras"):
        done = sdapp("config", "set", f"folders.{key}", key)
        assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "own" / "sdapp" / "config.yaml"))
    return tmp_path


def paint(sdapp: Run, prompt: str, *arguments: object) -> dict[str, object]:
    done = sdapp("generate", prompt, "--seed", 7, "--steps", 2, "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_models_and_loras_are_found_by_their_names(sdapp: Run, folders: Path) -> None:
    assert sdapp("config", "set", "model", "small").exit_code == 0
    shown = sdapp("config", "show").stdout
    assert f"{folders}/models/sd1/small" in shown
    assert f"{folders}/own/sdapp/config.yaml" in shown
    tag, option = paint(sdapp, "a <lora:ink:0.5> cat"), paint(sdapp, "a cat", "--lora", "ink:0.5")
    assert tag["job"] == option["job"]
    assert tag["job"]["prompt"] == "a cat"  # type: ignore[index]
    assert (pixels(str(tag["path"])) == pixels(str(option["path"]))).all()
    plain = paint(sdapp, "a cat")
    assert (pixels(str(tag["path"])) != pixels(str(plain["path"]))).any()


def test_two_weights_of_a_tag_are_those_of_text_encoder_and_unet(sdapp: Run, folders: Path) -> None:
    job = paint(sdapp, "a cat <lora:ink:0.2:0.7>", "--model", "small")["job"]
    [found] = job["loras"]  # type: ignore[index]
    assert (found["text_encoder_weight"], found["weight"]) == (0.2, 0.7)


def test_tags_in_a_prompt_file_are_chosen_with_the_rest(sdapp: Run, folders: Path) -> None:
    (folders / "lines.txt").write_text("a {all:cat|dog <lora:ink>}\n")
    done = sdapp("batch", "lines.txt", "--model", "small", "--seed", 7, "--steps", 2, "--json")
    assert done.exit_code == 0, done.stderr
    jobs = [json.loads(line)["job"] for line in done.stdout.splitlines()]
    assert {job["prompt"]: len(job["loras"]) for job in jobs} == {"a cat": 0, "a dog": 1}


def test_a_line_that_begins_with_an_image_has_its_loras(sdapp: Run, folders: Path) -> None:
    image = made_with("small", "a lighthouse <lora:ink:0.7>")
    (folders / "lines.txt").write_text(f"{image} --seed 7\n")
    done = sdapp("batch", "lines.txt", "--model", "small", "--json")
    assert done.exit_code == 0, done.stderr
    assert f"note: line 1: {folders / image} sets profile: a1111" in done.stderr
    [lora_of_line] = json.loads(done.stdout)["job"]["loras"]
    assert (Path(lora_of_line["file"]).name, lora_of_line["weight"]) == ("Ink.safetensors", 0.7)


def test_a_character_that_is_refused_in_the_image_of_a_line_is_told_with_its_place(
    sdapp: Run, folders: Path
) -> None:
    image = made_with("small", "a\ufefflighthouse")
    (folders / "lines.txt").write_text(f"a cat\n{image} --seed 7\n")
    done = sdapp("batch", "lines.txt", "--model", "small", "--dry-run")
    assert "error: lines.txt:2:1: theirs.png: prompt: U+FEFF is not allowed" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a cat <lora:ink:99>",), "prompt: <lora:ink:99>: weights are from -10 to 10"),
        (("a cat <lora:oil:0.5>",), "prompt: <lora:oil>: there is no oil.safetensors in "),
        (("a cat", "--negative-prompt", "<lora:ink>"), "negative_prompt: a LoRA belongs into the prompt"),
        (("a cat", "--lora", "oil"), "loras: oil: no such file"),
    ],
)
def test_a_name_that_is_not_there_is_an_error(
    words: tuple[str, ...], message: str, sdapp: Run, folders: Path
) -> None:
    done = sdapp("generate", *words, "--model", "small")
    assert done.exit_code in (2, 66)
    assert message in done.stderr


def test_without_a_folder_a_tag_says_how_to_set_one(sdapp: Run) -> None:
    done = sdapp("generate", "a cat <lora:ink>")
    assert done.exit_code == 2
    assert "sdapp config set folders.loras FOLDER" in done.stderr


def test_a_bad_default_is_refused_and_changes_nothing(sdapp: Run, tmp_path: Path) -> None:
    assert sdapp("config", "set", "steps", "30").exit_code == 0
    for key, value in (("steps", "0"), ("stepz", "3"), ("model", "nosuch")):
        done = sdapp("config", "set", key, value)
        assert done.exit_code == (69 if key == "model" else 2)
        assert f"error: {key}" in done.stderr
    assert "no folder or file ./gone" in sdapp("config", "set", "base", "./gone").stderr
    assert (tmp_path / "own" / "sdapp" / "config.yaml").read_text() == "steps: 30\n"
    assert "steps: 30" in sdapp("config", "show").stdout
    assert "there is no folder" in sdapp("config", "set", "folders.loras", "gone").stderr
    assert "stepz: it is not set in" in sdapp("config", "unset", "stepz").stderr
    for key in ("steps", "folders.loras"):
        assert sdapp("config", "unset", key).exit_code == 0
    assert (tmp_path / "own" / "sdapp" / "config.yaml").read_text() == "{}\n"
    assert "steps: 9" in sdapp("config", "show", "--set", "steps=9").stdout


@pytest.mark.parametrize(
    ("key", "value"), [("safety_checker", "on"), ("vae", "org/vae@main"), ("base", "org/model@v1")]
)
def test_models_of_the_hub_and_words_for_one_can_be_defaults(key: str, value: str, sdapp: Run) -> None:
    assert sdapp("config", "set", key, value).exit_code == 0
    assert f"{key}: " in sdapp("config", "show", "--changed").stdout


def test_an_image_is_replayed_with_its_own_settings_and_not_with_the_defaults(
    sdapp: Run, folders: Path
) -> None:
    path = paint(sdapp, "a cat", "--model", "small")["path"]
    for key, value in (("steps", "5"), ("scheduler", "ddim"), ("guidance_scale", "2")):
        assert sdapp("config", "set", key, value).exit_code == 0
    done = sdapp("replay", "--verify", path)
    assert done.exit_code == 0, done.stderr
    assert "largest difference 0 of 255" in done.stdout


def test_only_a_path_is_made_absolute(sdapp: Run, folders: Path) -> None:
    for key, value in (("output.name", "models"), ("output.dir", "models")):
        assert sdapp("config", "set", key, value).exit_code == 0
    shown = sdapp("config", "show").stdout
    assert "name: models " in shown
    assert f'dir: "{folders}/models"' in shown


# --- the model: SDAPP_MODEL, images that name one, and what postcards does not know -------------------------------

THEIRS = "{}\nSteps: 2, Sampler: Euler a, Seed: 7, Size: 64x64, RNG: CPU, Model hash: 0123456789, Model: {}"


def made_with(model: str, prompt: str = "a lighthouse") -> str:
    info = PngInfo()
    info.add_text("parameters", THEIRS.format(prompt, model))
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    return "theirs.png"


def test_the_environment_is_above_the_own_config_and_below_all_others(
    sdapp: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sdapp("config", "set", "model", "small").exit_code == 0
    assert sdapp("config", "set", "revision", "main").exit_code == 0
    monkeypatch.setenv("SDAPP_MODEL", "postcards")
    shown = sdapp("config", "show").stdout
    assert re.search(r"model: postcards +# SDAPP_MODEL\nrevision: null", shown)
    assert "model: other " in sdapp("config", "show", "--set", "model=other").stdout
    assert paint(sdapp, "a cat")["job"]["model"] == "postcards"  # type: ignore[index]
    assert sdapp("config", "set", "steps", "5").exit_code == 0
    assert "postcards" not in (folders / "own" / "sdapp" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["small", "Small.safetensors", "sd1\\\\small.ckpt"])
def test_an_image_of_another_program_uses_the_model_that_it_names(
    name: str, sdapp: Run, folders: Path
) -> None:
    assert sdapp("config", "set", "model", "postcards").exit_code == 0
    image = made_with(name)
    assert paint(sdapp, "a cat", "--config", image)["job"]["model"].endswith("models/sd1/small")  # type: ignore[index]
    done = sdapp("replay", image, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["job"]["model"].endswith("models/sd1/small")
    assert "Model" not in done.stderr


def test_an_image_that_names_a_model_that_is_not_here_stops_unless_told_one(
    sdapp: Run, folders: Path
) -> None:
    image = made_with("dreamshaper_8")
    for words in (("generate", "--config", image), ("replay", image), ("config", "show", "--config", image)):
        done = sdapp(*words)
        assert done.exit_code == 2
        assert f"model: {image} was made with dreamshaper_8, which is not in {folders}/models" in done.stderr
        assert "--model" in done.stderr
    for words in (("generate", "--config", image), ("replay", image)):
        assert sdapp(*words, "--model", "postcards").exit_code == 0
    (folders / "own" / "sdapp" / "config.yaml").unlink()
    done = sdapp("replay", image)
    assert "sdapp config set folders.models FOLDER" in done.stderr
    assert "model: dreamshaper_8" in sdapp("show", image).stdout


def test_postcards_stops_if_it_knows_nothing_of_a_prompt_unless_it_is_chosen(
    sdapp: Run, tmp_path: Path
) -> None:
    prompt = "cyberpunk city street in the rain, neon lights"
    done = sdapp("generate", prompt)
    assert done.exit_code == 2
    assert "knows nothing of this: cyberpunk, city, street, rain, neon, lights" in done.stderr
    assert "sdapp config set model" in done.stderr
    Path("lines.txt").write_text(f"a cat\n{prompt}\n")
    done = sdapp("batch", "lines.txt", "--steps", 1)
    assert done.exit_code == 2
    assert "lines.txt:2: prompt: postcards" in done.stderr
    known = paint(sdapp, "a cyberpunk cat")
    chosen = paint(sdapp, prompt, "--model", "postcards")
    assert sdapp("replay", "--verify", chosen["path"], known["path"]).exit_code == 0
