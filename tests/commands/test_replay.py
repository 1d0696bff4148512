"""Images painted again, as they were or with other settings, and held against their files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from sdapp.metadata.record import read_image
from sdapp.notes import Notes
from sdapp.replays import group_by_load, plan_replays

Run = Callable[..., Result]
CASES = Path(__file__).parents[1] / "cases"
FAST = ("--steps", 2, "--seed", 7)
A1111 = "a red house\nNegative prompt: a tree\nSteps: 2, Sampler: Euler a, CFG scale: 5, Seed: 9, Size: 64x64"


def paint(sdapp: Run, *words: object) -> list[Path]:
    result = sdapp("generate", *words, *FAST)
    assert result.exit_code == 0, result.stderr
    return [Path(line) for line in result.stdout.splitlines()]


def theirs(name: str = "theirs.png", text: str = A1111, size: tuple[int, int] = (64, 64)) -> Path:
    info = PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", size).save(name, pnginfo=info)
    return Path(name)


def with_record(path: Path, change: Callable[[dict[str, Any]], object], name: str = "changed.png") -> Path:
    """The image with another record inside."""
    content = read_image(path)
    change(content["record"])
    info = PngInfo()
    info.add_itxt("sdapp", json.dumps(content))
    with Image.open(path) as image:
        image.save(name, pnginfo=info)
    return Path(name)


def jobs(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [read_image(Path(line))["job"] for line in result.stdout.splitlines()]


def errors(result: Result) -> list[str]:
    assert result.stdout == ""
    return errors_in(result)


def errors_in(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


# --- painting again -----------------------------------------------------------------------------------------


def test_images_of_every_format_are_painted_again_bit_for_bit(sdapp: Run) -> None:
    paths = [
        path
        for kind in ("png", "jpeg", "webp")
        for path in paint(sdapp, "a cat", "--set", f"output.format={kind}")
    ]
    result = sdapp("replay", *paths, "--out", "again")
    assert result.exit_code == 0, result.stderr
    again = [Path(line) for line in result.stdout.splitlines()]
    assert [path.name for path in again] == ["a-cat-7.png", "a-cat-7-2.png", "a-cat-7-3.png"]
    contents = [read_image(path) for path in [*paths, *again]]
    assert len({content["record"]["job_id"] for content in contents}) == 1
    pixels = {Image.open(path).tobytes() for path in [paths[0], *again]}
    assert len(pixels) == 1


def test_flags_set_and_configs_change_what_they_name_in_all_images(sdapp: Run) -> None:
    paths = paint(sdapp, "a cat", "--count", 2, "--scheduler", "ddim")
    Path("mine.yaml").write_text("guidance_scale: 3\nsteps: 9\n")
    result = sdapp("replay", *paths, "-c", "mine.yaml", "--set", "steps=1", "--scheduler", "Euler a", "--set",
                   "output.format=webp", "--json")  # fmt: skip
    assert [json.loads(line)["seed"] for line in result.stdout.splitlines()] == [7, 8]
    written = [read_image(Path(json.loads(line)["path"]))["job"] for line in result.stdout.splitlines()]
    assert {(job["steps"], job["scheduler"]["name"], job["guidance_scale"]) for job in written} == {
        (1, "euler-a", 3.0)
    }
    assert sorted(path.name for path in Path("outputs").glob("*.webp")) == ["a-cat-7.webp", "a-cat-8.webp"]


def test_an_image_painted_over_another_finds_its_inputs(sdapp: Run, house: Path, mask: Path) -> None:
    [path] = sdapp("inpaint", house, mask, "a cat", *FAST, "--out", "deep/er").stdout.split()
    assert jobs(sdapp("replay", path))[0]["task"]["kind"] == "inpaint"
    Image.new("RGB", (64, 64)).save(house)
    result = sdapp("replay", path)
    assert result.exit_code == 65
    assert "is not the file that this image was made from" in errors(result)[0]


def test_an_image_of_another_tool_is_painted_and_what_is_lost_is_told(sdapp: Run) -> None:
    result = sdapp(
        "replay", theirs(), theirs("unsown.png", "a cat\nSteps: 2, Sampler: DDIM, Size: 64x64, Eta: 1")
    )
    one, two = jobs(result)
    assert (one["prompt"], one["negative_prompt"], one["scheduler"]["name"], one["seed"]) == (
        "a red house",
        "a tree",
        "euler-a",
        9,
    )
    assert (
        "theirs.png sets profile: a1111, to be painted as A1111 does; what can still differ: "
        in result.stderr
    )
    assert "unsown.png was made by A1111; not carried over: " in result.stderr
    assert "unsown.png: there is no seed inside" in result.stderr
    assert two["scheduler"]["name"] == "ddim"


def test_an_image_of_a1111_is_painted_as_a1111_paints_it(sdapp: Run) -> None:
    """Its pixels are those of the profile, which only its tool names."""
    [path] = paint(sdapp, "a red house", "--scheduler", "euler-a", "--set", "profile=a1111")
    text = Image.open(path).info["parameters"].replace("Profile: a1111, ", "").replace("sdapp ", "v")
    info = PngInfo()
    info.add_text("parameters", text)
    with Image.open(path) as image:
        image.save("a1111.png", pnginfo=info)
    assert sdapp("replay", "a1111.png", "--model", "postcards", "--verify").exit_code == 0
    other = sdapp("replay", "a1111.png", "--model", "postcards", "--verify", "--set", "profile=diffusers")
    assert "largest difference" in other.stderr
    assert other.exit_code == 3


def test_images_of_two_models_load_each_of_them_once(sdapp: Run, tiny: Callable[..., Path]) -> None:
    first = paint(sdapp, "a cat", "--count", 2)
    second = paint(sdapp, "a ship", "--count", 2, "--model", tiny())
    mixed = [first[0], second[0], first[1], second[1]]
    result = sdapp("replay", *mixed, "--out", "again", "--set", "batch_size=4")
    assert [Path(line).name for line in result.stdout.splitlines()] == [
        "a-cat-7.png", "a-cat-8.png", "a-ship-7.png", "a-ship-8.png",
    ]  # fmt: skip
    sizes = [read_image(Path(line))["record"]["batch_size"] for line in result.stdout.splitlines()]
    assert sizes == [2, 2, 2, 2], "one load of each model, and neighbours share their UNet calls"
    assert [
        [each.path for each in group] for group in group_by_load(plan_replays(mixed, [], Notes(None))[0])
    ] == [
        first,
        second,
    ]
    verified = sdapp("replay", *mixed, "--verify")
    assert verified.exit_code == 0
    assert len(verified.stdout.splitlines()) == 4


def test_an_image_that_fails_is_told_and_the_others_are_painted(sdapp: Run, predicts_image: Path) -> None:
    [path] = paint(sdapp, "a cat", "--model", predicts_image)
    bad = theirs(text="x\nSteps: 2, Sampler: Euler a, Seed: 3, Size: 64x64, RNG: CPU")
    result = sdapp("replay", bad, path, "--model", predicts_image)
    assert result.exit_code == 3
    assert (
        "error: theirs.png: NotImplementedError: prediction_type not implemented yet: sample" in result.stderr
    )
    assert len(result.stdout.splitlines()) == 1
    verified = sdapp("replay", bad, path, "--model", predicts_image, "--verify", "--json")
    assert verified.exit_code == 3
    rows = [json.loads(line) for line in verified.stdout.splitlines()]
    assert [(row["path"], row["seed"], row["largest_difference"]) for row in rows] == [
        ("theirs.png", 3, None),
        (str(path), 7, 0),
    ]
    assert (rows[0]["error"][:14], rows[1]["error"]) == ("NotImplemented", None)


# --- verifying ----------------------------------------------------------------------------------------------


def test_verify_says_zero_of_untouched_images_and_writes_none(sdapp: Run) -> None:
    paths = [*paint(sdapp, "a cat", "--count", 2)]
    paths += paint(sdapp, "a cat", "--set", "output.format=webp", "--set", "output.quality=100")
    result = sdapp("replay", *paths, "--verify")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [f"{path}: largest difference 0 of 255" for path in paths]
    assert result.stderr == ""
    assert sorted(Path("outputs").iterdir()) == sorted(paths)


@pytest.mark.parametrize(("change", "code"), [(2, 0), (3, 3)])
def test_verify_finds_a_pixel_that_was_changed_by_more_than_two(change: int, code: int, sdapp: Run) -> None:
    [path] = paint(sdapp, "a cat")
    with Image.open(path) as image:
        info = PngInfo()
        info.add_itxt("sdapp", image.info["sdapp"])
        red, green, blue = image.getpixel((5, 9))
        image.putpixel((5, 9), (red, green + (change if green < 128 else -change), blue))
        image.save("tampered.png", pnginfo=info)
    result = sdapp("replay", "tampered.png", path, "--verify")
    assert result.exit_code == code
    assert result.stdout.splitlines()[0] == f"tampered.png: largest difference {change} of 255"
    assert ("1 of 2 images differ by more than 2 of 255" in result.stderr) == (code == 3)


def test_verify_of_lossy_images_says_so_and_does_not_fail(sdapp: Run) -> None:
    quality = ("--set", "output.quality=5")
    kinds = [("--set", f"output.format={kind}", *quality) for kind in ("jpeg", "webp")]
    paths = [path for options in kinds for path in paint(sdapp, "a cat", *options)]
    result = sdapp("replay", *paths, "--verify")
    assert result.exit_code == 0
    for line in result.stdout.splitlines():
        difference = re.search(r": largest difference (\d+) of 255 \(lossy\)$", line)
        assert difference
        assert int(difference[1]) > 2


def test_verify_says_that_sizes_differ(sdapp: Run) -> None:
    wrong = theirs(size=(128, 72))
    result = sdapp("replay", wrong, "--verify")
    assert result.exit_code == 3
    assert result.stdout == "theirs.png: the sizes differ: 128x72 in the file, 64x64 painted again\n"


def test_verify_names_what_is_other_than_in_the_record(sdapp: Run) -> None:
    [path] = paint(sdapp, "a cat")
    moved = with_record(
        path, lambda record: record.update(device="cuda:0 (H200)", versions={"torch": "1.0", "sdapp": 3})
    )
    result = sdapp("replay", moved, "--verify")
    assert result.exit_code == 0
    unnamed = with_record(path, lambda record: record.update(device="cpu"), "unnamed.png")
    result = sdapp("replay", moved, unnamed, "--verify")
    assert re.search(
        r"unnamed\.png was painted with a cpu that its record does not name \(small differences",
        result.stderr,
    )
    said = r"device cuda:0 \(H200\) \(here cpu \(.*\)\), sdapp 3 \(here \S+\), torch 1\.0 \(here \S+\)"
    assert re.search(f"^note: changed.png was painted with {said}$", result.stderr, re.MULTILINE)
    result = sdapp("replay", moved, moved, moved, "--verify")
    assert re.fullmatch(f"note: changed.png and 2 more images were painted with {said}\n", result.stderr)


@pytest.mark.parametrize("versions", [None, [], {"torch": "\x1b[31m"}, {"torch": ["x" * 9000]}])
def test_a_broken_record_breaks_no_note(versions: object, sdapp: Run) -> None:
    [path] = paint(sdapp, "a cat")
    broken = with_record(path, lambda record: record.update(versions=versions, device={}))
    result = sdapp("replay", broken, "--verify")
    assert result.exit_code == 0
    assert "\x1b" not in result.stderr
    assert len(result.stderr) < 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x"), "--verify writes no image"),
        (("--count", 2), "leave count at 1"),
        (("--steps", 0), "steps: "),
    ],
)
def test_what_verify_cannot_do_is_refused(words: tuple[object, ...], message: str, sdapp: Run) -> None:
    result = sdapp("replay", theirs(), "--verify", *words)
    assert result.exit_code == 2
    assert message in errors(result)[0]


# --- errors -------------------------------------------------------------------------------------------------


def test_errors_of_all_images_come_together_each_with_its_name(sdapp: Run, house: Path) -> None:
    good, odd = theirs(), theirs("odd.png", f"{A1111}, Denoising strength: 0.5")
    result = sdapp(
        "replay", good, "nowhere.png", house.name, odd, "--device", "cpu", "--set", "scheduler=eulr"
    )
    found = errors(result)
    assert result.exit_code == 2
    for name, message in (
        ("theirs.png", "did you mean 'euler"), ("nowhere.png", "No such file"),
        ("house.png", "no sdapp record inside"),
        ("odd.png", "task.image: is required here"), ("odd.png", "did you mean 'euler"),
    ):  # fmt: skip
        assert [line for line in found if name in line and message in line], (name, message)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("command", ["replay", "upscale"])
def test_an_option_that_is_wrong_for_all_images_is_one_error(command: str, sdapp: Run) -> None:
    result = sdapp(command, theirs(), theirs("other.png"), "--model", "postcards", "--steps", 0)
    assert result.exit_code == 2
    assert errors(result) == ["error: --steps: must be 1 or more, not 0"]


def test_all_that_stops_an_image_is_told_at_once_with_a_way_out(sdapp: Run) -> None:
    details = "ADetailer model: face_yolov8n.pt, ADetailer prompt: a (b:1.2.3), ADetailer model 2nd: hand_yolov8n.pt"
    text = A1111.replace("red", "red AND").replace("a tree", "(a:1.2.3)")
    image = theirs(text=f"{text}, Model: postcards, {details}")
    found = errors(sdapp("replay", image, "--model", "postcards"))
    assert [line.split(": ")[2] for line in found] == [
        "prompt", "negative_prompt", "detail.0.prompt", "mask_prompt", "mask_prompt",
    ]  # fmt: skip
    assert all(line.endswith("to paint without: --set detail=null") for line in found[3:])
    way = ("--set", "detail=null", "--set", "prompt_syntax=plain")
    [job] = jobs(sdapp("replay", image, "--model", "postcards", *way))
    assert job["detail"] == []
    shown = sdapp("show", image).stdout
    assert "detail mask_prompt face, prompt a (b:1.2.3); mask_prompt hand" in shown
    missing = "detail=[{mask_prompt: face, mask_model: CIDAS/clipseg-rd64-refined}]"
    absent = sdapp("replay", image, "--model", "postcards", "--offline", "--set", missing)
    assert "you are offline; give a folder; to paint without: --set detail=null" in absent.stderr


def test_images_without_settings_do_not_stop_the_others(sdapp: Run, house: Path) -> None:
    """The reason comes before the painting, and at the end."""
    [path] = paint(sdapp, "a cat")
    for options in ((), ("--verify",)):
        result = sdapp("replay", house.name, theirs(), "nowhere.png", path, *options)
        assert result.exit_code == 3
        assert len(result.stdout.splitlines()) == 2
        lines = result.stderr.splitlines()
        assert [line for line in lines if line.startswith("note: left out: house.png: has no sdapp record")]
        assert "error: 2 of 4 images could not be read:" in lines
        assert ("error: 1 of 2 images differ by more than 2 of 255, or failed:" in lines) == bool(options)
        assert [line for line in errors_in(result) if "house.png" in line]
        assert [line for line in errors_in(result) if "nowhere.png" in line]


@pytest.mark.parametrize(
    ("file", "node"), [("in.png", "KSamplerAdvanced"), ("efficient.png", "KSampler (Efficient)")]
)
def test_nodes_that_are_not_read_are_named_before_the_error(file: str, node: str, sdapp: Run) -> None:
    result = sdapp("replay", CASES / "27-replay-hides-why" / file, "--model", "postcards")
    assert result.exit_code == 2
    note, error = result.stderr.splitlines()
    assert note.startswith("note: ")
    assert f"was made by ComfyUI; not carried over: {node}: " in note
    assert error.endswith("prompt: there is none; give one on the command line or as `prompt:` in the config")


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        (["nowhere.png"], 66, "cannot read nowhere.png"),
        (["house.png"], 65, "use the original file"),
        (["nowhere.png", "house.png"], 65, "nowhere.png"),
        (["."], 65, "is a folder; give the images in it: ./*.png"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_read_has_the_code_of_bad_input(
    names: list[str], code: int, message: str, sdapp: Run, house: Path
) -> None:
    result = sdapp("replay", *names)
    assert result.exit_code == code
    assert len(errors(result)) == len(names)
    assert message in result.stderr


def test_a_missing_model_names_the_image(sdapp: Run) -> None:
    result = sdapp("replay", theirs(), "--model", "./nowhere")
    assert result.exit_code == 69
    assert errors(result)[0].startswith("error: theirs.png: model: no folder or file ./nowhere")
