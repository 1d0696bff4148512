"""Every command as a user runs it, on the built-in model."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from sdapp.diffusion.devices import has_bfloat16
from sdapp.errors import ConfigError

Run = Callable[..., Result]
FAST = ("--steps", 2, "--seed", 7)


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def painted(result: Result) -> list[Path]:
    """The images that a run printed; nothing else may stand on stdout."""
    assert result.exit_code == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert paths
    assert all(path.is_file() for path in paths)
    return paths


# --- painting -----------------------------------------------------------------------------------------------


def test_generate_prints_the_path_of_the_image_and_nothing_else(sdapp: Run) -> None:
    [path] = painted(sdapp("generate", "a red house on a beach at sunset", *FAST))
    assert path == Path("outputs/a-red-house-on-a-beach-at-sunset-7.png")
    assert pixels(path).shape == (64, 64, 3)


def test_count_paints_the_seeds_that_follow_and_a_seed_alone_paints_the_same(sdapp: Run) -> None:
    many = painted(sdapp("generate", "a cat", *FAST, "--count", 3))
    assert [path.stem for path in many] == ["a-cat-7", "a-cat-8", "a-cat-9"]
    [alone] = painted(sdapp("generate", "a cat", "--steps", 2, "--seed", 9, "--out", "alone"))
    assert (pixels(alone) == pixels(many[2])).all()


def test_without_a_seed_each_run_draws_its_own_and_names_it(sdapp: Run) -> None:
    [one], [other] = (painted(sdapp("generate", "a cat", "--steps", 1)) for _ in range(2))
    assert one != other
    assert json.loads(sdapp("show", one, "--json").stdout)["job"]["seed"] == int(one.stem.rsplit("-")[-1])


def test_no_image_is_ever_overwritten(sdapp: Run) -> None:
    [one], [other] = (painted(sdapp("generate", "a cat", *FAST)) for _ in range(2))
    assert other.name == "a-cat-7-2.png"
    assert (pixels(one) == pixels(other)).all()


def test_img2img_says_how_many_steps_run(sdapp: Run, house: Path) -> None:
    result = sdapp("img2img", house, "a red house in the snow", "--steps", 5, "--strength", 0.5, "--seed", 1)
    assert "2 of 5 steps run at strength 0.5" in result.stderr
    painted(result)
    all_steps = sdapp("img2img", house, "a red house", "--steps", 2, "--strength", 1, "--seed", 1)
    assert "steps run" not in all_steps.stderr


def test_inpaint_leaves_what_is_outside_the_mask(sdapp: Run, house: Path, mask: Path) -> None:
    [path] = painted(sdapp("inpaint", house, mask, "a cat", *FAST))
    outside = pixels(mask) == 0
    assert (pixels(path)[outside] == pixels(house)[outside]).all()


@pytest.fixture
def glass(tmp_path: Path) -> Path:
    """An image with transparent pixels of many colours."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 4), "uint8")).save(
        tmp_path / "glass.png"
    )
    return tmp_path / "glass.png"


@pytest.mark.parametrize("form", [(), ("--set", "output.format=webp", "--set", "output.quality=100")])
def test_inpaint_keeps_transparency_in_formats_that_have_it(
    form: tuple[str, ...], sdapp: Run, glass: Path, mask: Path
) -> None:
    [path] = painted(sdapp("inpaint", glass, mask, "a cat", *FAST, *form))
    outside = pixels(mask) == 0
    assert (pixels(path)[outside] == pixels(glass)[outside]).all()
    assert (pixels(path)[~outside][:, 3] == 255).all()
    assert sdapp("replay", path, "--verify").exit_code == 0
    jpeg = sdapp("inpaint", glass, mask, "a cat", *FAST, "--set", "output.format=jpeg")
    assert jpeg.exit_code == 2
    assert "glass.png is partly transparent, which a JPEG cannot store; use png or webp" in jpeg.stderr


def test_img2img_paints_transparent_parts_on_white_and_says_so(sdapp: Run, glass: Path) -> None:
    done = sdapp("img2img", glass, "a cat", *FAST, "--strength", 1)
    assert "glass.png: img2img paints the whole image opaque" in done.stderr
    [path] = painted(done)
    with Image.open(glass) as image:
        Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").save(glass)
    opaque = sdapp("img2img", glass, "a cat", *FAST, "--strength", 1)
    assert "opaque" not in opaque.stderr
    assert (pixels(path) == pixels(painted(opaque)[0])).all()


@pytest.mark.parametrize("task", ["generate", "img2img", "inpaint"])
def test_an_image_as_config_paints_the_same_pixels_again(
    task: str, sdapp: Run, house: Path, mask: Path
) -> None:
    inputs = {"generate": (), "img2img": (house,), "inpaint": (house, mask)}[task]
    [first] = painted(
        sdapp(task, *inputs, "a white cat", *FAST, "-n", "a tree", "--scheduler", "Euler a", "-g", 5)
    )
    [again] = painted(sdapp("generate", "--config", first, "--out", "elsewhere/again"))
    assert (pixels(again) == pixels(first)).all()
    [changed] = painted(sdapp("generate", "--config", first, "--seed", 8, "--out", "elsewhere"))
    assert (pixels(changed) != pixels(first)).any()


def test_set_and_flags_of_one_command_line_go_together_in_any_order(sdapp: Run) -> None:
    option = ("--set", "scheduler.options.use_karras_sigmas=true")
    [path] = painted(sdapp("generate", "a cat", *FAST, *option, "--scheduler", "euler", "--out", "."))
    assert (
        json.loads(sdapp("show", path, "--json").stdout)["record"]["scheduler_config"]["use_karras_sigmas"]
        is True
    )


def test_an_image_of_another_tool_is_a_config_too_and_says_what_is_lost(sdapp: Run) -> None:
    settings = "Steps: 3, Sampler: Euler a, CFG scale: 5, Seed: 9, Size: 64x64, Model: anything-v3"
    info = PngInfo()
    info.add_text("parameters", f"a red house\nNegative prompt: a tree\n{settings}")
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    refused = sdapp("generate", "--config", "theirs.png")
    assert refused.exit_code == 2
    assert "anything-v3" in refused.stderr
    result = sdapp("generate", "--config", "theirs.png", "--model", "postcards")
    [path] = painted(result)
    job = json.loads(sdapp("show", path, "--json").stdout)["job"]
    assert (job["scheduler"]["name"], job["steps"], job["seed"], job["negative_prompt"]) == (
        "euler-a",
        3,
        9,
        "a tree",
    )


def test_an_image_tells_other_tools_what_it_is(sdapp: Run) -> None:
    [path] = painted(sdapp("generate", "a cat", *FAST, "--scheduler", "DPM++ 2M Karras"))
    info = Image.open(path).info
    assert info["parameters"].startswith(
        "a cat\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7"
    )
    assert "trainedAlgorithmicMedia" in info["XML:com.adobe.xmp"]


def test_an_image_far_larger_than_the_models_own_is_warned_of(sdapp: Run) -> None:
    result = sdapp("generate", "a cat", "--seed", 7, "--steps", 1, "--size", "192x128")
    assert "far more than the 64x64" in result.stderr
    painted(result)


def test_json_prints_one_object_an_image(sdapp: Run) -> None:
    result = sdapp("generate", "a cat", *FAST, "--count", 2, "--json")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    assert [row["seed"] for row in rows] == [7, 8]
    assert rows[0]["record"]["unet_calls"] == 2
    assert Path(rows[0]["path"]).is_file()


def test_show_prints_the_job_and_what_ran(sdapp: Run) -> None:
    [path] = painted(sdapp("generate", "a cat", *FAST, "--scheduler", "PLMS"))
    summary = yaml.safe_load(sdapp("show", path).stdout)
    assert list(summary) == ["prompt", "settings", "model", "versions"]
    assert summary["settings"] == "scheduler pndm, steps 2, guidance_scale 7.5, width 64, height 64, seed 7"
    content = yaml.safe_load(sdapp("show", path, "--full").stdout)
    assert content["job"]["scheduler"] == {"name": "pndm", "options": {}}
    assert content["record"]["scheduler_class"] == "PNDMScheduler"
    assert content["record"]["unet_calls"] == 3
    assert content["record"]["dtype"] == "float32"


def test_show_takes_many_images_and_those_of_other_programs(sdapp: Run) -> None:
    paths = painted(sdapp("generate", "a cat", *FAST, "--count", "2"))
    theirs = Path(__file__).parents[1] / "cases" / "28-joined-sampler-names" / "a.png"
    done = sdapp("show", *paths, "nothere.png", theirs)
    assert done.exit_code == 66
    assert "nothere.png" in done.stderr
    assert "not carried over" in done.stderr
    shown = yaml.safe_load(done.stdout)
    assert list(shown) == [*map(str, paths), str(theirs)]
    assert "scheduler euler-a" in shown[str(theirs)]["settings"]
    lines = sdapp("show", *paths, "--json").stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == list(map(str, paths))


@pytest.mark.parametrize("prompt", ["a {red|blue} house", "a __colour__ house"])
def test_choices_outside_of_prompt_files_are_told(prompt: str, sdapp: Run) -> None:
    result = sdapp("generate", prompt, *FAST)
    assert f"prompt: {prompt.split()[1]!r} is plain text here" in result.stderr


def test_words_that_postcards_does_not_know_are_named(sdapp: Run) -> None:
    result = sdapp("generate", "a red dragon on a beach", *FAST)
    assert "does not know: dragon." in result.stderr
    assert "--model" in result.stderr
    painted(result)


def test_a_config_file_and_set_and_flags_are_laid_over_each_other(sdapp: Run) -> None:
    Path("base.yaml").write_text("steps: 1\nprompt: a cat\nseed: 3\nguidance_scale: 2\n")
    Path("mine.yaml").write_text(
        "extends: base.yaml\nguidance_scale: 3\nscheduler: ddim\noutput: {name: '{seed}-{steps}'}\n"
    )
    [path] = painted(sdapp("generate", "-c", "mine.yaml", "--set", "seed=4", "--set", "steps=2", "--seed", 5))
    assert path.name == "5-2.png"
    job = json.loads(sdapp("show", path, "--json").stdout)["job"]
    assert (job["guidance_scale"], job["scheduler"]["name"], job["prompt"]) == (3.0, "ddim", "a cat")


def test_a_failed_image_is_told_the_others_are_kept_and_the_exit_code_is_3(
    sdapp: Run, tmp_path: Path
) -> None:
    """Weights that overflow: a real folder whose decoder ends in NaN."""
    import shutil

    from safetensors.torch import load_file, save_file

    import sdapp as package

    folder = tmp_path / "broken"
    shutil.copytree(Path(package.__file__).parent / "postcards", folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["decoder.conv_out.bias"].fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    result = sdapp("generate", "a cat", *FAST, "--count", 2, "--model", folder)
    assert result.exit_code == 3
    assert "2 of 2 images failed" in result.stderr
    assert "seed 8: the pixels are not finite" in result.stderr
    assert list(Path("outputs").iterdir()) == []


# --- bad input: one error, a documented exit code, nothing half-written -------------------------------------


SAY = "generate cat --steps 2 --device cpu"
BAD_INPUT = {
    "an unknown scheduler": (2, "did you mean 'euler'", f"{SAY} --scheduler eulr"),
    "an unknown key": (2, "did you mean 'steps'", f"{SAY} --set stpes=3"),
    "an unknown key in a file": (2, "bad.yaml:1:1: stpes: unknown key", f"{SAY} --config bad.yaml"),
    "no such config": (66, "nowhere.yaml", f"{SAY} --config nowhere.yaml"),
    "an unknown device": (2, "--device: must be auto, cpu", f"{SAY} --device tpu"),
    "CUDA asked for and absent": (69, "no CUDA GPU", f"{SAY} --device cuda"),
    "more steps than LCM has": (2, "at most 50", f"{SAY} --scheduler lcm --steps 60"),
    "steps that begin too low": (2, "333 or 441", f"{SAY} --scheduler ddim --steps 400"),
    "a wrong option": (
        2,
        "is one of",
        f"{SAY} --scheduler ddim --set scheduler.options.timestep_spacing=foo",
    ),
    "a revision of a folder": (2, "is for models from the Hub", f"{SAY} --set revision=main"),
    "float16 on a CPU": (2, "bfloat16", f"{SAY} --device cpu --dtype float16"),
    "an odd size": (2, "the nearest are 96 and 104", f"{SAY} --size 100x64"),
    "a seed that is none": (2, "--seed: must be a whole number, not 'abc'", f"{SAY} --seed abc"),
    "half a step": (2, "--steps: must be a whole number, not 2.5", "generate cat --steps 2.5"),
    "a size that is none": (2, "WIDTHxHEIGHT", f"{SAY} --size large"),
    "a prompt without quotes": (2, "quote the prompt, or a name with spaces", "generate a cat"),
    "an image that was forgotten": (66, "write: sdapp img2img IMAGE PROMPT", "img2img cat"),
    "a command of other programs": (2, "no such command; use sdapp generate", "txt2img cat"),
    "a command that is mistyped": (2, "did you mean 'generate'?", "generat cat"),
    "two folders for one page": (2, "b6; give FOLDER only, in quotes if there are spaces", "report b1 b6"),
    "an option of other programs": (2, "use --size WIDTHxHEIGHT", f"{SAY} --width 64"),
    "a mask that was forgotten": (66, "sdapp inpaint IMAGE MASK PROMPT", "inpaint house.png cat"),
    "a missing model folder": (69, "no folder or file ./nowhere", f"{SAY} --model ./nowhere"),
    "a model folder without weights": (69, "unet has no .safetensors", f"{SAY} --model empty"),
    "a model folder of pickles": (69, "can run code", f"{SAY} --model pickled"),
    "a pickled checkpoint": (69, "not safetensors", f"{SAY} --model model.ckpt"),
    "a corrupt checkpoint": (69, "is no safetensors file", f"{SAY} --model corrupt.safetensors"),
    "a Hub id without a network": (69, "you are offline", f"{SAY} --model nobody/nothing"),
    "an output folder that is a file": (73, "cannot write to", f"{SAY} --out bad.yaml"),
    "a missing image": (66, "cannot read nowhere.png", "img2img nowhere.png cat"),
    "a prompt before the image": (2, "PROMPT: house.png is the name of an image", "img2img cat house.png"),
    "an image that is text": (65, "not an image", "img2img text.png cat"),
    "a strength of nothing": (2, "none of 20 steps runs", "img2img house.png cat --strength 0.01"),
    "a mask of another size": (65, "must have the same size", "inpaint house.png small.png cat"),
    "no prompt": (2, "prompt: there is none", "generate"),
    "an image without a record": (65, "no sdapp record", "generate --config house.png"),
    "a folder to show": (65, "sdapp report .", "show ."),
    "an option without its s": (2, "--step: no such option; use --steps", "generate cat --step 5"),
    "one of several details": (
        2,
        "error: --detail b:3: strength: must be 1 or",
        f"{SAY} --detail a --detail b:3",
    ),
    "a detail over that of a config": (
        2,
        "error: --detail b:3: ",
        f"{SAY} --config detail.yaml --detail b:3",
    ),
    "one item of a list": (
        2,
        "detail is a list; give all of it: --set 'detail=[{strength: 0.3, …}]'",
        f"{SAY} --set detail.0.strength=0.3",
    ),
    "a count of what is explained": (2, "one image is explained; leave it out", "explain cat --count 3"),
    "a count in a grid": (2, "--z seed=1-3", "grid cat --x steps=2 --count 3"),
    "a count as an axis": (2, "for more, use seeds: --x seed=1-3", "grid cat --x count=1,2"),
    "one scheduler to compare": (2, "use --schedulers", "compare cat --scheduler ddim"),
    "nothing to show": (65, "no sdapp record", "show house.png"),
    "a --set without =": (2, "key=value", f"{SAY} --set steps"),
    "an unknown token": (2, "the placeholders are", f"{SAY} --set output.name={{sed}}"),
}


@pytest.fixture
def bad_files(tmp_path: Path, house: Path) -> None:
    Image.new("L", (32, 32), 255).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02pickle")
    (tmp_path / "bad.yaml").write_text("stpes: 3\n")
    (tmp_path / "detail.yaml").write_text("detail:\n  - {mask_prompt: a, strength: 0.5}\n")
    (tmp_path / "corrupt.safetensors").write_bytes(b"\xff" * 64)
    for folder in ("empty", "pickled"):
        (tmp_path / folder / "unet").mkdir(parents=True)
        (tmp_path / folder / "model_index.json").write_text("{}")
    (tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02pickle")


@pytest.mark.usefixtures("bad_files")
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_error_an_exit_code_and_loses_nothing(
    case: str, sdapp: Run, tmp_path: Path
) -> None:
    code, message, command = BAD_INPUT[case]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = sdapp(*command.split())
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == code, result.stderr
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# --- the other commands -------------------------------------------------------------------------------------


def test_schedulers_explains_a_name(sdapp: Run) -> None:
    text = sdapp("schedulers", "dpmpp_2m_k").stdout
    assert "dpmpp_2m_k is dpm++2m-karras: DPMSolverMultistepScheduler" in text
    assert "use_karras_sigmas: True, where the class has False" in text
    assert "Also called DPM++ 2M Karras, dpm-solver++ Karras, " in text


@pytest.mark.parametrize("name", ["dpm++2m", "dpm++2m-karras", "euler-a-trailing", "lms-exponential"])
def test_each_other_name_of_a_scheduler_means_it(name: str, sdapp: Run) -> None:
    facts = json.loads(sdapp("schedulers", name, "--json").stdout)
    for other in (facts["label"], *facts["aliases"]):
        assert json.loads(sdapp("schedulers", other, "--json").stdout)["name"] == name


def test_config_show_says_where_each_value_comes_from(sdapp: Run) -> None:
    Path("mine.yaml").write_text("steps: 9\n")
    lines = sdapp(
        "config", "show", "-c", "mine.yaml", "--set", "eta=0", "--set", "scheduler=ddim"
    ).stdout.splitlines()
    assert sorted(line.split("# ")[1] for line in lines if line.startswith(("steps", "eta", "count"))) == [
        "--set eta=0", "default", "mine.yaml:1:1",
    ]  # fmt: skip
    assert yaml.safe_load("\n".join(lines))["scheduler"]["name"] == "ddim"


def test_config_show_tells_what_a_foreign_image_could_not_carry_over(sdapp: Run) -> None:
    info = PngInfo()
    info.add_text("parameters", "a <lora:x:1> cat\nSteps: 1, Sampler: DDIM, CFG scale: 5, Seed: 9")
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=info)
    result = sdapp("config", "show", "--config", "theirs.png")
    assert "not carried over: LoRA" in result.stderr
    assert yaml.safe_load(result.stdout)["steps"] == 1


def test_config_check_prints_the_errors_of_all_files(sdapp: Run) -> None:
    Path("good.yaml").write_text("steps: 9\n")
    Path("one.yaml").write_text("steps: 0\nwidht: 8\n")
    Path("two.yaml").write_text("scheduler: eulr\n")
    result = sdapp("config", "check", "one.yaml", "good.yaml", "two.yaml")
    assert result.exit_code == ConfigError.exit_code
    assert result.stdout == "good.yaml: good\n"
    places = sorted(line.split(": ")[1] for line in result.stderr.splitlines())
    assert places == ["one.yaml:1:1", "one.yaml:2:1", "two.yaml:1:1"]


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("Features\t: fp asimd bf16", True),
        ("vendor\t: nobody says", None),
    ],
)
def test_a_cpu_without_bfloat16_is_known_by_its_flags(flags: str, has: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n\nprocessor\t: 1\n")
    assert has_bfloat16(tmp_path / "cpuinfo") is has
    assert has_bfloat16(tmp_path / "none") is None


def test_bfloat16_on_a_cpu_that_lacks_it_is_painted_with_a_word_about_it(sdapp: Run) -> None:
    result = sdapp(
        "generate", "a cat", "--seed", 7, "--dtype", "bfloat16", "--device", "cpu", "--set", "steps=1"
    )
    assert result.exit_code == 0
    assert ("no bfloat16 instructions" in result.stderr) == (has_bfloat16() is False)


def test_doctor_names_what_is_installed(sdapp: Run) -> None:
    result = sdapp("doctor")
    assert result.exit_code == 0
    for name in ("python", "torch", "diffusers", "memory", "disk", "model cache"):
        assert f"{name} " in result.stdout
    assert "nothing is wrong" in result.stdout


def test_doctor_says_that_the_model_cache_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "file")}
    command = [sys.executable, "-m", "sdapp.cli", "doctor"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "problem: the model cache cannot be read: " in run.stdout
    assert run.stdout.endswith("1 to fix\n")


def test_help_names_every_exit_code(sdapp: Run) -> None:
    from sdapp.errors import SdappError

    def family(error: type[SdappError]) -> list[int]:
        return [error.exit_code, *(code for child in error.__subclasses__() for code in family(child))]

    text = " ".join(sdapp("--help").stdout.replace("│", " ").split())
    for code in family(SdappError):
        assert f" {code} " in text


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdapp.cli", "generate", "a cat", "--steps", "2", "--seed", "7"]
    piped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    assert piped.stdout == "outputs/a-cat-7.png\n"
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True) as run:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # a terminal ends so when its last writer is gone
            while chunk := os.read(ours, 4096):
                seen += chunk
        os.close(ours)
        assert run.stdout is not None
        assert run.stdout.read() == "outputs/a-cat-7-2.png\n"
    assert b"image 1 of 1" in seen
    assert b"/2" in seen


def test_an_interrupt_ends_with_130_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdapp.cli", "generate", "a cat", "--steps", "500", "--seed", "7"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs) as run:
        os.close(theirs)
        seen = b""
        while b"/500" not in seen:
            seen += os.read(ours, 4096)
        run.send_signal(signal.SIGINT)
        with suppress(OSError):
            while os.read(ours, 4096):
                pass
        os.close(ours)
    assert run.returncode == 130
    assert list((tmp_path / "outputs").iterdir()) == []


def test_an_interrupted_run_keeps_the_timings_of_its_images(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdapp.cli", "generate", "a cat", "--steps", "20", "--count", "500"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        assert run.stdout.readline()
        run.send_signal(signal.SIGINT)
        run.communicate()
    assert run.returncode == 130
    assert json.loads((tmp_path / "cache" / "sdapp" / "history.json").read_text())


def test_an_image_may_be_moved_as_soon_as_its_path_is_printed(
    sdapp: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    real, moved = typer.echo, []

    def echo(message: object = "", **more: Any) -> None:
        """Print as `sdapp … | while read file; do mv "$file" …` reads: at once."""
        real(message, **more)
        if isinstance(message, Path) or str(message).endswith(".png"):
            moved.append(Path(str(message)).rename(f"moved-{len(moved)}.png"))

    monkeypatch.setattr(typer, "echo", echo)
    for command in (("generate", "a cat", *FAST, "--count", 2), ("batch", "prompts.txt", "--set", "steps=1")):
        Path("prompts.txt").write_text("a cat\na ship\n")
        result = sdapp(*command)
        assert result.exit_code == 0, result.stderr
    assert len(moved) == 4


def test_the_version_is_the_packages(sdapp: Run) -> None:
    assert sdapp("--version").stdout == f"sdapp {version('sdapp')}\n"


def test_python_gets_the_same_images(sdapp: Run) -> None:
    import sdapp as package

    [path] = painted(sdapp("generate", "a cat", *FAST))
    settings: dict[str, Any] = {"prompt": "a cat", "steps": 2, "seed": 7}
    result = package.generate(**settings)
    assert (np.asarray(result.image) == pixels(path)).all()
    with pytest.raises(ConfigError, match="stpes"):
        package.generate(prompt="a cat", stpes=2)
