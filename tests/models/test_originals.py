"""Single files of every family: recognized, configured from their own header, and painted as their folder is."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sdapp as api
from headers import checkpoint, save_header
from original_layout import original_tensors, random_original, save_original, vae_tensors
from sdapp.errors import ConfigError, UnavailableError
from sdapp.jobs import LoadKey
from sdapp.models.families import FAMILIES
from sdapp.models.locate import locate
from sdapp.models.originals import clip_tokenizer, read_config, scheduler_config
from sdapp.models.vae import locate_model
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.validation import validate
from test_pipelines import paint, pixels, settings, tasks


@pytest.fixture(scope="module", params=range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """The same model as a folder and as a single file, and the number of its family."""
    folder = tmp_path_factory.mktemp("original")
    pipe = random_original(request.param)
    pipe.save_pretrained(folder / "model")
    save_original(pipe, folder / "model.safetensors")
    return folder / "model", folder / "model.safetensors", request.param


@pytest.mark.parametrize("kind", ["txt2img", "inpaint"])
def test_a_single_file_paints_what_its_folder_paints_without_a_network(
    kind: str, both: tuple[Path, Path, int], house: Path, mask: Path
) -> None:
    folder, file, number = both
    asked = {"width": 64, "height": 64, "steps": 2, "task": tasks(house, mask)[kind]}
    one, other = (paint(settings(model, **asked))[0] for model in (folder, file))
    assert locate(str(file)).family is FAMILIES[number]
    assert one.record.model_sha256 is None
    assert other.record.model_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (pixels(one) == pixels(other)).all()


UNET = "model.diffusion_model."


def only_unet(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(UNET): value for name, value in tensors.items() if name.startswith(UNET)}


def without_text_encoders(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith("cond")}


@pytest.mark.parametrize("kept", [only_unet, without_text_encoders, None])
def test_what_a_file_lacks_is_taken_from_its_base(
    kept: Any, both: tuple[Path, Path, int], tmp_path: Path
) -> None:
    """From a folder or a file; the UNet alone may have the names of diffusers."""
    folder, file, number = both
    if number == 1:
        pytest.skip("a UNet of 2.x is known by its width, which is another here")
    part, base = tmp_path / "part.safetensors", folder
    if kept is None:
        part, base = folder / "unet" / "diffusion_pytorch_model.safetensors", file
    else:
        save_file(kept(load_file(file)), part)
    asked = {"width": 64, "height": 64, "steps": 1}
    [own] = paint(settings(file, **asked))
    [other] = api.stream(**settings(part, base=str(base), **asked))
    assert other.job.base == str(base)
    is_file = base.is_file()
    assert other.record.base_sha256 == (hashlib.sha256(base.read_bytes()).hexdigest() if is_file else None)
    assert (pixels(own) == pixels(other)).all()
    with pytest.raises(ConfigError, match=r"base: .* has all parts of its own"):
        api.generate(**settings(file, base=str(base), **asked))


def test_a_base_is_of_the_same_family(both: tuple[Path, Path, int], tiny: Any, tmp_path: Path) -> None:
    folder, _, number = both
    other = tiny(is_xl=number != 2)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ConfigError, match=r"base: .* is Stable Diffusion"):
        api.generate(**settings(unet, base=str(other)))


def test_text_encoders_may_have_the_names_that_clip_had_before(
    both: tuple[Path, Path, int], tmp_path: Path
) -> None:
    _, file, number = both
    tensors = {name.replace(".text_model.", "."): value for name, value in load_file(file).items()}
    if number != 1:  # OpenCLIP has other names
        assert tensors.keys() != load_file(file).keys()
    save_file(tensors, tmp_path / "old.safetensors")
    one, other = (
        paint(settings(path, width=64, height=64, steps=1))[0]
        for path in (file, tmp_path / "old.safetensors")
    )
    assert (pixels(one) == pixels(other)).all()


def test_the_unet_of_an_lcm_is_recognized(tmp_path: Path) -> None:
    pipe = random_original(0)
    own = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    unet = own | {"time_cond_proj_dim": 16}
    pipe.unet = type(pipe.unet).from_config(unet)
    cond = {f"{UNET}time_embed.cond_proj.weight": pipe.unet.time_embedding.cond_proj.weight}
    save_original(pipe, tmp_path / "lcm.safetensors", **{name: each.detach() for name, each in cond.items()})
    pipe.save_pretrained(tmp_path / "folder")
    results, told = [], []
    for model in (tmp_path / "lcm.safetensors", tmp_path / "folder"):
        asked = settings(model, width=64, height=64, steps=2, scheduler="lcm", negative_prompt="a tree")
        results += api.stream(**asked, on_note=told.append)
    assert (pixels(results[0]) == pixels(results[1])).all()
    assert (
        told.count("negative_prompt has no effect on this model, whose UNet reads the guidance scale (LCM)")
        == 2
    )
    [job] = plan(
        validate(Layer(settings(tmp_path / "lcm.safetensors"))), locate(str(tmp_path / "lcm.safetensors"))
    )
    assert "scheduler" not in settings("x")
    assert job.scheduler.name == "lcm"


# The numbers in the configs of stable-diffusion-v1-5, stable-diffusion-2-1 and stable-diffusion-xl-base-1.0.
PUBLISHED = [
    {
        "unet": {
            "block_out_channels": [320, 640, 1280, 1280],
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
        "text_encoder": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    },
    {
        "unet": {
            "block_out_channels": [320, 640, 1280, 1280],
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
        },
        "text_encoder": {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
    },
    {
        "unet": {
            "block_out_channels": [320, 640, 1280],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "projection_class_embeddings_input_dim": 2816,
        },
        "text_encoder": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
        "text_encoder_2": {"hidden_size": 1280, "num_attention_heads": 20, "intermediate_size": 5120},
    },
]


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
@pytest.mark.parametrize("in_channels", [4, 9])
def test_the_configs_of_a_published_model_are_read_off_its_shapes(
    number: int, in_channels: int, tmp_path: Path
) -> None:
    family, published = FAMILIES[number], PUBLISHED[number]
    with torch.device("meta"):
        pipe = random_original(number, published, in_channels)
    shapes = {name: list(tensor.shape) for name, tensor in original_tensors(pipe).items()}
    path = save_header(tmp_path / "model.safetensors", shapes)
    configs = {part: read_config(path, family.layout, part) for part in family.weight_folders}
    for part, numbers in published.items():
        assert {key: configs[part][key] for key in numbers} == numbers
    assert configs["unet"]["in_channels"] == in_channels
    assert configs["vae"]["block_out_channels"] == [128, 256, 512, 512]
    assert locate(str(tmp_path / "model.safetensors")).family is family


@pytest.mark.parametrize(
    ("number", "markers", "spread", "prediction", "is_zero"),
    [
        (0, [], 1.0, "epsilon", False),
        (1, [], 0.05, "epsilon", False),
        (1, [], 0.2, "v_prediction", False),
        (2, [], 1.0, "epsilon", False),
        (2, ["v_pred"], 1.0, "v_prediction", False),
        (2, ["v_pred", "ztsnr"], 1.0, "v_prediction", True),
    ],
)
def test_what_a_model_predicts_is_read_off_the_file(
    number: int, markers: list[str], spread: float, prediction: str, is_zero: bool, tmp_path: Path
) -> None:
    pipe = random_original(number)
    with torch.no_grad():
        pipe.unet.up_blocks[3 if number < 2 else 1].attentions[2].transformer_blocks[0].norm1.bias.normal_(
            0, spread
        )
    save_original(pipe, tmp_path / "model.safetensors", **{name: torch.zeros(0) for name in markers})
    scheduler = scheduler_config(tmp_path / "model.safetensors", FAMILIES[number].layout)
    assert scheduler.get("prediction_type", "epsilon") == prediction
    assert scheduler.get("rescale_betas_zero_snr", False) == is_zero


def test_the_tokens_are_those_of_clip() -> None:
    """Numbers that OpenAI's own tokenizer gives."""
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == 49407
    assert clip_tokenizer("!")("a cat", padding="max_length").input_ids == [
        49406,
        320,
        2368,
        49407,
        *[0] * 73,
    ]


def test_another_vae_takes_the_place_of_the_one_in_the_file_or_of_none(tmp_path: Path) -> None:
    pipe = random_original(0)
    save_original(pipe, tmp_path / "model.safetensors")
    tensors = original_tensors(pipe)
    bare = {name: value for name, value in tensors.items() if not name.startswith("first_stage_model.")}
    save_file({name: value.clone() for name, value in bare.items()}, tmp_path / "bare.safetensors")
    save_file(
        {name: value.clone() for name, value in vae_tensors(pipe.vae).items()}, tmp_path / "vae.safetensors"
    )

    def painted(file: str, vae: str | None) -> np.ndarray:
        config = validate(Layer(settings(tmp_path / file, width=64, height=64, steps=1, vae=vae)))
        model = locate_model(config.model, None, config.vae)
        [result] = load(LoadKey.of(config, model), model).paint(plan(config, model))
        return pixels(result)

    own, *others = (
        painted(file, vae)
        for file, vae in (
            ("model.safetensors", None),
            ("model.safetensors", str(tmp_path / "vae.safetensors")),
            ("bare.safetensors", str(tmp_path / "vae.safetensors")),
        )
    )
    for other in others:
        assert (other == own).all()


@pytest.mark.parametrize(
    ("prefix", "count"),
    [
        ("model.diffusion_model.time_embed.0.weight", 1),
        ("model.diffusion_model.middle_block.0.in_layers", 4),
        ("first_stage_model.quant_conv", 2),
        ("cond_stage_model.transformer.text_model.encoder.layers.1.mlp", 4),
    ],
)
def test_a_file_that_lacks_tensors_is_refused_with_their_number(
    prefix: str, count: int, both: tuple[Path, Path, int], tmp_path: Path
) -> None:
    tensors = load_file(both[1])
    kept = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    if len(kept) == len(tensors):
        pytest.skip("this family has no such tensors")
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(UnavailableError, match=f"model.safetensors lacks {count} of its tensors: "):
        paint(settings(tmp_path / "model.safetensors", width=64, height=64, steps=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32])
def test_what_a_model_predicts_is_read_in_every_number_format(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape).to(dtype) for name, shape in checkpoint(width=1024).items()}
    wide = torch.tensor([0.25, -0.25] * 160).to(dtype)
    norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    save_file(tensors | {norm: wide}, tmp_path / "model.safetensors")
    model = locate(str(tmp_path / "model.safetensors"))
    assert (model.size, model.scheduler_config["prediction_type"]) == (768, "v_prediction")
