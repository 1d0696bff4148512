"""Masks by words, and details that are found and repainted: models of the real classes with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result as Run

from mask_models import YOLOS_BOX, save_mask_model
from sdapp.diffusion.masks import MaskFinder, grown_on_all_sides, places, without_specks
from sdapp.errors import ConfigError, InputError, UnavailableError
from sdapp.metadata.record import read_header
from sdapp.models.locate import locate
from sdapp.models.mask_models import check_words_to_find, find_mask_model
from sdapp.pipelines import Painter
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.settings.stages import Detail
from sdapp.validation import validate
from test_pipelines import furthest, paint, painter_of, pixels, settings

KINDS = ("clipseg", "owlvit", "owlv2", "yolos", "segformer")
WORDS = "palm tree"
POSTCARDS_MODEL = locate("postcards")
CPU = torch.device("cpu")
Command = Callable[..., Run]


@pytest.fixture(scope="module")
def finders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of a mask model of each kind."""
    return {kind: str(save_mask_model(tmp_path_factory.mktemp(kind), kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def painter() -> Painter:
    return painter_of(settings("postcards"))


def asked(folder: str, **more: Any) -> Detail:
    return check_words_to_find(Detail(mask_prompt=WORDS, mask_model=folder, **more), POSTCARDS_MODEL)


def find(image: Image.Image, folder: str, **more: Any) -> Image.Image | None:
    return MaskFinder(CPU).find(image, asked(folder, **more), stays=True)


def white(mask: Image.Image | None) -> int:
    return 0 if mask is None else int((np.asarray(mask) > 0).sum())


# --- finding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_finds_the_same_again_and_less_if_it_must_be_surer(
    kind: str, finders: dict[str, str], house: Path
) -> None:
    with Image.open(house) as image:
        low, again = (find(image, finders[kind], mask_threshold=0.1, mask_growth=0) for _ in range(2))
        high = find(image, finders[kind], mask_threshold=0.999999, mask_growth=0)
    assert low is not None
    assert again is not None
    assert (low.mode, low.size, {0, 255} >= {*low.tobytes()}) == ("L", (64, 64), True)
    assert low.tobytes() == again.tobytes()
    assert 0 <= white(high) < white(low) <= 64 * 64


def test_a_clipseg_finds_what_its_class_in_transformers_says(finders: dict[str, str], house: Path) -> None:
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

    model = CLIPSegForImageSegmentation.from_pretrained(finders["clipseg"]).eval()
    words = CLIPTokenizer.from_pretrained(finders["clipseg"])([WORDS], return_tensors="pt")
    with Image.open(house) as image:
        small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
        found = find(image.resize((32, 32), Image.Resampling.BILINEAR), finders["clipseg"], mask_growth=0)
    pixels = torch.from_numpy(small / 127.5 - 1).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        said = model(**words, pixel_values=pixels).logits.reshape(32, 32).sigmoid().numpy()
    assert ((np.asarray(found) > 0) == without_specks(said >= 0.4)).mean() > 0.99  # but for its rounding


def test_a_box_is_filled_and_grows(finders: dict[str, str]) -> None:
    image = Image.new("RGB", (80, 40))
    x, y, width, height = YOLOS_BOX
    mask = np.zeros((40, 80), bool)
    mask[
        int(40 * (y - height / 2)) : int(40 * (y + height / 2)),
        int(80 * (x - width / 2)) : int(80 * (x + width / 2)),
    ] = True
    plain, grown = (find(image, finders["yolos"], mask_growth=growth) for growth in (0, 3))
    assert ((np.asarray(plain) > 0) == mask).all()
    assert grown is not None
    assert grown.getbbox() == (10 - 3, 10 - 3, 30 + 3, 30 + 3)


def test_specks_are_left_out_and_places_are_apart() -> None:
    found = np.zeros((100, 100), bool)
    found[10:30, 60:80] = found[40:60, 5:25] = True
    found[90, 90] = True
    mask = Image.fromarray(without_specks(found)).convert("L")
    (left, one), (right, other) = places(mask)
    assert (left, right) == ((5, 40, 25, 60), (60, 10, 80, 30))
    assert white(one) == white(other) == 400
    assert one.getbbox() == left


@pytest.mark.parametrize("growth", [0, 1, 5, 30])
def test_what_is_found_grows_by_a_square_up_to_the_edges(growth: int) -> None:
    found = np.zeros((40, 60), bool)
    found[0, 0] = found[20:24, 52] = found[39, 30] = True
    grown = Image.fromarray(grown_on_all_sides(found, growth)).convert("L")
    filtered = Image.fromarray(found).convert("L").filter(ImageFilter.MaxFilter(2 * growth + 1))
    assert grown.tobytes() == filtered.tobytes()


BAD_MODELS = {
    "another architecture": (
        "is a BertModel; allowed: CLIPSegForImageSegmentation, OwlViT",
        {"architectures": ["BertModel"]},
    ),
    "no architecture": ("is a None; allowed", {}),
}


@pytest.mark.parametrize(("message", "config"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_other_architectures_are_refused_by_name(
    message: str, config: dict[str, Any], finders: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(finders["clipseg"], tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnavailableError, match=message):
        find_mask_model(str(tmp_path / "model"))


def test_pickles_files_and_damaged_models_are_refused(finders: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(finders["clipseg"], tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    with pytest.raises(UnavailableError, match="is a file; give the folder"):
        find_mask_model(str(weights))
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    with pytest.raises(UnavailableError, match=r"mask_model: .* is damaged"):
        find_mask_model(str(tmp_path / "model"))
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(
        UnavailableError, match=r"only pytorch_model\.bin, which can run code and is not read"
    ):
        find_mask_model(str(tmp_path / "model"))
    (tmp_path / "face_yolov8n.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(UnavailableError, match="a pickled checkpoint can run code, so it is not read"):
        find_mask_model(str(tmp_path / "face_yolov8n.pt"))
    with pytest.raises(UnavailableError, match="mask_model: no folder or file"):
        find_mask_model(str(tmp_path / "none"))


def test_words_must_be_labels_of_a_detector_that_has_some(finders: dict[str, str]) -> None:
    assert asked(finders["yolos"]).mask_threshold == 0.5
    for words in ("the Palm", "palm  TREE", "a house"):
        check_words_to_find(Detail(mask_prompt=words, mask_model=finders["segformer"]), POSTCARDS_MODEL)
    with pytest.raises(ConfigError, match="no label 'dragon'; it finds cat, palm tree, palm, house"):
        check_words_to_find(Detail(mask_prompt="dragon", mask_model=finders["yolos"]), POSTCARDS_MODEL)
    dragon = Detail(mask_prompt="dragon", mask_model="postcards")
    with pytest.raises(ConfigError, match=r"it finds background, cat, .*, castle; to paint without: --set"):
        check_words_to_find(dragon, POSTCARDS_MODEL)
    with pytest.raises(ConfigError, match="did you mean 'house'"):
        check_words_to_find(Detail(mask_prompt="houses", mask_model=finders["yolos"]), POSTCARDS_MODEL)


# --- inpainting by words ------------------------------------------------------------------------------------------


def by_words(house: Path, folder: str, **more: Any) -> dict[str, Any]:
    task = {"kind": "inpaint", "image": str(house), "mask_prompt": WORDS, "mask_model": folder}
    return settings("postcards", task=task | more)


@pytest.mark.parametrize("padding", [None, 8])
def test_it_is_inpainting_with_the_mask_that_is_found(
    padding: int | None, finders: dict[str, str], house: Path, tmp_path: Path, painter: Painter
) -> None:
    [found] = paint(by_words(house, finders["yolos"], padding=padding), painter)
    with Image.open(house) as image:
        mask = find(image, finders["yolos"])
    assert mask is not None
    mask.save(tmp_path / "found.png")
    task = {"kind": "inpaint", "image": str(house), "mask": str(tmp_path / "found.png"), "padding": padding}
    [given] = paint(settings("postcards", task=task), painter)
    assert furthest(found, given) == 0
    assert found.record is not None
    assert found.record.found == ({"mask_prompt": WORDS, "boxes": [mask.getbbox()]},)
    assert found.job.id != given.job.id


def test_the_id_has_the_model_by_its_content_and_the_words_the_threshold_and_the_growth(
    finders: dict[str, str], house: Path, tmp_path: Path
) -> None:
    def job_id(folder: str, **more: Any) -> str:
        return plan(validate(Layer(by_words(house, folder, **more))), POSTCARDS_MODEL)[0].id

    moved = str(shutil.copytree(finders["clipseg"], tmp_path / "moved"))
    first = job_id(finders["clipseg"])
    assert first == job_id(moved) == job_id(moved, mask_threshold=0.4, mask_growth=4)
    others = [
        job_id(finders["owlvit"]), job_id(moved, mask_threshold=0.5), job_id(moved, mask_growth=5),
        job_id(moved, mask_prompt="house"), job_id(moved, padding=8),
    ]  # fmt: skip
    assert len({first, *others}) == 6
    digest = check_words_to_find(Detail(mask_prompt="a", mask_model=moved), POSTCARDS_MODEL).mask_sha256
    with pytest.raises(InputError, match=f"is not the model that was used: its SHA-256 is {digest}"):
        job_id(moved, mask_sha256="0" * 64)


def test_a_mask_from_a_file_has_the_record_that_it_always_had(house: Path, mask: Path) -> None:
    task = {"kind": "inpaint", "image": str(house), "mask": str(mask)}
    job = plan(validate(Layer(settings("postcards", task=task))), POSTCARDS_MODEL)[0]
    assert list(job.to_data()["task"]) == ["kind", "image", "mask", "strength", "padding"]


def test_nothing_found_fails_by_name_and_other_lines_go_on(
    finders: dict[str, str], house: Path, sdapp: Command
) -> None:
    shared = f"--image house.png --set task.mask_model={finders['clipseg']}"
    lines = [
        f"a castle {shared} --mask-prompt tree --mask-threshold 0.9999999",
        f"a castle {shared} --mask-prompt tree",
    ]
    Path("prompts.txt").write_text("\n".join(lines))
    run = sdapp("batch", "prompts.txt", "--steps", 2, "--seed", 1, "--out", "out")
    assert run.exit_code == 3
    words = "no 'tree' was found in house.png; try other words, or a task.mask_threshold below 1"
    assert words in Path("out", "ledger.jsonl").read_text()
    [path] = Path("out").glob("*.png")
    assert json.loads(sdapp("replay", path, "--verify", "--json").stdout)["largest_difference"] == 0


def test_the_command_takes_words_in_place_of_a_mask(
    finders: dict[str, str], house: Path, sdapp: Command
) -> None:
    more = ("--steps", 2, "--seed", 1, "--set", f"task.mask_model={finders['yolos']}")
    run = sdapp("inpaint", house, "a castle", "--mask-prompt", WORDS, "--padding", 8, *more, "--out", "o")
    assert run.exit_code == 0, run.output
    content = read_header(Path(run.stdout.strip()))
    assert content["job"]["prompt"] == "a castle"
    assert content["job"]["task"]["padding"] == 8
    assert not Path(content["job"]["task"]["mask_model"]).is_absolute()
    assert content["record"]["found"][0]["mask_prompt"] == WORDS
    replayed = sdapp("replay", run.stdout.strip(), "--verify", "--json")
    assert json.loads(replayed.stdout)["largest_difference"] == 0
    with Image.open(run.stdout.strip()) as image:
        assert f"Mask prompt: {WORDS}, " in image.info["parameters"]


REFUSED = {
    "no mask": ("MASK: is missing; write: sdapp inpaint IMAGE MASK PROMPT, or sdapp inpaint IMAGE PROMPT", "inpaint house.png"),
    "a mask and words": ("--mask-prompt: does not fit with task.mask (mask.png)", "inpaint house.png mask.png cat --mask-prompt house"),
    "no words": ("--mask-prompt: must not be empty", "inpaint house.png cat --mask-prompt ''"),
    "blank words": ("--mask-prompt: must not be empty", "inpaint house.png cat --mask-prompt ' '"),
    "a growth for a file": ("task.mask_growth=9: has no effect on a mask from a file",
                            "inpaint house.png mask.png cat --set task.mask_growth=9"),
    "generate": ("task.mask_prompt=house: unknown key", "generate cat --set task.kind=txt2img --set task.mask_prompt=house"),
    "blank details": ("detail", "generate cat --detail ' '"),
    "a detail without steps": ("--detail house:0.01: strength: with strength 0.01, none of 20 steps runs", "generate cat --detail house:0.01"),
    "a LoRA in a detail": ("detail: LoRAs are those of the image", "generate cat --set 'detail=[{mask_prompt: house, prompt: <lora:x:1>}]'"),
    "joined prompts in a detail": ("detail.0.prompt: ", "generate cat --set 'detail=[{mask_prompt: house, prompt: a AND b}]'"),
    "an unknown mask model": ("mask_model: no folder or file ./nowhere", "generate cat --set 'detail=[{mask_prompt: a, mask_model: ./nowhere}]'"),
}  # fmt: skip


@pytest.mark.parametrize(("message", "command"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(
    message: str, command: str, house: Path, mask: Path, sdapp: Command
) -> None:
    import shlex

    run = sdapp(*shlex.split(command), "--model", "postcards")
    assert run.exit_code != 0
    assert message in run.stderr


# --- details ------------------------------------------------------------------------------------------------------


def test_each_place_is_repainted_with_its_own_seed_and_the_rest_stays(
    finders: dict[str, str], painter: Painter
) -> None:
    """OWL-ViT finds cells of a grid in several places; each depends on the seed of its image alone."""
    detail = {
        "mask_prompt": WORDS,
        "mask_model": finders["owlvit"],
        "mask_growth": 0,
        "mask_blur": 0,
        "padding": 4,
        "strength": 0.6,
    }
    plain = paint(settings("postcards", count=2, batch_size=2), painter)
    both = paint(settings("postcards", count=2, batch_size=2, detail=[detail]), painter)
    [alone] = paint(settings("postcards", seed=8, detail=[detail]), painter)
    for one, other in zip(plain, both, strict=True):
        assert one.record is not None
        assert other.record is not None
        [entry] = other.record.found
        inside = np.zeros((64, 64), bool)
        for left, top, right, bottom in entry["boxes"]:
            inside[top:bottom, left:right] = True
        changed = (pixels(one) != pixels(other)).any(axis=2)
        assert 0 < changed.sum() <= inside.sum()
        assert not changed[~inside].any()
        assert other.record.unet_calls == one.record.unet_calls + len(entry["boxes"]) * 2  # int(4 × 0.6)
    assert alone.record is not None
    assert alone.record.found == both[1].record.found  # type: ignore[union-attr]
    assert furthest(alone, both[1]) <= 2
    assert len({result.job.id for result in (*plain, *both)}) == 4


@pytest.mark.parametrize("options", [{"is_xl": True}, {"in_channels": 9}], ids=str)
def test_details_work_with_sdxl_and_with_a_model_for_inpainting(
    options: dict[str, Any], tiny: Callable[..., Path], finders: dict[str, str], house: Path, mask: Path
) -> None:
    task = (
        {"kind": "inpaint", "image": str(house), "mask": str(mask)}
        if "in_channels" in options
        else {"kind": "txt2img"}
    )
    asked = settings(tiny(**options), task=task, width=64, height=64)
    detail = {
        "mask_prompt": WORDS,
        "mask_model": finders["yolos"],
        "mask_growth": 0,
        "mask_blur": 0,
        "padding": 0,
        "prompt": "a (cat:1.3)",
    }
    painter = painter_of(asked)
    [plain], [detailed], [again] = (
        paint(asked | more, painter) for more in ({}, {"detail": [detail]}, {"detail": [detail]})
    )
    x, y, width, height = (round(64 * number) for number in YOLOS_BOX)
    left, top = x - width // 2, y - height // 2
    changed = (pixels(plain) != pixels(detailed)).any(axis=2)
    assert changed[top : top + height, left : left + width].mean() > 0.5
    changed[top : top + height, left : left + width] = False
    assert not changed.any()
    assert furthest(detailed, again) == 0


def test_an_image_with_nothing_to_find_stays_as_it_is_and_says_so(
    finders: dict[str, str], painter: Painter
) -> None:
    nothing = {"mask_prompt": WORDS, "mask_model": finders["clipseg"], "mask_threshold": 0.9999999}
    found = {
        "mask_prompt": WORDS,
        "mask_model": finders["yolos"],
        "prompt": "a (blue:1.2) castle",
        "padding": 0,
    }
    [plain] = paint(settings("postcards"), painter)
    [left] = paint(settings("postcards", detail=[nothing]), painter)
    [second] = paint(settings("postcards", detail=[nothing, found]), painter)
    assert furthest(plain, left) == 0
    assert left.record is not None
    assert second.record is not None
    assert left.record.found == ({"mask_prompt": WORDS, "boxes": []},)
    assert [len(entry["boxes"]) for entry in second.record.found] == [0, 1]
    assert furthest(plain, second) > 2


@pytest.mark.parametrize(
    ("found", "told_first", "told_last"),
    [([3], (1, 6), (10, 10)), ([0], (1, 6), (4, 4)), ([0, 2], (1, 8), (8, 8)), ([2, 0], (1, 8), (8, 8))],
)
def test_the_steps_that_are_told_end_at_their_number_however_many_places_are_found(
    found: list[int],
    told_first: tuple[int, int],
    told_last: tuple[int, int],
    finders: dict[str, str],
) -> None:
    left_to_find = iter(found)

    def find(module: torch.nn.Module, _: Any, output: Any) -> None:
        """Let the detector see so many palm trees of 8 x 8 pixels side by side."""
        if type(module).__name__ == "YolosForObjectDetection":
            trees = next(left_to_find)
            output.logits[0] = torch.tensor([0.0, 0.0, 0.0, 9.0])  # nothing
            output.logits[0, :trees] = torch.tensor([0.0, 9.0, 0.0, 0.0])
            for tree, box in enumerate(output.pred_boxes[0]):
                box[:] = torch.tensor([8 + 16 * tree, 24, 8, 8]) / 64

    details = [  # with different thresholds, or the second would be what was found before
        {"mask_prompt": WORDS, "mask_model": finders["yolos"], "strength": 0.6, "mask_growth": 0, "mask_threshold": 0.5 + i / 10}
        for i in range(len(found))
    ]  # fmt: skip
    jobs = plan(validate(Layer(settings("postcards", detail=details))), POSTCARDS_MODEL)
    told: list[tuple[int, int]] = []
    painter = painter_of(settings("postcards"))  # a new one, which remembers nothing that was found
    with torch.nn.modules.module.register_module_forward_hook(find):
        [result] = painter.paint(jobs, on_step=lambda _first, _images, *step: told.append(step))
    assert (told[0], told[-1]) == (told_first, told_last)
    assert all(step <= steps for step, steps in told)
    assert sorted({step for step, _ in told}) == [*range(1, told_last[0] + 1)]
    assert result.record is not None
    assert [len(entry["boxes"]) for entry in result.record.found] == found
    assert result.record.unet_calls == told_last[0]


def test_details_come_after_upscaling_at_the_size_of_the_first_image_and_are_replayed(
    finders: dict[str, str], sdapp: Command
) -> None:
    detail = f"detail=[{{mask_prompt: {WORDS}, mask_model: {finders['yolos']}, prompt: a blue castle, strength: 0.5}}]"
    more = ("--steps", 4, "--seed", 3, "--model", "postcards", "--upscale", 2, "--out", "out")
    run = sdapp("generate", "a red house", "--set", detail, *more)
    assert run.exit_code == 0, run.output
    path = Path(run.stdout.strip())
    content = read_header(path)
    x, y, width, height = (round(128 * number) for number in YOLOS_BOX)
    box = [x - width // 2 - 4, y - height // 2 - 4, x + width // 2 + 4, y + height // 2 + 4]
    assert content["record"]["found"] == [{"mask_prompt": WORDS, "boxes": [box]}]
    assert content["record"]["unet_calls"] == 4 + 1 + 2
    checked = sdapp("replay", path, "--verify", "--json")
    assert json.loads(checked.stdout)["largest_difference"] == 0
    with Image.open(path) as image:
        text = image.info["parameters"]
        bare = Image.new("RGB", image.size)
        bare.paste(image)
    name = Path(finders["yolos"]).name
    assert (
        f"ADetailer model: {name}, ADetailer model classes: {WORDS}, ADetailer prompt: a blue castle, "
        in text
    )
    assert "ADetailer denoising strength: 0.5, ADetailer inpaint padding: 32, " in text
    info = PngInfo()
    info.add_text("parameters", text)
    bare.save("bare.png", pnginfo=info)
    again = sdapp("generate", "--config", "bare.png", "--out", "again")
    assert f"{name} ('{WORDS}' is looked for by another model)" in again.stderr, again.output


def test_a_detail_can_be_varied_and_is_a_column_of_prompt_files(
    finders: dict[str, str], sdapp: Command
) -> None:
    Path("prompts.csv").write_text('prompt,seed,detail\na red house,1,house:0.3\na tree,2,"tree, cat:0.5"\n')
    run = sdapp("batch", "prompts.csv", "--dry-run", "--json")
    assert run.exit_code == 0, run.output
    grid = ("--schedulers", "euler", "--steps", 4, "--seeds", 1, "--dry-run")
    run = sdapp("compare", "a house", "--vary", "detail=house:0.3,house:0.6", *grid)
    assert run.exit_code == 0, run.output
    assert "2 cells" in run.stderr


# --- the mask model of postcards ----------------------------------------------------------------------------------


def test_postcards_brings_one_that_finds_the_things_it_paints(sdapp: Command) -> None:
    run = sdapp(
        "generate",
        "a red house on a beach at sunset",
        "--seed",
        7,
        "--detail",
        "house:0.5",
        "--model",
        "postcards",
    )
    assert run.exit_code == 0, run.output
    [[left, top, right, bottom]] = read_header(Path(run.stdout.strip()))["record"]["found"][0]["boxes"]
    assert left < 32 < right
    assert top < 40 < bottom
    assert 0.15 < (right - left) * (bottom - top) / 64**2 < 0.6
    shown = sdapp("show", run.stdout.strip()).stdout
    assert "mask_prompt house, strength 0.5, " in shown
    assert "sha256" not in shown  # sixty-four digits, which --json has
    run = sdapp("inpaint", run.stdout.strip(), "a cat", "--mask-prompt", "a boat", "--model", "postcards")
    assert run.exit_code == 65
    assert "no 'a boat' was found in " in run.stderr


def test_a_long_prompt_of_a_detail_leaves_the_rest_of_the_image_alone(painter: Painter) -> None:
    """It is cut to chunks of its own."""
    detail = {"mask_prompt": "house", "mask_blur": 0, "prompt": "a red house, " * 30}
    [plain], [same] = (paint(settings("postcards") | more, painter) for more in ({}, {"detail": [detail]}))
    assert same.record is not None
    changed = (pixels(plain) != pixels(same)).any(axis=2)
    for left, top, right, bottom in same.record.found[0]["boxes"]:
        changed[top:bottom, left:right] = False
    assert not changed.any()


def test_details_of_before_there_was_a_blur_are_read_with_a_hard_edge(sdapp: Command) -> None:
    run = sdapp("generate", "a red house", "--model", "postcards", "--steps", 4, "--seed", 7,
                "--set", "detail=[{mask_prompt: house, mask_blur: 0}]")  # fmt: skip
    [detail] = read_header(Path(run.stdout.strip()))["job"]["detail"]
    assert "mask_blur" not in detail  # as in records of then
    again = sdapp("replay", run.stdout.strip(), "--verify")
    assert again.exit_code == 0, again.stderr
    assert "ADetailer mask blur: 0" in Image.open(run.stdout.strip()).info["parameters"]
