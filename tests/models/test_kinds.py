"""What is no whole Stable Diffusion is refused by its right name, before torch is imported."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import POSTCARDS
from headers import UNET, Shapes, checkpoint, save_header
from sdapp.api import plan_images
from sdapp.errors import SdappError, UnavailableError
from sdapp.models.locate import locate
from sdapp.settings.layers import Layer

Run = Callable[..., Any]
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"  # tells what a 2.x predicts
PARTS: dict[str, tuple[str, Shapes]] = {
    "LoRA of kohya": (
        "is a LoRA; it only changes another model",
        {f"{LORA}.lora_down.weight": (8, 320), f"{LORA}.lora_up.weight": (320, 8), f"{LORA}.alpha": ()},
    ),
    "LoRA of the text encoder": (
        "is a LoRA",
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768)},
    ),
    "LoRA of diffusers": (
        "is a LoRA",
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight": (8, 320)},
    ),
    "LoRA of old diffusers": (
        "is a LoRA",
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight": (8, 9)},
    ),
    "LoRA for FLUX": (
        "is a LoRA",
        {"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (16, 3072)},
    ),
    "LoHa": ("is a LoRA", {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (1280, 8)}),
    "LoKr": ("is a LoRA", {"lycoris_mid_block_attentions_0_proj_in.lokr_w1": (4, 4)}),
    "embedding of A1111": ("is a textual inversion embedding", {"emb_params": (8, 768)}),
    "embedding for SDXL": ("is a textual inversion embedding", {"clip_l": (2, 768), "clip_g": (2, 1280)}),
    "embedding of diffusers": ("is a textual inversion embedding", {"<cat-toy>": (768,)}),
    "VAE": (
        "is an autoencoder (VAE); use it with a whole model: --set vae=model.safetensors",
        {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
    ),
    "VAE of a checkpoint": (
        "is an autoencoder",
        {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)},
    ),
    "TAESD": ("is an autoencoder", {"decoder.layers.0.weight": (64, 4, 3, 3)}),
    "UNet of diffusers": (
        "is a UNet alone",
        {
            "conv_in.weight": (320, 4, 3, 3),
            "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
            "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "conv_out.weight": (4, 320, 3, 3),
        },
    ),
    "layout of diffusers": (
        "is a checkpoint in the layout of diffusers",
        {"unet.conv_in.weight": (320, 4, 3, 3), "vae.decoder.conv_in.weight": (512, 4, 3, 3)},
    ),
    "UNet without prefix": ("is a UNet alone", {"input_blocks.0.0.weight": (320, 4, 3, 3)}),
    "ControlNet": (
        "is a ControlNet",
        {
            "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
            "control_model.time_embed.0.weight": (9, 9),
        },
    ),
    "ControlNet of diffusers": (
        "is a ControlNet",
        {
            "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
            "down_blocks.0.resnets.0.conv1.bias": (9,),
        },
    ),
    "IP-Adapter": (
        "is an IP-Adapter",
        {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (9, 9)},
    ),
    "T2I-Adapter": ("is a T2I-Adapter", {"body.0.block1.weight": (320, 320, 3, 3)}),
    "motion module": (
        "is a motion module",
        {"down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (320, 320)},
    ),
    "CLIP": ("is a text encoder", {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
    "T5": ("is a text encoder", {"encoder.block.0.layer.0.SelfAttention.k.weight": (4096, 4096)}),
    "ESRGAN": ("is an upscaler", {"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}),
    "no model at all": ("has no UNet that sdapp knows; supported: Stable Diffusion 1.x, ", {"a.b": (1,)}),
    "no tensors": ("has no UNet that sdapp knows", {}),
}


def without(part: str, shapes: Shapes) -> Shapes:
    """A file without the tensors that have this in their names."""
    return {name: shape for name, shape in shapes.items() if part not in name}


OTHERS: dict[str, tuple[str, Shapes]] = {
    "InstructPix2Pix": ("is InstructPix2Pix (8 input channels); supported: ", checkpoint(8)),
    "depth": ("is a model for depth", checkpoint(5, 1024)),
    "x4 upscaler": ("is the x4 upscaler", checkpoint(7, 1024)),
    "six channels": ("is a model with 6 input channels", checkpoint(6)),
    "SSD-1B": ("is a smaller SDXL", without("input_blocks.8.1.transformer_blocks.9", checkpoint(4, 2048))),
    "SDXL for instructions": ("is InstructPix2Pix", checkpoint(8, 2048)),
    "SDXL without a text encoder": (
        "has no text_encoder; take the rest from another model: --set base=MODEL",
        without("embedders.0", checkpoint(4, 2048)),
    ),
    "SDXL without the other text encoder": (
        "has no text_encoder_2; take the rest",
        without("embedders.1", checkpoint(4, 2048)),
    ),
    "UNet of SDXL": ("is a UNet alone", without("embedders", without("first_stage", checkpoint(4, 2048)))),
    "refiner": ("is the refiner of Stable Diffusion XL", checkpoint(4, 1280)),
    "Playground": ("is a model of the EDM kind", checkpoint(4, 2048, edm_mean=(1, 4), edm_std=(1, 4))),
    "SDXL for v and EDM": (
        "is a model of the EDM kind",
        checkpoint(4, 2048, **{"edm_vpred.sigma_max": (1,)}),
    ),
    "Vega": (
        "is a smaller SDXL",
        without("input_blocks.8.1.transformer_blocks", checkpoint(4, 2048))
        | {f"{UNET}input_blocks.8.1.transformer_blocks.1.attn2.to_k.weight": (1280, 2048)},
    ),
    "fp8 of ComfyUI, a scale for each tensor": (
        "is quantized with scales",
        checkpoint(4, 2048) | {f"{UNET}input_blocks.4.1.proj_in.scale_weight": ()},
    ),
    "NF4": (
        "is quantized with scales",
        checkpoint() | {f"{UNET}out.2.weight.absmax": (9,)},
    ),
    "SD 3.5 alone": ("is Stable Diffusion 3", {"joint_blocks.0.context_block.attn.qkv.weight": (9, 9)}),
    "FLUX in a checkpoint": ("is FLUX", {f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (128,)}),
    "FLUX of diffusers": (
        "is a diffusion transformer",
        {"transformer_blocks.0.attn.add_k_proj.weight": (3072, 3072), "x_embedder.weight": (3072, 64)},
    ),
    "AuraFlow": (
        "is a diffusion transformer",
        {f"{UNET}joint_transformer_blocks.0.attn.to_k.weight": (9, 9)},
    ),
    "Lumina 2": ("is a diffusion transformer", {f"{UNET}layers.0.attention.qkv.weight": (9, 9)}),
    "Qwen-Image": (
        "is a diffusion transformer",
        {f"{UNET}transformer_blocks.0.attn.add_k_proj.weight": (9, 9)},
    ),
    "Wan": ("is a diffusion transformer", {"blocks.0.cross_attn.k.weight": (5120, 5120)}),
    "unCLIP": (
        "is Stable unCLIP",
        checkpoint(4, 1024) | {"embedder.model.visual.conv1.weight": (1280, 3, 14, 14)},
    ),
    "refiner with its own text encoder": (
        "is the refiner of Stable Diffusion XL",
        without("embedders", checkpoint(4, 1280))
        | {"conditioner.embedders.0.model.token_embedding.weight": (49408, 1280)},
    ),
    "fp8 with scales": ("is quantized with scales", checkpoint(scaled_fp8=(2,))),
    "SD 3": ("is Stable Diffusion 3", {f"{UNET}joint_blocks.0.context_block.attn.qkv.weight": (9, 9)}),
    "FLUX": ("is FLUX", {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}),
    "Stable Cascade": ("is Stable Cascade", {"clip_txt_mapper.weight": (2048, 1280)}),
    "SVD": (
        "is a model for videos",
        checkpoint(8, 1024) | {f"{UNET}input_blocks.1.1.time_stack.0.ff.net.2.bias": (9,)},
    ),
    "PixArt": ("is a diffusion transformer", {"blocks.0.attn.qkv.weight": (9, 9)}),
    "without VAE": (
        "has no autoencoder (VAE); give one: --set vae=PATH",
        without("first_stage", checkpoint()),
    ),
    "without text encoder": (
        "has no text_encoder; take",
        without("cond_stage", checkpoint()),
    ),
    "UNet in its prefix": ("is a UNet alone", without("cond_stage", without("first_stage", checkpoint()))),
}


def refused(run: Any, message: str, code: int = 69) -> None:
    """One line of error with this text, no traceback, and no advice to go online."""
    assert run.exit_code == code, run.output
    assert message in run.stderr
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert "network" not in run.stderr


@pytest.mark.parametrize("kind", [*PARTS, *OTHERS])
def test_a_file_that_is_no_whole_stable_diffusion_is_refused_by_its_name(
    kind: str, sdapp: Run, tmp_path: Path
) -> None:
    message, shapes = (PARTS | OTHERS)[kind]
    save_header(tmp_path / "model.safetensors", shapes)
    refused(sdapp("generate", "a cat", "--model", "model.safetensors"), f"model: model.safetensors {message}")


@pytest.mark.parametrize(
    ("shapes", "name", "channels"),
    [
        (checkpoint(), "Stable Diffusion 1.x", 4),
        (checkpoint(9), "Stable Diffusion 1.x", 9),
        (checkpoint(width=1024), "Stable Diffusion 2.x", 4),
        (checkpoint(9, 1024), "Stable Diffusion 2.x", 9),
        (checkpoint(4, 2048), "Stable Diffusion XL", 4),
        (checkpoint(9, 2048), "Stable Diffusion XL", 9),
        (checkpoint() | {f"model_ema.{LORA}": (1,)} | PARTS["LoRA of kohya"][1], "Stable Diffusion 1.x", 4),
        (
            without("cond_stage", checkpoint())
            | {"cond_stage_model.transformer.embeddings.token_embedding.weight": (49408, 768)},
            "Stable Diffusion 1.x",
            4,
        ),
        (checkpoint() | {f"{UNET}time_embed.cond_proj.weight": (320, 256)}, "Stable Diffusion 1.x", 4),
        (checkpoint(4, 2048, v_pred=(), ztsnr=()), "Stable Diffusion XL", 4),
        (checkpoint() | {"emb_params": (1, 768), "betas": (1000,)}, "Stable Diffusion 1.x", 4),
    ],
)
def test_a_whole_checkpoint_is_taken_with_whatever_lies_beside_its_tensors(
    shapes: Shapes, name: str, channels: int, tmp_path: Path
) -> None:
    model = locate(str(save_header(tmp_path / "model.safetensors", shapes)))
    assert (model.family.name, model.in_channels) == (name, channels)


# --- folders --------------------------------------------------------------------------------------------------


def changed(folder: Path, file: str, **facts: Any) -> Path:
    """A diffusers folder whose config file says something else."""
    config = json.loads((folder / file).read_text()) | facts
    (folder / file).write_text(json.dumps(config))
    return folder


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
UNET_CONFIG, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"


def flow(folder: Path) -> Path:
    (folder / SCHEDULER).write_text(json.dumps(FLOW))
    return folder


def transformer(folder: Path) -> Path:
    (folder / "unet").rename(folder / "transformer")
    return folder


FOLDERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "InstructPix2Pix": ("is InstructPix2Pix", lambda folder: changed(folder, UNET_CONFIG, in_channels=8)),
    "depth": ("is a model for depth", lambda folder: changed(folder, UNET_CONFIG, in_channels=5)),
    "x4 upscaler": ("is the x4 upscaler", lambda folder: changed(folder, UNET_CONFIG, in_channels=7)),
    "refiner": ("is the refiner", lambda folder: changed(folder, UNET_CONFIG, cross_attention_dim=1280)),
    "another UNet": (
        "is a model with a UNet of another class (UNet2DModel)",
        lambda folder: changed(folder, UNET_CONFIG, _class_name="UNet2DModel"),
    ),
    "for videos": (
        "is a model for videos",
        lambda folder: changed(folder, UNET_CONFIG, _class_name="UNetMotionModel"),
    ),
    "another text encoder": (
        "is a model with another text encoder than CLIP (t5)",
        lambda folder: changed(folder, "text_encoder/config.json", model_type="t5"),
    ),
    "code of its own": (
        "is a model with code of its own (my_unet), which is not run",
        lambda folder: changed(folder, "model_index.json", unet=["my_unet", "MyUNet"]),
    ),
    "Kandinsky": (
        "is a model of another kind (KandinskyV22Pipeline)",
        lambda folder: changed(folder, "model_index.json", _class_name="KandinskyV22Pipeline"),
    ),
    "code of its own for the tokenizer": (
        "is a model with code of its own (my_tokenizer)",
        lambda folder: changed(folder, "model_index.json", tokenizer=["my_tokenizer", "MyTokenizer"]),
    ),
    "quantized": (
        "is quantized",
        lambda folder: changed(folder, UNET_CONFIG, quantization_config={"quant_method": "bitsandbytes"}),
    ),
    "FLUX": (
        "is FLUX",
        lambda folder: transformer(changed(folder, "model_index.json", _class_name="FluxPipeline")),
    ),
    "another transformer": ("is a diffusion transformer", transformer),
    "flow matching": ("is a model of the flow matching kind; if it is a Stable Diffusion after all", flow),
    "prediction of flow": (
        "is a model of the flow matching kind",
        lambda folder: changed(folder, SCHEDULER, prediction_type="flow_prediction"),
    ),
    "EDM": ("is a model of the EDM kind", lambda folder: changed(folder, SCHEDULER, _class_name="EDMEulerScheduler")),
    "no betas": (
        "is a model without betas",
        lambda folder: (folder / SCHEDULER).write_text('{"_class_name": "DDIMScheduler"}') and folder,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_stable_diffusion_is_refused_by_its_name(
    kind: str, sdapp: Run, tmp_path: Path
) -> None:
    """Config files are enough; whether there are weights does not matter."""
    message, change = FOLDERS[kind]
    change(shutil.copytree(POSTCARDS, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))
    refused(sdapp("generate", "a cat", "--model", "model"), f"model: model {message}")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("vae", "; it is one part of a model (AutoencoderKL), give the whole"),
        ("files", "; give the file in it: files/dreamer.safetensors"),
        ("scheduler", "model_index.json is missing"),
    ],
)
def test_a_folder_without_a_model_index_says_what_to_give(
    inside: str, message: str, sdapp: Run, tmp_path: Path
) -> None:
    shutil.copytree(POSTCARDS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "files").mkdir()
    save_header(tmp_path / "files" / "dreamer.safetensors", checkpoint())
    refused(sdapp("generate", "a cat", "--model", inside), message)


# --- every command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a cat", "--model", "lora.safetensors"),
        ("batch", "prompts.txt", "--model", "lora.safetensors", "--dry-run"),
        (
            "compare",
            "a cat",
            "--schedulers",
            "ddim",
            "--steps",
            2,
            "--model",
            "lora.safetensors",
            "--dry-run",
        ),
        ("config", "check", "config.yaml"),
    ],
)
def test_it_is_refused_by_every_command_and_in_a_dry_run(
    arguments: Sequence[object], sdapp: Run, tmp_path: Path
) -> None:
    save_header(tmp_path / "lora.safetensors", PARTS["LoRA of kohya"][1])
    (tmp_path / "prompts.txt").write_text("a cat\n")
    (tmp_path / "config.yaml").write_text("model: ./lora.safetensors\n")
    run = sdapp(*arguments)
    assert run.exit_code == 69
    assert "lora.safetensors is a LoRA" in run.stderr


def test_config_check_downloads_nothing(sdapp: Run, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("model: nobody/nothing\nvae: nobody/no-vae@main\n")
    (tmp_path / "vae.yaml").write_text("vae: nobody/no-vae\n")
    assert sdapp("config", "check", "hub.yaml", "vae.yaml").exit_code == 0


# --- damaged files --------------------------------------------------------------------------------------------


def cut(file: Path, size: int) -> Path:
    """A copy of a file that ends early."""
    with file.open("r+b") as stream:
        stream.truncate(size)
    return file


def with_header(file: Path, header: object) -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    return file


DAMAGED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "empty": ("is damaged: it has no header of safetensors; download", lambda file: file.write_bytes(b"")),
    "cut in its header": (
        "is damaged: ",
        lambda file: cut(file, 100),
    ),
    "cut in its data": ("is damaged: 1,000 of ", lambda file: cut(file, file.stat().st_size - 1000)),
    "no mapping": ("is damaged", lambda file: with_header(file, [1])),
    "a tensor without a shape": (
        "is damaged",
        lambda file: with_header(file, {"a": {"dtype": "F16", "data_offsets": [0, 0]}}),
    ),
    "a shape of words": (
        "is damaged",
        lambda file: with_header(file, {"a": {"dtype": "F16", "shape": ["x"], "data_offsets": [0, 0]}}),
    ),
    "deep JSON": (
        "is damaged",
        lambda file: file.write_bytes((200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000),
    ),
    "pointer of Git LFS": (
        "is a pointer of Git LFS; fix: git lfs pull",
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"),
    ),
    "web page": ("is a web page", lambda file: file.write_text("<!DOCTYPE html><html>sign in</html>")),
    "pickle": (
        "is a pickled checkpoint, which can run code",
        lambda file: file.write_bytes(pickle.dumps({"state_dict": [1] * 100}, protocol=2)),
    ),
    "GGUF": ("is a GGUF file", lambda file: file.write_bytes(b"GGUF\3\0\0\0" + b"\0" * 100)),
    "noise": ("is no safetensors file", lambda file: file.write_bytes(b"\xfe" * 100)),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("place", ["model.safetensors", "folder/unet/diffusion_pytorch_model.safetensors"])
def test_a_damaged_file_is_named(kind: str, place: str, sdapp: Run, tmp_path: Path) -> None:
    message, damage = DAMAGED[kind]
    shutil.copytree(POSTCARDS, tmp_path / "folder")
    save_header(tmp_path / "model.safetensors", checkpoint())
    damage(tmp_path / place)
    refused(sdapp("generate", "a cat", "--model", place.split("/")[0]), f"{place} {message}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries({"dtype": st.just("F16"), "shape": JSON, "data_offsets": JSON})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*checkpoint(width=1024), NORM, "a", "__metadata__"]), TENSOR | JSON)
    | JSON
)
def test_no_header_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, header: object) -> None:
    file = with_header(tmp_path_factory.mktemp("header") / "model.safetensors", header)
    with pytest.raises(UnavailableError):
        plan_images([Layer({"model": str(file), "prompt": "a cat"})])


@pytest.fixture(scope="session")
def copied_postcards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside the folders of the tests, so that they can have the same files without copies."""
    return Path(shutil.copytree(POSTCARDS, tmp_path_factory.mktemp("copied") / "postcards"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [UNET_CONFIG, SCHEDULER, "vae/config.json", "text_encoder/config.json", "model_index.json"]
    ),
    st.data(),
)
def test_no_config_file_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, copied_postcards: Path, file: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("config") / "model"
    shutil.copytree(copied_postcards, folder, copy_function=os.link)
    facts = json.loads((folder / file).read_text())
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(facts)), JSON, max_size=3) | JSON)
    (folder / file).unlink()
    (folder / file).write_text(json.dumps(facts | changes if isinstance(changes, dict) else changes))
    with suppress(SdappError):
        plan_images([Layer({"model": str(folder), "prompt": "a cat", "vae": str(POSTCARDS / "vae")})])


def test_a_header_that_lies_about_its_tensors_is_refused(sdapp: Run, tmp_path: Path) -> None:
    """Of a 2.x, one tensor is read to tell what it predicts."""
    shapes = checkpoint(width=1024) | {NORM: (320,)}
    lies = {name: {"dtype": "F16", "shape": shapes[name], "data_offsets": [0, 0]} for name in shapes}
    with_header(tmp_path / "model.safetensors", lies)
    refused(sdapp("generate", "a cat", "--model", "model.safetensors"), "model.safetensors is damaged: ")


# --- paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("files/nothere.safetensors", "no folder or file files/nothere.safetensors; allowed: "),
        ("files/dreamr.safetensors", "did you mean files/Dreamer.safetensors?"),
        ("./files/dreamer", "did you mean files/Dreamer.safetensors?"),
        (
            "files/dreamer",
            "(it is taken for a path, because there is a folder files here), did you mean files/Dreamer",
        ),
        ("nowhere/x.safetensors", "(there is no folder nowhere)"),
        ("files/old.ckpt", "a pickled checkpoint can run code"),
        ("files/OLD.CKPT", "a pickled checkpoint can run code"),
        ("files/none.ckpt", "no folder or file files/none.ckpt"),
        ("files/cat", "files/cat is an image; give a .safetensors file"),
    ],
)
@pytest.mark.parametrize("key", ["model", "vae"])
def test_a_path_with_a_typo_is_no_hub_id(
    key: str, name: str, message: str, sdapp: Run, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    save_header(tmp_path / "files" / "Dreamer.safetensors", checkpoint())
    for name_of_pickle in ("old.ckpt", "OLD.CKPT"):
        (tmp_path / "files" / name_of_pickle).touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "files" / "cat", "png")
    refused(sdapp("generate", "a cat", "--set", f"{key}={name}"), message)


def test_a_hub_id_in_the_cache_is_found_beside_a_folder_of_its_owners_name(
    sdapp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone who cloned `owner/model` has a folder `owner` where they work."""
    repo = tmp_path / "hub" / "models--owner--model"
    shutil.copytree(POSTCARDS, repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "owner").mkdir()
    assert locate("owner/model", "a" * 40).revision == "a" * 40
