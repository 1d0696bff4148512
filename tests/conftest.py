"""What the tests share: images, tiny models of the real classes with random weights, and the command line."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner, Result

from browser import axe, browser, visit  # noqa: F401 - fixtures
from other_readers import read_by_sd_parsers
from sdapp.errors import InputError
from sdapp.metadata.record import SUFFIXES, read_header

# Read when torch and huggingface_hub are imported: no test may reach a model hub, nor find a GPU that it did not ask for.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = os.devnull  # whoever runs the tests may have a config
if os.environ.get("SDAPP_TEST_GPU") != "1":  # make test-gpu
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

POSTCARDS = Path(__file__).parents[1] / "sdapp" / "postcards"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # whose models of random weights are tested, and tested with

# These load a model (or start processes that do, or take as long) in most of their tests; elsewhere a test that uses `tiny` does.
MODEL_TESTS = (
    "test_api.py",
    "test_warm.py",
    "test_threads.py",
    "test_benchmarks.py",
    "test_control.py",
    "test_embeddings.py",
    "test_families.py",
    "test_gpu.py",
    "test_loras.py",
    "test_masks.py",
    "test_outpaint.py",
    "test_pinned.py",
    "test_pipelines.py",
    "test_postcards.py",
    "test_profiling.py",
    "test_safety.py",
    "test_sdxl.py",
    "test_docs.py",
    "test_training.py",
    "batches/test_cluster.py",
    "test_wheel.py",
    "test_upscale.py",
    "batches/test_skip_invalid.py",
    "commands/test_batch.py",
    "commands/test_compare.py",
    "commands/test_generate.py",
    "commands/test_grid.py",
    "commands/test_replay.py",
    "commands/test_screen.py",
    "comparisons/test_analytic_ends.py",
    "comparisons/test_browser.py",
    "grids/test_browser.py",
    "diffusion/",
    "explanations/",
    "gallery/test_page.py",
    "models/test_checkpoints.py",
    "models/test_originals.py",
    "models/test_vae.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a model, so that `make quick` can leave them out."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        if place.startswith(MODEL_TESTS) or "tiny" in getattr(item, "fixturenames", ()):
            item.add_marker("model")


@pytest.fixture
def sdapp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """The real command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(tmp_path / "cache")
    )  # no estimates from what this machine did before

    def run(*arguments: object) -> Result:
        from sdapp.cli import app

        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    yield run
    for path in tmp_path.rglob("*"):
        if path.suffix in SUFFIXES.values():
            read_by_others(path)


def read_by_others(path: Path) -> None:
    """Every image of a test run is one that another project's reader understands."""
    try:
        job = read_header(path)["job"]
    except InputError:  # no image of ours
        return
    with Image.open(path) as image:
        if image.format == "PNG" and "parameters" not in image.info:  # made by the test itself
            return
    parameters = read_by_sd_parsers(path).parameters
    assert (parameters["seed"], parameters["steps"]) == (str(job["seed"]), str(job["steps"]))


@pytest.fixture
def predicts_image(tmp_path: Path) -> Path:
    """The built-in model as one that predicts the image, which for example euler-a cannot step with."""
    folder = shutil.copytree(
        POSTCARDS, tmp_path / "predicts-image", ignore=shutil.ignore_patterns("scheduler")
    )
    config = json.loads((POSTCARDS / "scheduler" / "scheduler_config.json").read_bytes())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(config | {"prediction_type": "sample"})
    )
    return folder


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A 64 × 64 image of a house on sand."""
    image = Image.new("RGB", (64, 64), (120, 180, 240))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 40, 64, 64), fill=(240, 214, 150))
    pen.rectangle((20, 28, 44, 50), fill=(200, 40, 40))
    image.save(tmp_path / "house.png")
    return tmp_path / "house.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White where the house stands."""
    image = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(image).rectangle((16, 24, 47, 55), fill=255)
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A complete Stable Diffusion with random weights and f = 8, saved once for each set of options."""
    made: dict[str, Path] = {}

    def build(
        in_channels: int = 4,
        prediction_type: str = "epsilon",
        variant: str | None = None,
        is_xl: bool = False,
    ) -> Path:
        key = json.dumps([in_channels, prediction_type, variant, is_xl])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny")
            pipe = random_pipeline(in_channels, prediction_type, is_xl)
            pipe.save_pretrained(made[key], variant=variant)
        return made[key]

    return build


def random_pipeline(in_channels: int, prediction_type: str, is_xl: bool = False) -> Any:
    """A Stable Diffusion 1, or an SDXL, with tiny parts of random weights."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(POSTCARDS / "tokenizer", local_files_only=True)

    def text_config(width: int) -> Any:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    # The widths of SDXL's two encoders must differ, as the real ones do: loading tells them apart by width.
    sizes = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8}
    added = {"addition_embed_type": "text_time", "sample_size": 16, **sizes} if is_xl else {"sample_size": 8}
    unet = UNet2DConditionModel(
        in_channels=in_channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=32 + 48 if is_xl else 32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        **added,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **({"scaling_factor": 0.13025} if is_xl else {}),
    )
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    parts = {"unet": unet, "vae": vae, "tokenizer": tokenizer, "text_encoder": CLIPTextModel(text_config(32))}
    if is_xl:
        return StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection(text_config(48)),
            tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(**betas, prediction_type=prediction_type),
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        **parts,
        scheduler=PNDMScheduler(**betas, skip_prk_steps=True, prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
