import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from other_readers import read_by_sd_parsers
from sdapp import images, schedulers
from sdapp.config import Folders, RunConfig
from sdapp.errors import InputError
from sdapp.jobs import Job
from sdapp.metadata import containers, infotext, infotext_read, infotext_write, read, samplers
from sdapp.metadata.carry import Carried
from sdapp.scheduler_table import SIGMAS, TABLE
from sdapp.settings.hardware import Memory
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.tasks import Img2Img, Inpaint, Txt2Img

COMMENT = "EXIF UserComment"
NO_IMAGE = "task.image: not inside the image"
NO_MASK = "task.mask: not inside the image"
VARIANTS = [name for row in TABLE for name in (row.name, *(f"{row.name}-{sigmas}" for sigmas in row.sigmas))]


def values(**changes: Any) -> dict[str, Any]:
    return Job(**{
        "model": "postcards", "revision": None, "dtype": "float32", "scheduler": SchedulerChoice(name="dpm++2m-karras"),
        "steps": 20, "guidance_scale": 7.5, "negative_prompt": "blurry", "width": 512, "height": 768, "seed": 7,
        "task": Txt2Img(), "prompt": "A red house", "eta": None, "clip_skip": 0, "memory": Memory(),
        "inputs": {},
    } | changes).model_dump()  # fmt: skip


def written(**changes: Any) -> str:
    return infotext_write.write_infotext(values(**changes), "postcards", "0.1.0")


def carried_over(text: str) -> tuple[dict[str, Any], list[str]]:
    """What a config gets of an infotext, and what is left out."""
    carried = infotext_read.carry_fields(*infotext.split_infotext(text))
    carried.use_folders(Folders())
    return carried.values, carried.left_out


def fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"([\w ]+): ([^,]*)(?:, |$)", text.split("\n")[-1]))


# --- writing ------------------------------------------------------------------------------------------------------


def test_the_infotext_is_that_of_a1111() -> None:
    assert written() == (
        "A red house\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x768, Model: postcards, "
        "RNG: CPU, Version: sdapp 0.1.0"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"clip_skip": 1}, "Clip skip: 2"),
        ({"guidance_scale": 7.0}, "CFG scale: 7,"),
        ({"guidance_rescale": 0.7}, "CFG rescale: 0.7,"),
        ({"zero_snr": "on"}, "Noise Schedule: Zero Terminal SNR,"),
        ({"prediction_type": "v_prediction"}, "Prediction type: v_prediction,"),
        ({"original_size": [640, 480]}, "Original size: 640x480,"),
        ({"prompt": "a (red) house"}, "Emphasis: None"),
        ({"scheduler": SchedulerChoice(name="ddim"), "eta": 0.5}, "Eta DDIM: 0.5"),
        ({"task": Img2Img(kind="img2img", image="a.png", strength=0.75)}, "Denoising strength: 0.75, RNG"),
        ({"task": Inpaint(kind="inpaint", image="a.png", mask="b.png")}, "Denoising strength: 1.0, RNG: CPU, Mask mode: Inp"),
        ({"task": Inpaint(kind="inpaint", image="a", mask="b", padding=8)}, "Only masked, Masked area padding: 8"),
    ],
)  # fmt: skip
def test_unusual_settings_get_a_field(changes: dict[str, Any], line: str) -> None:
    assert line in written(**changes)
    assert line not in written()


def test_the_hash_of_a_single_file_is_written_as_a1111_does() -> None:
    hashes = {"model_sha256": "6ce0161689b3853acaa03779ec93eafe", "vae_sha256": "63aeecb90ff7bc1c115395962d3"}
    text = infotext_write.write_infotext(values(vae="vae/mse.safetensors"), "mine", "0.1.0", hashes)
    model, vae = "Model hash: 6ce0161689, Model: mine", "VAE hash: 63aeecb90f, VAE: mse.safetensors"
    assert f", {model}, {vae}, " in text
    assert "Model hash" not in infotext_write.write_infotext(values(), "mine", "0.1.0")


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("org/name", "Model: org/name, "),
        ("a, b", 'Model: "a, b", '),
        ("v1:pruned", 'Model: "v1:pruned", '),
        ("a\nb", r'Model: "a\nb", '),
        ('"a"', r'Model: "\"a\"", '),
        ("é", "Model: é, "),
        ("", "768, RNG"),
    ],
)
def test_a_model_name_is_quoted_if_needed(model: str, field: str) -> None:
    text = infotext_write.write_infotext(values(), model, "0.1.0")
    assert field in text
    carried = infotext_read.carry_fields(*infotext.split_infotext(text))
    is_name = "\n" not in model
    assert carried.model == (model.rpartition("/")[2] if is_name else "")
    assert carried.left_out == ([] if is_name else ["Model: a b"])


SAMPLERS = {
    "pndm": ("PLMS", "Automatic"),
    "ddim": ("DDIM", "Automatic"),
    "ddpm": ("DDPM", "Automatic"),
    "lms-karras": ("LMS", "Karras"),
    "euler": ("Euler", "Uniform"),
    "euler-a": ("Euler a", "Uniform"),
    "euler-trailing": ("Euler", "SGM Uniform"),
    "euler-beta": ("Euler", "Beta"),
    "heun": ("Heun", "Uniform"),
    "dpm2-exponential": ("DPM2", "Exponential"),
    "dpm2-a": ("DPM2 a", "Uniform"),
    "dpm": ("DPM Solver", "Uniform"),
    "dpm++2m": ("DPM++ 2M", "Uniform"),
    "dpm++2m-karras": ("DPM++ 2M", "Karras"),
    "dpm++2m-sde-exponential": ("DPM++ 2M SDE", "Exponential"),
    "dpm++2m-sde-heun-karras": ("DPM++ 2M SDE Heun", "Karras"),
    "dpm++3m-sde": ("DPM++ 3M SDE", "Uniform"),
    "dpm++2s": ("DPM++ 2S", "Uniform"),
    "dpm++sde-karras": ("DPM++ SDE", "Karras"),
    "unipc": ("UniPC", "Uniform"),
    "deis": ("DEIS", "Uniform"),
    "sa-solver": ("SA Solver", "Uniform"),
    "lcm": ("LCM", "Uniform"),
    "tcd": ("TCD", "Uniform"),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_scheduler_is_written_with_the_names_of_a1111(name: str) -> None:
    found = fields(written(scheduler=SchedulerChoice(name=name)))
    assert (found["Sampler"], found["Schedule type"]) == SAMPLERS[name]
    assert "Scheduler options" not in found


def test_every_scheduler_has_its_own_label() -> None:
    assert len({row.label for row in TABLE}) == len(TABLE)
    assert [schedulers.resolve(row.label).name for row in TABLE] == [row.name for row in TABLE]
    assert set(samplers.SCHEDULES) >= set(SIGMAS)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_scheduler_survives_a_round_trip(name: str) -> None:
    found, left = carried_over(written(scheduler=SchedulerChoice(name=name)))
    assert found["scheduler"] == {"name": name, "options": {}}
    assert left == []


@pytest.mark.parametrize(
    ("name", "options", "sampler", "schedule"),
    [
        ("dpm++2m", {"use_karras_sigmas": True}, "DPM++ 2M", "Karras"),
        ("dpm++2m", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE", "Uniform"),
        ("dpm++2m-sde-karras", {"solver_order": 3}, "DPM++ 3M SDE", "Karras"),
        ("dpm++2m-sde", {"solver_type": "heun"}, "DPM++ 2M SDE Heun", "Uniform"),
        ("dpm++2m", {"timestep_spacing": "leading"}, "DPM++ 2M", "DDIM"),
        ("dpm++2m", {"solver_order": 1}, "DPM++ 2M", "Uniform"),
        ("dpm", {"final_sigmas_type": "zero"}, "DPM Solver", "Uniform"),
        ("ddim", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, "DDIM", "SGM Uniform"),
        ("pndm", {"timestep_spacing": "linspace"}, "PLMS", "Uniform"),
        ("euler-karras", {"timestep_spacing": "trailing"}, "Euler", "Karras"),
        ("unipc", {"solver_type": "bh1", "solver_order": 3}, "UniPC", "Uniform"),
    ],
)
def test_options_decide_the_names_and_the_others_are_kept(
    name: str, options: dict[str, Any], sampler: str, schedule: str
) -> None:
    text = written(scheduler=SchedulerChoice(name=name, options=options))
    assert (fields(text)["Sampler"], fields(text)["Schedule type"]) == (sampler, schedule)
    found = carried_over(text)[0]["scheduler"]
    assert schedulers.resolve(**found).options == schedulers.resolve(name, options).options


# --- round trips --------------------------------------------------------------------------------------------------

PIECES = ["Negative prompt:", "\n", ": ", ", ", '"', "Steps: 5, Seed: 6, Size: 8x8", "\\", "(a:1.2)", "<lora:x:1>", "été", "🏠",
          "\u2028", "\r\n", "\0", "SDCPP: {", "{", "BREAK", "Version: v1.9.0", " "]  # fmt: skip
PROMPTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=20), max_size=6).map("".join)
PROMPTS = PROMPTS.filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))


def as_kept(prompt: str) -> str:
    """A prompt without what infotext cannot hold: spaces around lines, control characters, and the label itself."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", prompt).replace("Negative prompt:", "negative prompt:")
    return "\n".join(line.strip() for line in text.strip().split("\n"))


@settings(max_examples=300, deadline=None)
@given(
    prompt=PROMPTS,
    negative=PROMPTS,
    seed=st.integers(0, 2**63 - 1),
    guidance=st.floats(0, 100),
    skip=st.integers(0, 11),
)
def test_infotext_survives_a_round_trip(
    prompt: str, negative: str, seed: int, guidance: float, skip: int
) -> None:
    text = written(
        prompt=prompt, negative_prompt=negative, seed=seed, guidance_scale=guidance, clip_skip=skip
    )
    found, left = carried_over(text)
    expected = {
        "prompt": as_kept(prompt), "seed": seed, "guidance_scale": guidance, "steps": 20, "width": 512, "height": 768,
        "scheduler": {"name": "dpm++2m-karras", "options": {}}, "model": "postcards",
    }  # fmt: skip
    expected |= {"negative_prompt": as_kept(negative)} if as_kept(negative) else {}
    expected |= {"prompt_syntax": "plain"} if "Emphasis: None" in text.rpartition("\n")[2] else {}
    assert found == expected | ({"clip_skip": skip} if skip else {})
    assert left == []


RARE: dict[str, Any] = {
    "guidance_rescale": 0.7, "zero_snr": "on", "prediction_type": "v_prediction", "original_size": [640, 480],
    "crop": [0, 16],
}  # fmt: skip


@pytest.mark.parametrize("key", RARE)
def test_settings_that_few_models_need_survive_a_round_trip(key: str) -> None:
    given = {key: RARE[key]}
    found, left = carried_over(written(**given))
    assert found[key] == RARE[key]
    assert left == []
    assert found.keys() - carried_over(written())[0].keys() == {key}


def test_zero_snr_that_is_off_survives_a_round_trip() -> None:
    assert carried_over(written(zero_snr="off"))[0]["zero_snr"] == "off"


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("Noise Schedule: Zero Terminal SNR", {"zero_snr": "on"}),
        ("CFG rescale: 0.7", {"guidance_rescale": 0.7}),
        ("CFG Rescale phi: 0.5", {"guidance_rescale": 0.5}),
        ("CFG rescale: 0", {}),
    ],
)
def test_rescaling_of_other_tools_is_carried_over(field: str, found: dict[str, Any]) -> None:
    text = f"x\nSteps: 20, Sampler: Euler, Seed: 1, RNG: CPU, {field}, Version: v1.10.0"
    carried, left = carried_over(text)
    assert {key: value for key, value in carried.items() if key in RARE} == found
    assert left == []


@pytest.mark.parametrize(
    ("task", "kept", "left"),
    [
        (Img2Img(kind="img2img", image="a.png", strength=0.3), {"strength": 0.3}, [NO_IMAGE]),
        (Inpaint(kind="inpaint", image="a.png", mask="b.png"), {"strength": 1.0}, [NO_IMAGE, NO_MASK]),
        (Inpaint(kind="inpaint", image="a.png", mask="b.png", strength=0.5, padding=16), {"strength": 0.5, "padding": 16},
         [NO_IMAGE, NO_MASK]),
    ],
)  # fmt: skip
def test_a_task_comes_back_without_its_files(
    task: Img2Img | Inpaint, kept: dict[str, Any], left: list[str]
) -> None:
    found, named = carried_over(written(task=task))
    assert found["task"] == {"kind": task.kind} | kept
    assert named == left


# --- reading A1111 ------------------------------------------------------------------------------------------------

A1111 = """a lighthouse, <lora:add_detail:0.8> (stormy sea:1.3),
oil on canvas
Negative prompt: lowres, text,
watermark
Steps: 28, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 6.5, Seed: 2718281828, Size: 512x640, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.6, Clip skip: 2, Hires upscale: 2, \
Hires upscaler: Latent, Lora hashes: "add_detail: 7c6bad76eb54, other: 0123", Version: v1.10.1"""


def test_infotext_of_a1111_is_carried_over_and_the_rest_is_named() -> None:
    found, left = carried_over(A1111)
    assert found == {
        "prompt": "a lighthouse,  (stormy sea:1.3),\noil on canvas", "negative_prompt": "lowres, text,\nwatermark",
        "scheduler": {"name": "dpm++2m-karras", "options": {}}, "steps": 28, "guidance_scale": 6.5, "seed": 2718281828,
        "width": 512, "height": 640, "clip_skip": 1, "prompt_syntax": "a1111",
        "upscale": {"scale": 2.0, "enlarge": "latent", "strength": 0.6, "steps": 28}, "profile": "a1111",
    }  # fmt: skip
    assert left == ["LoRA: add_detail:0.8"]
    RunConfig.model_validate(found)


@pytest.mark.parametrize(
    ("fields", "upscale", "named"),
    [
        (
            "Hires upscale: 1.5, Hires steps: 15, Hires upscaler: Latent (bicubic), Denoising strength: 0.7",
            {"scale": 1.5, "enlarge": "latent-bicubic", "strength": 0.7, "steps": 15},
            [],
        ),
        (
            "Hires resize: 1024x0, Hires steps: 10, Hires upscaler: R-ESRGAN 4x+, Denoising strength: 0.35",
            {"scale": 2.0, "enlarge": "lanczos", "strength": 0.35, "steps": 10},
            ["Hires upscaler: R-ESRGAN 4x+ (the image is enlarged by lanczos instead)"],
        ),
        (
            "Hires upscale: 2, Hires sampler: DPM++ SDE, Hires schedule type: Karras, Hires upscaler: Lanczos, "
            "Denoising strength: 0.5",
            {"scale": 2.0, "enlarge": "lanczos", "strength": 0.5, "steps": 20,
             "scheduler": {"name": "dpm++sde-karras", "options": {}}},
            [],
        ),
        ("Hires resize: 1024x640, Hires upscaler: Latent, Denoising strength: 0.5", None,
         ["Hires resize: 1024x640 (the second pass would have another shape)"]),
        ("Hires upscale: 1, Denoising strength: 0.5", None,
         ["Hires upscale: 1, Denoising strength: 0.5 (must be greater than 1)"]),
    ],
)  # fmt: skip
def test_the_hires_fix_of_a1111_is_read(
    fields: str, upscale: dict[str, Any] | None, named: list[str]
) -> None:
    found, left = carried_over(f"x\nSteps: 20, Sampler: Euler, Seed: 1, Size: 512x512, RNG: CPU, {fields}")
    assert found.get("upscale") == upscale
    assert left == named
    RunConfig.model_validate(found)


def line(sampler: str, more: str = "", version: str = "") -> str:
    return f"x\nSteps: 20, Sampler: {sampler},{more} Seed: 1, RNG: CPU{version}"


@pytest.mark.parametrize(
    ("sampler", "more", "version", "name"),
    [
        ("DPM++ 2M Karras", "", "", "dpm++2m-karras"),
        ("DPM++ 2M SDE Heun Exponential", "", ", Version: v1.6.0", "dpm++2m-sde-heun-exponential"),
        ("DPM++ 2M SGM Uniform", "", "", "dpm++2m-trailing"),
        ("DPM2 a Karras", "", "", "dpm2-a-karras"),
        ("DPM++ 2M", "", ", Version: v1.8.0", "dpm++2m"),
        ("DPM++ 2M", "", "", "dpm++2m"),
        ("DPM++ 2M", "", ", Version: v1.9.4", "dpm++2m-karras"),
        ("DPM++ 2M", " Schedule type: Automatic,", ", Version: f2.0.1v1.10.1-previous-669", "dpm++2m-karras"),
        ("DPM++ 2M SDE", " Schedule type: Automatic,", "", "dpm++2m-sde-exponential"),
        ("DPM++ 2M SDE Heun", " Schedule type: Automatic,", "", "dpm++2m-sde-heun-exponential"),
        ("DPM++ 3M SDE", " Schedule type: Automatic,", "", "dpm++3m-sde-exponential"),
        ("DPM++ SDE", " Schedule type: Automatic,", "", "dpm++sde-karras"),
        ("DPM2", " Schedule type: Automatic,", "", "dpm2-karras"),
        ("DPM2 a", " Schedule type: Automatic,", "", "dpm2-a-karras"),
        ("Euler", " Schedule type: Automatic,", "", "euler"),
        ("DPM++ 2M Karras", " Schedule type: Automatic,", "", "dpm++2m-karras"),
        ("DPM++ 2M Karras", " Schedule type: Karras,", "", "dpm++2m-karras"),
        ("DPM++ 2M", " Schedule type: Uniform,", ", Version: v1.10.1", "dpm++2m"),
        ("Euler", " Schedule type: SGM Uniform,", "", "euler-trailing"),
        ("Euler", " Schedule type: Simple,", "", "euler-trailing"),
        ("Euler", " Schedule type: Normal,", "", "euler"),
        ("Euler", " Schedule type: Beta,", "", "euler-beta"),
        ("PLMS", "", "", "pndm"),
        ("DDIM", " Schedule type: Automatic,", "", "ddim"),
        ("euler_a karras", "", ", Version: stable-diffusion.cpp", "euler-a"),
        ("euler_a discrete", "", ", Version: stable-diffusion.cpp", "euler-a"),
        ("dpm++2m karras", "", ", Version: stable-diffusion.cpp", "dpm++2m-karras"),
        ("euler sgm_uniform", "", ", Version: stable-diffusion.cpp", "euler-trailing"),
    ],
)  # fmt: skip
def test_every_spelling_of_a_sampler_is_understood(sampler: str, more: str, version: str, name: str) -> None:
    assert carried_over(line(sampler, more, version))[0]["scheduler"]["name"] == name


@pytest.mark.parametrize(
    ("sampler", "more", "scheduler", "left"),
    [
        ("Restart", "", None, "Sampler: Restart (no scheduler 'Restart': diffusers does not have it; the closest"),
        ("DPM++ 2S a Karras", "", None, "Sampler: DPM++ 2S a (no scheduler 'DPM++ 2S a': diffusers has no ancestral form"),
        ("Euler CFG++", "", None, "Sampler: Euler CFG++ (no scheduler"),
        ("Euler a", " Schedule type: Karras,", "euler-a", "Schedule type: Karras (EulerAncestralDiscreteScheduler has no"),
        ("Euler", " Schedule type: Align Your Steps,", "euler", "Schedule type: Align Your Steps (diffusers has no such"),
        ("Euler ays", "", "euler", "Schedule type: ays (diffusers has no such schedule)"),
        ("x" * 200, "", None, f"Sampler: {'x' * 119}…"),
    ],
)  # fmt: skip
def test_a_sampler_that_diffusers_does_not_support_is_named(
    sampler: str, more: str, scheduler: str | None, left: str
) -> None:
    found, named = carried_over(line(sampler, more))
    assert found.get("scheduler", {}).get("name") == scheduler
    assert [text for text in named if text.startswith(left)]


def test_unipc_of_a1111_has_different_options() -> None:
    assert carried_over(line("UniPC"))[0]["scheduler"] == {
        "name": "unipc",
        "options": {"solver_type": "bh1", "solver_order": 3},
    }
    assert carried_over(line("UniPC", version=", Version: sdapp 1"))[0]["scheduler"] == {
        "name": "unipc",
        "options": {},
    }


def test_the_ddim_schedule_is_an_option_except_for_ddim_itself() -> None:
    found = [carried_over(line(name, " Schedule type: DDIM,"))[0]["scheduler"] for name in ("Euler", "DDIM")]
    assert found == [
        {"name": "euler", "options": {"timestep_spacing": "leading"}},
        {"name": "ddim", "options": {}},
    ]


def test_emphasis_without_the_mean_is_written_where_there_are_weights_and_read() -> None:
    text = written(prompt="a (red:1.2) house", prompt_syntax="a1111", emphasis="no-norm")
    assert "Emphasis: No norm" in text
    assert carried_over(text)[0]["emphasis"] == "no-norm"
    assert "Emphasis" not in written(prompt="a red house", prompt_syntax="a1111", emphasis="no-norm")


@pytest.mark.parametrize(
    ("field", "left"),
    [
        ("Variation seed: 5", "Variation seed: 5"),
        ("ENSD: much", "ENSD: much (must be a whole number)"),
        ("Size: 500x512", "Size: 500x512 (must be a multiple of 8; the nearest are 496 and 504)"),
        ("Size: 512", "Size: 512 (must be a whole number)"),
        ("CFG scale: 7;5", "CFG scale: 7;5 (must be a number)"),
        ("CFG scale: nan", "CFG scale: nan (must be a finite number)"),
        ("Clip skip: 13", "Clip skip: 13 (must be 11 or less)"),
        ("Clip skip: two", "Clip skip: two (must be a whole number)"),
        ("Denoising strength: 2", "Denoising strength: 2 (must be 1 or less)"),
        ("TI hashes: \"easynegative: c74b4e810b03\"", "TI hashes: easynegative: c74b4e810b03 (not in folders.embeddings; its name is read as text)"),
        ("Model hash: 6ce0161689", "Model hash: 6ce0161689"),
        ("Mask mode: Inpaint not masked", "Mask mode: Inpaint not masked"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_named(field: str, left: str) -> None:
    found, named = carried_over(f"x\nSteps: 20, Seed: 1, RNG: CPU, {field}")
    assert found == {"prompt": "x", "steps": 20, "seed": 1, "profile": "a1111", "rng": "cpu"}
    assert named == [left]


@pytest.mark.parametrize(
    "field",
    [
        "Clip skip: 1",
        "Clip skip: -1",
        "Version: v1.6.0",
        "Mask mode: Inpaint masked",
        "VAE hash: 1234",
        "Emphasis: Original",
    ],
)
def test_defaults_are_not_named(field: str) -> None:
    assert carried_over(f"x\nSteps: 20, Seed: 1, RNG: CPU, {field}") == (
        {"prompt": "x", "steps": 20, "seed": 1, "profile": "a1111", "rng": "cpu"},
        [],
    )


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        ("a cat", "a cat", None),
        ("style: oil, mood: dark, light: low", "style: oil, mood: dark, light: low", None),
        ("Steps: 20, Seed: 1", "Steps: 20, Seed: 1", None),
        ("a\r\nNegative prompt: b\r\nSteps: 2, Seed: 1, Size: 8x8", "a", "b"),
        ("Negative prompt: b\nc\nSteps: 2, Seed: 1, Size: 8x8", "", "b\nc"),
        ("Steps: 2, Seed: 1, Size: 8x8", "", None),
        ("say Negative prompt: b\nSteps: 2, Seed: 1, Size: 8x8", "say Negative prompt: b", None),
        ("a\nNegative prompt: b\nNegative prompt: c", "a", "b\nNegative prompt: c"),
        (r"a \(small\) cat", r"a \(small\) cat", None),
        ("", "", None),
    ],
)
def test_prompts_and_fields_are_separated(text: str, prompt: str, negative: str | None) -> None:
    found = carried_over(text)[0]
    assert (found["prompt"], found.get("negative_prompt")) == (prompt, negative)


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("(cat:1.2) BREAK [dog]", []),
        ("embedding:easy.pt cat", ["embedding: embedding:easy.pt"]),
        ("cat++ dog", ["emphasis signs: t++"]),
        (r"\(cat\) BREAKFAST, and C++x", []),
        ("<hypernet:anime:1>", ["LoRA: hypernet anime:1"]),
    ],
)
def test_markup_of_other_tools_is_named(prompt: str, left: list[str]) -> None:
    assert carried_over(f"{prompt}\nSteps: 2, Seed: 1, RNG: CPU")[1] == left


@pytest.mark.parametrize(("syntax", "emphasis"), [("a1111", None), ("plain", "None")])
def test_the_field_emphasis_says_which_syntax_a_prompt_with_markup_has(
    syntax: str, emphasis: str | None
) -> None:
    text = written(prompt="a (red) house", prompt_syntax=syntax)
    assert fields(text).get("Emphasis") == emphasis
    assert carried_over(text)[0]["prompt_syntax"] == syntax
    assert "Emphasis" not in written(prompt="a house :)", prompt_syntax=syntax)


def test_the_tags_of_loras_are_taken_out_again() -> None:
    found, left = carried_over(
        'a cat <lora:ink:0.5>\nSteps: 2, Seed: 1, RNG: CPU, Lora hashes: "ink: 0123", Version: sdapp 0.2.0'
    )
    assert (found["prompt"], left) == ("a cat", ["LoRA: ink:0.5"])


def test_a_very_long_text_is_refused() -> None:
    with pytest.raises(InputError, match="4,000,001 characters"):
        carried_over("x" * 4_000_001)


# --- containers ---------------------------------------------------------------------------------------------------

FORMATS = ["png", "jpeg", "webp"]


def saved(text: str, extension: str) -> bytes:
    buffer = BytesIO()
    info = PngInfo()
    info.add_itxt("parameters", text)
    more: dict[str, Any] = {"pnginfo": info} if extension == "png" else {"exif": containers.exif_bytes(text)}
    Image.new("RGB", (64, 64), "red").save(buffer, extension, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize(
    "prompt", ["A red house, dusk: late", "été 🏠 红色的房子", "a\nb", "(a:1.2) [b]", "x" * 20_000]
)
def test_a_saved_image_is_read_by_sdapp_and_by_sd_parsers(
    prompt: str, extension: str, tmp_path: Path
) -> None:
    text = written(prompt=prompt)
    path = tmp_path / f"a.{extension}"
    path.write_bytes(saved(text, extension))
    with Image.open(path) as image:
        assert read.read_foreign(image.info) == ("sdapp", Carried(*carried_over(text)))
    sampler = read_by_sd_parsers(path)
    assert ([p.value for p in sampler.prompts], [p.value for p in sampler.negative_prompts]) == (
        [prompt],
        ["blurry"],
    )
    assert sampler.name == "DPM++ 2M"
    assert sampler.model
    assert sampler.model.name == "postcards"
    assert sampler.parameters == {"steps": "20", "scheduler": "Karras", "cfg_scale": "7.5", "seed": "7"}


@pytest.mark.parametrize("name", VARIANTS)
def test_sd_parsers_reads_every_scheduler(name: str) -> None:
    text = written(
        scheduler=SchedulerChoice(name=name), prompt="say Negative prompt: twice\nNegative prompt: here"
    )
    sampler = read_by_sd_parsers(BytesIO(saved(text, "jpeg")))
    assert sampler.prompts[0].value == "say negative prompt: twice\nnegative prompt: here"
    assert sampler.negative_prompts[0].value == "blurry"


@pytest.mark.parametrize("extension", ["jpeg", "webp", "png"])
def test_the_comment_survives_decoding(extension: str) -> None:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, extension, exif=containers.exif_bytes("été 🏠\nb"))
    assert containers.texts(images.decode_image(buffer.getvalue(), "a", "image").info)[COMMENT] == "été 🏠\nb"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"UNICODE\0" + "Steps: é".encode("utf-16-be"), "Steps: é"),
        (b"UNICODE\0" + "Steps: é".encode("utf-16-le"), "Steps: é"),
        (b"UNICODE\0" + "Steps: é".encode("utf-16"), "Steps: é"),
        (b"ASCII\0\0\0Steps", "Steps"),
        (bytes(8) + "é".encode(), "é"),
        (b'{"a": 1}  ', '{"a": 1}  '),
        (b"UNICODE\0" + "Steps: Ā".encode("utf-16-be"), "Steps: Ā"),
        (b"UNICODE\0" + "Steps: é 日本".encode(), "Steps: é 日本"),
        (b"UNICODE\0" + "Steps: é".encode() + b"\0\0", "Steps: é"),
        (b"ASCII\0\0\0" + "Steps: é".encode("latin-1"), "Steps: é"),
        (b"UNICODE\0\0", ""),
    ],
)
def test_a_comment_is_decoded_as_it_says(raw: bytes, text: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = raw
    assert containers.texts({"exif": exif.tobytes()})[COMMENT] == text


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=100)
    | st.binary(max_size=60).map(lambda tail: containers.exif_bytes("x")[:40] + tail),
)
def test_broken_exif_gives_text_or_nothing(data: bytes) -> None:
    assert all(isinstance(text, str) for text in containers.texts({"exif": data}).values())


def test_an_image_without_exif_has_no_comment() -> None:
    assert containers.texts(Image.new("RGB", (8, 8)).info) == {}


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("txt2img", "trainedAlgorithmicMedia"),
        ("img2img", "compositeWithTrainedAlgorithmicMedia"),
        ("inpaint", "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_the_xmp_label_says_how_the_image_was_made(kind: str, source: str) -> None:
    assert f">http://cv.iptc.org/newscodes/digitalsourcetype/{source}<" in containers.xmp(kind)


@pytest.mark.parametrize("extension", FORMATS)
def test_pillow_reads_the_xmp_label(extension: str) -> None:
    buffer = BytesIO()
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", containers.xmp("txt2img"))
    more: dict[str, Any] = (
        {"pnginfo": info} if extension == "png" else {"xmp": containers.xmp("txt2img").encode()}
    )
    Image.new("RGB", (8, 8)).save(buffer, extension, **more)
    with Image.open(buffer) as image:
        packet = image.info["XML:com.adobe.xmp"] if extension == "png" else image.info["xmp"].decode()
    assert packet == containers.xmp("txt2img")
