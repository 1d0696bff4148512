"""ControlNets of random weights: against the pipelines of diffusers, in batches, files and records, and refused."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import Result

from headers import save_header
from sdapp import batch
from sdapp.metadata.record import read_header
from sdapp.models.originals import unet_name
from test_embeddings import embedding
from test_loras import lora
from test_pipelines import paint, painter_of, pixels, settings, tasks

Run = Callable[..., Result]
ZERO_CONVOLUTIONS = ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")


@pytest.fixture(scope="module")
def models(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny SD 1 and a tiny SDXL, for each a ControlNet that was never trained (zero) and two that were."""
    found = {"SD 1": tiny(), "SDXL": tiny(is_xl=True)}
    for name, path in list(found.items()):
        unet = diffusers.UNet2DConditionModel.from_pretrained(path / "unet")
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
        for seed, kind in enumerate(("zero", "one", "two")):
            found[f"{name} {kind}"] = tmp_path_factory.mktemp("control") / kind
            for key, weight in net.named_parameters() if seed else ():
                if key.startswith(ZERO_CONVOLUTIONS):
                    generator = torch.Generator().manual_seed(seed)
                    weight.data = torch.randn(weight.shape, generator=generator) * 0.1
            net.save_pretrained(found[f"{name} {kind}"])
    return found


@pytest.fixture
def hint(tmp_path: Path) -> Path:
    """Random dots of 128 × 128."""
    dots = np.random.default_rng(0).integers(0, 256, (128, 128, 3), "uint8")
    Image.fromarray(dots).save(tmp_path / "hint.png")
    return tmp_path / "hint.png"


@pytest.fixture(scope="module", params=["SD 1", "SDXL"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_one_that_was_never_trained_changes_no_bit_and_another_does(
    kind: str, family: str, models: dict[str, Path], house: Path, mask: Path, hint: Path
) -> None:
    """Also beside what makes UNet calls cheaper, and rescales their guidance."""
    asked = settings(models[family], task=tasks(house, mask)[kind], width=128, height=128)
    painter = painter_of(asked)
    for more in ({}, {"guidance_interval": [0, 0.6], "guidance_rescale": 0.5}, {"cache_interval": 2}):
        [plain] = paint(asked | more, painter)
        [zero, one] = (
            paint(asked | more | {"control": f"{models[f'{family} {name}']}:{hint}"}, painter)[0]
            for name in ("zero", "one")
        )
        assert (pixels(zero) == pixels(plain)).all()
        assert (pixels(one) != pixels(plain)).any()


def test_two_of_them_do_what_they_do_in_the_pipeline_of_diffusers(
    family: str, models: dict[str, Path], hint: Path
) -> None:
    control = [f"{models[f'{family} one']}:{hint}:0.8:0..0.5", f"{models[f'{family} two']}:{hint}:0.5"]
    [ours] = paint(
        settings(
            models[family],
            control=control,
            scheduler="euler",
            negative_prompt="a tree",
            width=128,
            height=128,
        )
    )
    name = f"StableDiffusion{'XL' if family == 'SDXL' else ''}ControlNetPipeline"
    nets = [diffusers.ControlNetModel.from_pretrained(models[f"{family} {kind}"]) for kind in ("one", "two")]
    more = {"add_watermarker": False} if family == "SDXL" else {"safety_checker": None}
    pipe = getattr(diffusers, name).from_pretrained(models[family], controlnet=nets, **more)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="linspace", steps_offset=0
    )
    image = Image.open(hint)
    theirs = pipe(
        "a red house", image=[image, image], negative_prompt="a tree", num_inference_steps=4, guidance_scale=7.5,
        generator=[torch.Generator().manual_seed(7)], controlnet_conditioning_scale=[0.8, 0.5],
        control_guidance_start=[0.0, 0.0], control_guidance_end=[0.5, 1.0], width=128, height=128,
    ).images[0]  # fmt: skip
    assert np.abs(pixels(ours) - np.asarray(theirs).astype(int)).max() <= 1


def test_four_at_once_are_the_four_alone_and_a_net_is_loaded_once(
    family: str, models: dict[str, Path], hint: Path
) -> None:
    asked = settings(models[family], control=f"{models[f'{family} one']}:{hint}", seed=5, steps=2)
    painter = painter_of(asked)
    together = paint(asked | {"count": 4, "batch_size": 4}, painter)
    [net] = painter.model.control._loaded.values()
    alone = [paint(asked | {"seed": seed}, painter)[0] for seed in (5, 6, 7, 8)]
    assert all(np.abs(pixels(a) - pixels(b)).max() <= 1 for a, b in zip(together, alone, strict=True))
    assert [net] == list(painter.model.control._loaded.values())


def original(folder: Path, path: Path, prefix: str) -> Path:
    """A ControlNet of a folder as a file in the layout of the original checkpoints."""
    found = {}
    for key, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        layer, _, kind = key.rpartition(".")
        first, _, number = layer.rpartition(".")
        name = {
            "controlnet_down_blocks": f"zero_convs.{number}.0",
            "controlnet_cond_embedding.blocks": f"input_hint_block.{2 * int(number) + 2 if number.isdigit() else 0}",
        }.get(first)
        name = name or {
            "controlnet_mid_block": "middle_block_out.0",
            "controlnet_cond_embedding.conv_in": "input_hint_block.0",
            "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        }.get(layer, unet_name(layer, 1, ()))
        found[f"{prefix}{name}.{kind}"] = tensor
    save_file(found, path)
    return path


def test_a_file_in_either_layout_is_the_folder(models: dict[str, Path], hint: Path, tmp_path: Path) -> None:
    folder = models["SD 1 one"]
    files = [
        folder,
        folder / "diffusion_pytorch_model.safetensors",
        original(folder, tmp_path / "a.safetensors", "control_model."),
        original(folder, tmp_path / "b.safetensors", ""),
    ]
    asked = settings(models["SD 1"], steps=2)
    painter = painter_of(asked)
    images = [pixels(paint(asked | {"control": f"{each}:{hint}"}, painter)[0]) for each in files]
    assert all((each == images[0]).all() for each in images)


def test_with_padding_the_image_of_a_net_is_that_of_the_whole(
    models: dict[str, Path], house: Path, mask: Path, hint: Path
) -> None:
    task = tasks(house, mask)["inpaint"] | {"padding": 4}
    asked = settings(models["SD 1"], task=task, steps=2, width=128, height=128)
    painter = painter_of(asked)
    plain, steered = (
        paint(asked | {"control": control}, painter)[0] for control in ([], f"{models['SD 1 one']}:{hint}")
    )
    assert (pixels(plain) != pixels(steered)).any()


def test_it_is_in_record_and_infotext_and_replayed(sdapp: Run, models: dict[str, Path], hint: Path) -> None:
    net = models["SD 1 one"]
    asked = ("generate", "a cat", "--model", models["SD 1"], "--steps", 2, "--seed", 7)
    done = sdapp(*asked, "--control", f"{net}:hint.png:0.5:0..0.8")
    assert done.exit_code == 0, done.stderr
    path = Path(done.stdout.strip())
    [recorded] = read_header(path)["job"]["control"]
    assert (recorded["image"], recorded["scale"], recorded["end"]) == ("./../hint.png", 0.5, 0.8)
    words = (
        "Weight: 0.5, Resize Mode: Just Resize, Guidance Start: 0, Guidance End: 0.8, Control Mode: Balanced"
    )
    assert f'ControlNet 0: "Module: none, Model: {net.name}, {words}"' in Image.open(path).info["parameters"]
    again = sdapp("replay", path, "--verify")
    assert (again.exit_code, "difference 0 of 255" in again.stdout) == (0, True), again.stderr
    Image.open(hint).rotate(90).save(hint)
    changed = sdapp("replay", path)
    assert (changed.exit_code, "hint.png is not the image that was used" in changed.stderr) == (65, True)
    plain, zero = (sdapp(*asked, *more, "--json") for more in ((), ("--control", f"{net}:hint.png:0")))
    assert len({json.loads(each.stdout)["record"]["job_id"] for each in (plain, zero)}) == 1


@pytest.mark.parametrize(
    ("control", "code", "message"),
    [
        ("{SDXL one}:hint.png", 2, "is for a model with text embeddings 80 wide; "),
        ("{SD 1 one}:nowhere.png", 66, "control: cannot read nowhere.png"),
        ("{SD 1 one}:wide.png", 2, "control: wide.png is 128×64, another shape than 64×64"),
        ("{SD 1}/unet:hint.png", 69, "unet is a UNet2DConditionModel; only a ControlNetModel can be used"),
        ("nowhere.safetensors:hint.png", 69, "control: no folder or file nowhere.safetensors"),
        ("lora.safetensors:hint.png", 69, "lora.safetensors is a LoRA, not a ControlNet"),
        ("half.safetensors:hint.png", 2, "it reads its image at 1/2 of the size, the model works at 1/8"),
        ("{SD 1 one}", 2, "write it as MODEL:IMAGE[:SCALE[:START..END]]"),
        ("{SD 1 one}:hint.png:1:0.5..0.5", 2, "start must be below end"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    control: str, code: int, message: str, sdapp: Run, models: dict[str, Path], hint: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (128, 64)).save("wide.png")
    lora(tmp_path / "lora.safetensors", 1)
    blocks = {f"controlnet_cond_embedding.{name}.weight": (8, 8, 3, 3) for name in ("conv_in", "blocks.1")}
    reads = {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (64, 32)}
    save_header(tmp_path / "half.safetensors", {**blocks, **reads, "conv_in.weight": (8, 4, 3, 3)})
    for name, path in models.items():
        control = control.replace(f"{{{name}}}", str(path))
    done = sdapp("generate", "a cat", "--model", models["SD 1"], "--control", control)
    assert done.exit_code == code, done.stderr
    assert message in done.stderr


def test_a_second_pass_is_steered_too(models: dict[str, Path], hint: Path, tmp_path: Path) -> None:
    """It is what img2img makes of the enlarged first image, with the ControlNet."""
    asked = settings(models["SD 1"], control=f"{models['SD 1 one']}:{hint}", width=64, height=64, steps=4)
    painter = painter_of(asked)
    [first] = paint(asked, painter)
    assert first.image
    first.image.resize((96, 96), Image.Resampling.LANCZOS).save(tmp_path / "large.png")
    task = {"kind": "img2img", "image": str(tmp_path / "large.png"), "strength": 0.5}
    [again] = paint(asked | {"task": task, "width": 96, "height": 96}, painter)
    [at_once] = paint(asked | {"upscale": {"scale": 1.5, "strength": 0.5}}, painter)
    assert (pixels(at_once) == pixels(again)).all()
    [odd] = paint(asked | {"upscale": {"scale": 1.1, "strength": 0.5}}, painter)  # painted at 72 × 72
    assert odd.image
    assert odd.image.size == (70, 70)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "upscale.scale=2", "--set", "upscale.tile=64"), "does not fit with control, which reads the whole image"),
        (("--set", "task.kind=outpaint", "--set", "task.image=hint.png", "--set", "task.sides=left=64"), "steer outpainting"),
    ],
)  # fmt: skip
def test_tiles_and_outpainting_are_not_steered(
    more: tuple[str, ...], message: str, sdapp: Run, models: dict[str, Path], hint: Path
) -> None:
    control = ("--control", f"{models['SD 1 one']}:{hint}", *more)
    done = sdapp("generate", "a cat", "--model", models["SD 1"], *control)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


def test_a_steered_image_is_upscaled_without_its_control(
    sdapp: Run, models: dict[str, Path], hint: Path
) -> None:
    shared = ("--model", models["SD 1"], "--steps", 5)
    done = sdapp("generate", "a cat", *shared, "--control", f"{models['SD 1 one']}:{hint}")
    hint.unlink()
    large = sdapp("upscale", done.stdout.strip(), *shared, "--out", "large")
    assert large.exit_code == 0, large.stderr
    assert read_header(Path(large.stdout.strip()))["job"]["control"] == []


def test_paths_in_files_are_relative_to_the_file(
    sdapp: Run, models: dict[str, Path], hint: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    hint.rename(tmp_path / "deep" / "hint.png")
    (tmp_path / "deep" / "net").symlink_to(models["SD 1 one"])
    (tmp_path / "deep" / "c.yaml").write_text(
        f"model: {models['SD 1']}\nsteps: 1\ncontrol: ./net:hint.png:0.5\n"
    )
    by_config = sdapp("generate", "a cat", "--config", "deep/c.yaml", "--seed", 3)
    assert by_config.exit_code == 0, by_config.stderr
    (tmp_path / "deep" / "lines.csv").write_text("prompt,control,seed\na cat,./net:hint.png:0.5,3\n")
    by_line = sdapp("batch", "deep/lines.csv", "--model", models["SD 1"], "--steps", 1, "--out", "lines")
    assert by_line.exit_code == 0, by_line.stderr
    images = [np.asarray(Image.open(each.stdout.strip())) for each in (by_config, by_line)]
    assert (images[0] == images[1]).all()


def test_sixty_lines_in_any_order_stopped_and_resumed_are_each_line_alone(
    models: dict[str, Path], hint: Path, tmp_path: Path
) -> None:
    lora(tmp_path / "ink.safetensors", 1)
    lora(tmp_path / "oil.safetensors", 2)
    embedding(tmp_path / "mood.safetensors")
    over = [
        {}, {"loras": ["ink.safetensors:0.5"]}, {"loras": ["oil.safetensors", "ink.safetensors"]},
        {"embeddings": ["mood.safetensors"]}, {"control": f"{models['SD 1 one']}:hint.png"},
        {"control": [f"{models['SD 1 two']}:hint.png:0.5"], "loras": "oil.safetensors", "embeddings": "mood.safetensors"},
    ]  # fmt: skip
    words = [("a mood", 1), ("a (mood:1.3) BREAK a house", 2)]
    lines = [
        {"prompt": prompt, "seed": seed, **more} for seed in range(5) for prompt, _ in words for more in over
    ]
    order = np.random.default_rng(0).permutation(len(lines))
    (tmp_path / "lines.jsonl").write_text("".join(f"{json.dumps(lines[i])}\n" for i in order))
    common = settings(models["SD 1"], steps=1) | {
        "batch_size": 4,
        "output": {"dir": str(tmp_path / "images")},
    }
    given = {key: value for key, value in common.items() if key not in ("prompt", "seed")}
    first = batch(tmp_path / "lines.jsonl", **given)
    assert len(list(islice(first, 25))) == 25
    first.close()
    rest = list(batch(tmp_path / "lines.jsonl", **given))
    assert 0 < len(rest) <= 35
    images = sorted((tmp_path / "images").glob("*.png"))
    assert len(images) == len(lines) == 60
    painter = painter_of(common)
    for path in images:
        job = read_header(path)["job"]
        more = {key: job[key] for key in ("prompt", "seed", "prompt_syntax")}
        for key, name in (("loras", "file"), ("embeddings", "file"), ("control", "image")):
            more[key] = [each | {name: str(path.parent / each[name])} for each in job[key]]
        for each in more["control"]:
            each["model"] = str(path.parent / each["model"])
        [alone] = paint(settings(models["SD 1"], steps=1) | more, painter)
        assert np.abs(pixels(alone) - np.asarray(Image.open(path)).astype(int)).max() <= 1
