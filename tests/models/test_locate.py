import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headers import checkpoint, save_header
from sdapp.errors import ConfigError, UnavailableError
from sdapp.models.checks import check_task
from sdapp.models.locate import locate
from sdapp.models.model import Model
from sdapp.notes import unknown_words

UNET = {"sample_size": 64, "in_channels": 4}
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012}
VAE = {"block_out_channels": [1, 2, 3, 4]}


def build(folder: Path) -> Path:
    """A diffusers folder with all that is looked at before anything is loaded."""
    for part, config in (("unet", UNET), ("vae", VAE), ("text_encoder", {})):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        weights = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_header(folder / part / f"{weights}.safetensors", {})
    (folder / "tokenizer").mkdir()
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text("{}")
    return folder


def replace(path: str, text: str | None = None) -> Callable[[Path], None]:
    """A change to a folder: a file with another text, or (None) no such file."""

    def change(folder: Path) -> None:
        (folder / path).unlink() if text is None else (folder / path).write_text(text)

    return change


def pickled_only(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (replace("model_index.json"), "is not a diffusers folder: model_index.json is missing"),
        (pickled_only, "unet has only diffusion_pytorch_model.bin, which can run code and is not read"),
        (replace("text_encoder/model.safetensors"), "text_encoder has no .safetensors file"),
        (replace("unet/config.json"), "unet/config.json is missing; download the model again"),
        (replace("unet/config.json", "{"), "unet/config.json cannot be read: "),
        (replace("unet/config.json", "[]"), "not those of a Stable Diffusion"),
        (
            replace("unet/config.json", '{"sample_size": [64, 64], "in_channels": 4}'),
            "not those of a Stable Diffusion",
        ),
        (
            replace("unet/config.json", '{"sample_size": Infinity, "in_channels": 4}'),
            "not those of a Stable Diffusion",
        ),
        (replace("unet/config.json", '{"sample_size": 64}'), "not those of a Stable Diffusion"),
        (
            replace("unet/config.json", '{"sample_size": -64, "in_channels": 4}'),
            "a size or a factor in its config.json files is not positive",
        ),
        (replace("vae/config.json", "{}"), "not those of a Stable Diffusion"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused_with_what_it_lacks(
    change: Callable[[Path], None], fragment: str, tmp_path: Path
) -> None:
    folder = build(tmp_path / "model")
    change(folder)
    with pytest.raises(UnavailableError) as refusal:
        locate(str(folder))
    assert str(refusal.value).startswith(f"model: {folder}")
    assert fragment in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("nothing", "no folder or file nothing; allowed: postcards, "),
        ("sdxl", "no folder or file sdxl, did you mean stabilityai/stable-diffusion-xl-base-1.0?"),
        ("SD-1.5", "did you mean stable-diffusion-v1-5/stable-diffusion-v1-5?"),
        ("./org/nothing", "no folder or file ./org/nothing"),
        ("/nowhere/at/all", "no folder or file /nowhere/at/all"),
        ("a/b/c", "no folder or file a/b/c"),
        ("org/my model", "no folder or file org/my model"),
        ("../evil", "no folder or file ../evil"),
        ("none.safetensors", "no folder or file none.safetensors"),
        ("files/none.safetensors", "no folder or file files/none.safetensors (there is no folder files)"),
        ("none.ckpt", "no folder or file none.ckpt"),
        ("folder/none.pt", "no folder or file folder/none.pt"),
        ("a\0b", "model: "),
        ("~nobody-of-that-name/model", "no folder or file ~nobody-of-that-name/model"),
        ("org/a--b", "org/a--b"),
        ("org/..", "org/.."),
        ("-org/model", "-org/model"),
        (f"org/{'x' * 97}", "org/xxx"),
    ],
)
def test_a_name_that_is_no_model_is_refused(
    name: str, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError) as refusal:
        locate(name)
    assert str(refusal.value).startswith("model: ")
    assert fragment in str(refusal.value)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.PT"])
def test_a_file_that_is_not_safetensors_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        UnavailableError, match=r"is not safetensors; a pickled checkpoint can run code, so it is not read"
    ):
        locate(str(tmp_path / name))


def test_a_folder_tells_its_size_before_it_is_loaded(tmp_path: Path) -> None:
    model = locate(str(build(tmp_path / "model")))
    assert (model.size, model.scale, model.in_channels, model.is_file, model.revision) == (
        512,
        8,
        4,
        False,
        None,
    )


def test_a_single_file_of_unknown_width_is_taken_for_a_stable_diffusion_1(tmp_path: Path) -> None:
    model = locate(str(save_header(tmp_path / "model.safetensors", checkpoint(width=32))))
    assert (model.size, model.scale, model.in_channels, model.is_file) == (512, 8, 4, True)


def test_a_home_folder_is_found_by_its_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(build(tmp_path / "home" / "model").parent))
    assert locate("~/model").path == tmp_path / "home" / "model"


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["diffusion_pytorch_model.safetensors"], None),
        (["diffusion_pytorch_model.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"], None),
        (["diffusion_pytorch_model.fp16-00001-of-00001.safetensors", "notes.fp32.safetensors"], "fp16"),
        (["diffusion_pytorch_model-00001-of-00001.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model-00001-of-00001.safetensors"], None),
        (["diffusion_pytorch_model.bf16.safetensors"], "bf16"),
    ],
)
def test_half_weights_are_read_where_there_are_no_others(
    files: list[str], variant: str | None, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()
    for name in files:
        (tmp_path / "unet" / name).touch()
    assert Model("mine", tmp_path).weights("unet")[0] == variant


@pytest.mark.parametrize(
    ("channels", "kind", "refused"),
    [
        (4, "txt2img", False),
        (4, "inpaint", False),
        (9, "inpaint", False),
        (9, "txt2img", True),
        (9, "img2img", True),
    ],
)
def test_a_model_for_inpainting_does_nothing_else(
    channels: int, kind: str, refused: bool, tmp_path: Path
) -> None:
    folder = build(tmp_path / "model")
    (folder / "unet" / "config.json").write_text(json.dumps(UNET | {"in_channels": channels}))
    try:
        check_task(locate(str(folder)), kind)
        said = ""
    except ConfigError as exc:
        said = str(exc)
    assert ("made for inpainting (9 channels)" in said) == refused


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a red house on a beach at sunset", []),
        ("A Red HOUSE, at (sunset:1.2)!", []),
        ("a zebra and a red zebra in a spaceship", ["zebra", "spaceship"]),
        ("", []),
        ("42 🏠", []),
        ("ein Häuschen", ["ein", "häuschen"]),
    ],
)
def test_the_built_in_model_knows_which_words_it_never_saw(prompt: str, unknown: list[str]) -> None:
    assert unknown_words(locate("postcards"), prompt) == unknown


def test_other_models_know_every_word(tmp_path: Path) -> None:
    assert unknown_words(Model("mine", tmp_path), "zebra") == []


@pytest.mark.parametrize(
    ("width", "name", "size"),
    [
        (768, "Stable Diffusion 1.x", 512),
        (1024, "Stable Diffusion 2.x", 512),
        (2048, "Stable Diffusion XL", 1024),
    ],
)
def test_the_family_of_a_single_file_is_found_by_its_text_embeddings(
    width: int, name: str, size: int, tmp_path: Path
) -> None:
    model = locate(str(save_header(tmp_path / "model.safetensors", checkpoint(width=width))))
    assert (model.family.name, model.size) == (name, size)
