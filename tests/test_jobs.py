import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError, MissingInputError, SdappError
from sdapp.jobs import LATER_DEFAULTS, Job, LoadKey
from sdapp.metadata.record import to_layer, to_portable
from sdapp.models.model import Model
from sdapp.planning import plan
from sdapp.settings.layers import Layer, merge, override
from sdapp.settings.stages import Detail, Upscale
from sdapp.settings.tasks import UpscaleImage
from sdapp.validation import validate


def build_model(folder: Path, channels: int = 4) -> Model:
    """A model of 64 pixels a side, as far as a plan looks at it: two JSON files."""
    for part, config in (
        ("unet", {"sample_size": 8, "in_channels": channels}),
        ("vae", {"block_out_channels": [1, 2, 3, 4]}),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    return Model(str(folder), folder)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return build_model(tmp_path / "model")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """`image` and `mask` of 32 × 24, and `other`, an image of another colour."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, color in (("image", "red"), ("mask", "white"), ("other", "blue")):
        Image.new("RGB", (32, 24), color).save(folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") for name in ("image", "mask", "other")}


def config(**settings: Any) -> RunConfig:
    return RunConfig.model_validate({"prompt": "a red house", "seed": 7} | settings)


def img2img(image: str, **more: Any) -> RunConfig:
    return config(task={"kind": "img2img", "image": image, **more})


def inpaint(files: dict[str, str], **more: Any) -> RunConfig:
    return config(task={"kind": "inpaint", "image": files["image"], "mask": files["mask"], **more})


def test_calls_for_the_whole_image_are_those_that_a_film_shows(model: Model, files: dict[str, str]) -> None:
    """Not those of an upscaler, nor those that repaint a detail."""
    x4, hires = Upscale(method="diffusion", model="x4", steps=3), Upscale(scale=2, strength=0.5)
    painted = plan(config(steps=4), model)[0]
    only_enlarged = painted.model_copy(update={"task": UpscaleImage(kind="upscale", image=files["image"])})
    face = [Detail(mask_prompt="face", strength=0.5)]
    for job, change, whole, calls in (
        (painted, {}, 4, 4),
        (painted, {"upscale": x4}, 4, 7),
        (painted, {"upscale": hires, "detail": face}, 4 + 2, 4 + 2 + 2),
        (only_enlarged, {"upscale": x4}, 0, 3),
        (only_enlarged, {"upscale": hires}, 2, 2),
    ):
        found = job.model_copy(update=change)
        assert (found.whole_calls, found.unet_calls) == (whole, calls), change


# --- the plan -----------------------------------------------------------------------------------------------------


def test_image_i_has_seed_plus_i(model: Model) -> None:
    assert [job.seed for job in plan(config(count=3), model)] == [7, 8, 9]


def test_a_seed_that_is_not_given_is_drawn_once_for_the_run(model: Model) -> None:
    runs = [[job.seed for job in plan(config(seed=None, count=2), model)] for _ in range(8)]
    assert all(second == first + 1 for first, second in runs)
    assert len({first for first, _ in runs}) > 1


def test_a_plan_leaves_nothing_open(model: Model) -> None:
    (job,) = plan(config(scheduler="DPM++ 2M Karras"), model)
    assert (job.width, job.height, job.scheduler.name, job.inputs) == (64, 64, "dpm++2m-karras", {})


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (32, 24)),
        ({"width": 64, "height": 48}, (64, 48)),
        ({"mask": True}, (32, 24)),
        ({"mask": True, "padding": 4}, (64, 64)),
        ({"mask": True, "padding": 4, "width": 64, "height": 32}, (64, 32)),
    ],
)
def test_the_size_is_the_one_asked_for_or_the_image_s_own(
    settings: dict[str, Any], size: tuple[int, int], model: Model, files: dict[str, str]
) -> None:
    task: dict[str, Any] = {"kind": "img2img", "image": files["image"]}
    if settings.pop("mask", False):
        task |= {"kind": "inpaint", "mask": files["mask"], "padding": settings.pop("padding", None)}
    (job,) = plan(config(task=task, **settings), model)
    assert (job.width, job.height) == size


@pytest.mark.parametrize(
    ("steps", "strength", "runs"), [(20, 0.8, 16), (20, 1.0, 20), (3, 0.5, 1), (50, 0.29, 14), (20, 0.05, 1)]
)
def test_strength_says_how_many_steps_run(
    steps: int, strength: float, runs: int, model: Model, files: dict[str, str]
) -> None:
    asked = config(steps=steps, task={"kind": "img2img", "image": files["image"], "strength": strength})
    assert plan(asked, model)[0].steps_to_run == runs


def test_a_run_without_a_prompt_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"^prompt: there is none; give one on the command line"):
        plan(config(prompt=None), model)


def test_an_empty_prompt_is_a_prompt(model: Model) -> None:
    assert plan(config(prompt=""), model)[0].prompt == ""


def test_a_model_for_inpainting_paints_nothing_else(tmp_path: Path, files: dict[str, str]) -> None:
    nine = build_model(tmp_path / "nine", channels=9)
    assert plan(inpaint(files), nine)
    with pytest.raises(ConfigError, match=r"^task: .* made for inpainting"):
        plan(config(), nine)


def with_scheduler(model: Model, **own: Any) -> Model:
    """The model with this in its scheduler_config.json."""
    (model.path / "scheduler").mkdir()
    (model.path / "scheduler" / "scheduler_config.json").write_text(json.dumps(own))
    return model


def test_zero_snr_needs_a_scheduler_that_can_do_it(model: Model) -> None:
    asked = config(scheduler="lms", prediction_type="v_prediction", zero_snr="on")
    with pytest.raises(ConfigError, match="zero terminal SNR, which lms does not support"):
        plan(asked, model)


def test_a_scheduler_is_fitted_to_the_model_unless_it_is_exact_or_from_a_record(
    model: Model, tmp_path: Path
) -> None:
    model = with_scheduler(model, _class_name="EulerDiscreteScheduler", timestep_spacing="trailing")
    assert only(config(scheduler="euler"), model).scheduler.name == "euler-trailing"
    exact = only(config(scheduler={"name": "euler", "exact": True}), model)
    assert exact.scheduler.name == "euler"
    assert "exact" not in exact.to_data()["scheduler"]
    record = to_layer(to_portable(exact, tmp_path), tmp_path / "image.png")
    assert only(validate(record), model).id == exact.id
    other = validate(merge([record, override("scheduler", "ddim", "--scheduler")]))
    assert only(other, model).scheduler.name == "ddim-trailing"


def test_a_missing_input_is_named(model: Model) -> None:
    with pytest.raises(MissingInputError, match=r"none\.png: No such file"):
        plan(img2img("none.png"), model)


def test_a_million_images_are_planned_in_the_memory_of_a_few(model: Model) -> None:
    tracemalloc.start()
    jobs = plan(config(count=1_000_000), model)
    assert (len(jobs), jobs[999_999].seed, jobs[10:20][-1].seed) == (1_000_000, 1_000_006, 26)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_input_files_are_read_again_only_when_they_change(model: Model, files: dict[str, str]) -> None:
    first = only(inpaint(files), model)
    shutil.copy(files["other"], files["image"])
    second = only(inpaint(files), model)
    assert first.inputs["mask"] == second.inputs["mask"]
    assert first.inputs["image"] != second.inputs["image"]


# --- the id -------------------------------------------------------------------------------------------------------


def only(asked: RunConfig, model: Model) -> Job:
    (job,) = plan(asked, model)
    return job


def test_an_id_hangs_on_the_content_of_the_inputs_and_not_on_their_paths(
    model: Model, files: dict[str, str], tmp_path: Path
) -> None:
    copy = shutil.copy(files["image"], tmp_path / "copy.png")
    assert only(img2img(files["image"]), model).id == only(img2img(str(copy)), model).id
    assert only(img2img(files["image"]), model).id != only(img2img(files["other"]), model).id


def test_an_id_is_twelve_hex_digits_and_the_same_every_time(model: Model) -> None:
    first, second = only(config(), model).id, only(config(), model).id
    assert first == second
    assert len(first) == len(f"{int(first, 16):012x}") == 12


@pytest.mark.parametrize(
    ("settings", "known"),
    [({}, "3ad61158063d"), ({"steps": 30, "guidance_scale": 5.0, "scheduler": "euler-a"}, "1ad6cbcdf50f")],
)
def test_an_id_of_before_there_were_shortcuts_is_what_it_was(
    settings: dict[str, Any], known: str, model: Model
) -> None:
    assert only(config(guidance_interval=[0, 1], cache_interval=1, vae=None, **settings), model).id == known


def test_every_spelling_of_a_scheduler_gives_one_id(model: Model) -> None:
    names = ("dpm++2m-karras", "DPM++ 2M Karras", "dpmpp_2m_k")
    assert len({only(config(scheduler=name), model).id for name in names}) == 1


CHANGES: list[dict[str, Any]] = [
    {"seed": 8}, {"prompt": "a blue house"}, {"negative_prompt": "x"}, {"steps": 21}, {"guidance_scale": 7.0}, {"clip_skip": 1},
    {"width": 64, "height": 32}, {"dtype": "float32"}, {"scheduler": "ddim"}, {"scheduler": "ddim", "eta": 0.5},
    {"scheduler": {"name": "ddim", "options": {"steps_offset": 0}}},
    {"guidance_interval": [0, 0.5]}, {"cache_interval": 2}, {"vae": "madebyollin/taesd"},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_an_id_changes_with_all_that_changes_the_image(change: dict[str, Any], model: Model) -> None:
    assert only(config(**change), model).id != only(config(), model).id


@pytest.mark.parametrize(
    "change", [{"batch_size": 4}, {"output": {"dir": "x"}}, {"memory": {"vae_slicing": True}}], ids=repr
)
def test_an_id_is_left_alone_by_what_does_not(change: dict[str, Any], model: Model) -> None:
    assert only(config(**change), model).id == only(config(), model).id


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_jobs_share_a_pack_if_only_their_words_and_seeds_differ(change: dict[str, Any], model: Model) -> None:
    alike = change.keys() <= {"seed", "prompt", "negative_prompt"}
    assert (only(config(**change), model).pack == only(config(), model).pack) == alike


@pytest.mark.parametrize("prompt", ["a red house", "a house :)", "", "cat, " * 37])
def test_a_prompt_without_markup_has_the_id_that_it_had_before_there_was_markup(
    prompt: str, model: Model
) -> None:
    new = only(config(prompt=prompt), model)
    assert new.id == only(config(prompt=prompt, prompt_syntax="plain"), model).id
    assert new.to_data()["prompt_syntax"] == "a1111"


@pytest.mark.parametrize("prompt", ["a (red) house", "a BREAK b", "a\\b", "cat, " * 38])
@pytest.mark.parametrize("key", ["prompt", "negative_prompt"])
def test_markup_and_length_are_in_the_id(key: str, prompt: str, model: Model) -> None:
    new, old = (only(config(**{key: prompt}, prompt_syntax=each), model) for each in ("a1111", "plain"))
    assert new.id != old.id


def test_jobs_of_a_pack_have_equally_many_chunks(model: Model) -> None:
    texts = ["a", "b", "a BREAK b", "c BREAK d"]
    packs = [only(config(prompt=text), model).pack for text in texts]
    assert (packs[0], packs[2]) == (packs[1], packs[3])
    assert packs[0] != packs[2]
    # Without guidance the negative prompt is not encoded, so its length makes no difference.
    for scale, chunks in ((1.0, 1), (2.0, 2)):
        asked = config(negative_prompt="a BREAK b", guidance_scale=scale)
        assert only(asked, model).chunks == chunks


@pytest.mark.parametrize("key", ["prompt", "negative_prompt"])
def test_markup_that_is_not_supported_is_refused_unless_it_is_plain(key: str, model: Model) -> None:
    asked = {key: "(a" * 1001}
    with pytest.raises(ConfigError, match=rf"^{key}: .*more than 1,000 brackets.*prompt_syntax: plain"):
        plan(config(**asked), model)
    assert plan(config(**asked, prompt_syntax="plain"), model)


def test_a_setting_of_an_image_that_is_added_leaves_ids_alone_until_it_is_given(model: Model) -> None:
    class Newer(Job):
        hue: int = 0

    job = only(config(), model)
    fields = {name: getattr(job, name) for name in Job.model_fields}
    assert Newer(**fields).id == Newer(**fields, hue=0).id
    assert len({Newer(**fields, hue=hue).id for hue in (0, 1, 2)}) == 3
    assert Newer(**fields).id == job.id


def test_loads_are_equal_if_their_settings_are(model: Model) -> None:
    key = LoadKey.of(config(), model)
    assert key == LoadKey.of(config(steps=3, prompt="x", count=2, batch_size=4, eta=None), model)
    others: list[dict[str, Any]] = [
        {"device": "cpu"}, {"dtype": "float32"}, {"memory": {"offload": "model"}}, {"compile": "off"},
        {"channels_last": "on"}, {"vae": "a/b"},
    ]  # fmt: skip
    assert key not in [LoadKey.of(config(**other), model) for other in others]


# --- jobs inside images -----------------------------------------------------------------------------------------


def test_a_job_survives_a_move_of_its_image_together_with_its_inputs(
    model: Model, files: dict[str, str], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    (here / "out").mkdir(parents=True)
    shutil.move(model.path, here / "model")
    shutil.move(tmp_path / "in", here / "in")
    moved = {name: path.replace(str(tmp_path), str(here)) for name, path in files.items()}
    model = Model(str(here / "model"), here / "model")
    (job,) = plan(inpaint(moved, strength=0.5).model_copy(update={"model": model.name}), model)

    content = json.loads(json.dumps(to_portable(job, here / "out")))
    assert content["task"]["image"] == "./../in/image.png"
    assert content["model"] == "./../model"

    there = here.rename(tmp_path / "there")
    again = validate(merge([to_layer(content, there / "out" / "a.png")]))
    assert (again.count, Path(again.model).resolve()) == (1, there / "model")
    (repeated,) = plan(again, Model(model.name, there / "model"))
    assert repeated.model_copy(update={"model": job.model}).id == job.id


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=repr)
def test_a_job_survives_its_image(change: dict[str, Any], model: Model, tmp_path: Path) -> None:
    job = only(config(count=1, **change), model)
    content = json.loads(json.dumps(to_portable(job, tmp_path)))
    assert list(plan(validate(merge([to_layer(content, tmp_path / "a.png")])), model)) == [job]


def test_an_image_of_before_there_were_shortcuts_was_painted_without(model: Model, tmp_path: Path) -> None:
    job = only(config(prompt_syntax="plain"), model)
    content = {key: value for key, value in to_portable(job, tmp_path).items() if key not in LATER_DEFAULTS}
    below = Layer(
        {
            "cache_interval": 3,
            "guidance_interval": [0, 0.5],
            "vae": "madebyollin/taesd",
            "prompt_syntax": "a1111",
        }
    )
    assert list(plan(validate(merge([below, to_layer(content, tmp_path / "a.png")])), model)) == [job]


def test_flags_lie_over_the_job_of_an_image(model: Model, tmp_path: Path) -> None:
    layer = to_layer(
        to_portable(only(config(scheduler="ddim", eta=1.0), model), tmp_path), tmp_path / "a.png"
    )
    asked = validate(merge([layer, override("steps", 5, "--steps")]))
    assert (asked.steps, asked.eta, asked.scheduler.name) == (5, 1.0, "ddim")
    with pytest.raises(ConfigError) as refusal:
        validate(merge([layer, override("scheduler", "euler", "--scheduler")]))
    assert str(refusal.value).startswith(f"{tmp_path}/a.png: eta: euler has no eta")


def test_an_input_that_has_changed_since_is_refused(
    model: Model, files: dict[str, str], tmp_path: Path
) -> None:
    content = to_portable(only(img2img(files["image"]), model), tmp_path)
    shutil.copy(files["other"], files["image"])
    with pytest.raises(
        InputError, match=r"a\.png: task\.image: .*image\.png is not the file that this image was"
    ):
        to_layer(content, tmp_path / "a.png")


def test_an_input_that_is_gone_is_named(model: Model, files: dict[str, str], tmp_path: Path) -> None:
    content = to_portable(only(img2img(files["image"]), model), tmp_path)
    Path(files["image"]).unlink()
    with pytest.raises(MissingInputError, match=r"a\.png: task\.image: cannot read"):
        to_layer(content, tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"task": 5},
        {"task": "text"},
        {"task": [1]},
        {"inputs": "text"},
        {"inputs": {"image": "0"}},
        {"task": {"kind": "img2img", "image": 5}, "inputs": {"image": "0"}},
        {"task": {"kind": "img2img", "image": "a\0b"}, "inputs": {"image": "0"}},
        {"inputs": {"image": "0"}, "task": {"image": "."}},
        {"seed": "x"},
        {"model": 5},
    ],
    ids=repr,
)
def test_a_job_that_another_hand_wrote_is_good_or_refused(content: dict[str, Any], tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    try:
        said = repr(validate(merge([to_layer(content, image)])))
    except SdappError as exc:
        said = str(exc)
    assert said.startswith((f"{image}: ", "RunConfig("))
