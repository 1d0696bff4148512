"""A loaded model in Python: what its methods return, images in memory as inputs, threads, and the types."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from mypy import api as mypy
from PIL import Image, ImageOps

import keywords
import sdapp as package
from sdapp.batches.executors import LocalExecutor
from sdapp.errors import ConfigError, JobsFailedError
from sdapp.metadata.record import read_header

GOOD = """\
from pathlib import Path
from PIL import Image
import sdapp

sd = sdapp.load("postcards", dtype="float32", memory={"vae_tiling": True})
photo = Image.new("RGB", (64, 64))
one = sd.generate("a red house", seed=7, scheduler="unipc", guidance_interval=[0, 0.5])
one.image.save("a.png")
one.save(Path("b.jpg"))
print(one.record.seconds, one.job.seed)
for each in sd.generate("a cat", count=3, image=photo, strength=0.5, loras=[{"file": Path("x"), "weight": 1}]):
    each.image.show()
for result in sd.stream("a cat", count=3, on_step=lambda first, images, step, steps: None):
    print(result.error)
sdapp.generate("a cat", model=Path("here"), scheduler={"name": "ddim", "options": {"eta": 1}}).image.show()
for result in sdapp.batch("prompts.txt", output={"dir": Path("night")}, seeds="increment", count=2):
    print(result.path)
sd.compare("a cat", schedulers=["ddim"], steps=[5, 10], vary={"guidance_scale": [3, 5]})
sd.replay("a.png", steps=30)
"""
BAD = {
    'sdapp.generate("a cat", stpes=20)': 'did you mean "steps"?',
    'sd.generate("a cat", steps="20")': 'No overload variant of "generate"',
    'sd.generate("a cat", dtype="float16")': 'Unexpected keyword argument "dtype"',
    'sdapp.load("postcards", dtype="half")': "expected \"Literal['auto', 'float16', 'bfloat16', 'float32']\"",
    'sd.generate("a cat", count=2).image': '"list[Painted]" has no attribute "image"',
    'sdapp.batch("a.txt", output={"dri": "night"})': 'Extra key "dri"',
}


@pytest.fixture(scope="module")
def sd() -> package.StableDiffusion:
    return package.load("postcards")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(result: package.api.Result) -> "np.ndarray":
    return np.asarray(result.image)


def test_a_loaded_model_paints_what_a_function_paints_and_loads_once(
    sd: package.StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, settings = sd.pipelines["txt2img"].unet, {"seed": 7, "steps": 2, "scheduler": "unipc"}
    one, [first, second] = sd.generate("a red house", **settings), sd.generate("a cat", count=2, **settings)
    alone = package.generate("a red house", **settings)
    assert one.job == alone.job
    assert (pixels(one) == pixels(alone)).all()
    assert (one.record.scheduler_class, first.job.seed, second.job.seed) == ("UniPCMultistepScheduler", 7, 8)
    Path("prompts.txt").write_text("a red house --d 7\n")
    [line] = sd.batch("prompts.txt", steps=2, scheduler="unipc", output={"dir": "night"})
    [again] = sd.replay(line.path)
    assert (pixels(again) == pixels(one)).all()
    found = sd.grid("a red house", x={"steps": [1, 2]}, seed=7, scheduler="unipc")
    assert [cell.status for cell in found.cells] == ["done", "done"]
    [large] = sd.upscale(line.path, upscale=1.5, steps=5)
    assert large.image.size == (96, 96)
    assert all(pipe.unet is unet for pipe in sd.pipelines.values())


def test_a_result_shows_itself_in_a_notebook_and_saves_its_settings(sd: package.StableDiffusion) -> None:
    result = sd.generate("a red house " + "on a beach " * 20, seed=7, steps=1)
    assert len(repr(result)) < 160
    assert "seed 7, 64x64, dpm++2m-karras, 1 steps" in repr(result)
    assert (np.asarray(Image.open(BytesIO(result._repr_png_()))) == pixels(result)).all()
    assert [result.save(name) for name in ("a.png", "a.png", "b.webp")] == [
        Path("a.png"), Path("a-2.png"), Path("b.webp"),
    ]  # fmt: skip
    assert read_header(Path("b.webp"))["job"]["seed"] == 7
    with pytest.raises(ConfigError, match=r"allowed: \.png"):
        result.save("a.gif")


def test_an_image_in_memory_is_an_input_like_a_file(
    sd: package.StableDiffusion, house: Path, mask: Path
) -> None:
    photo, white = Image.open(house), Image.open(mask)
    settings = {"seed": 7, "steps": 2}
    from_memory = sd.generate("a cat", image=photo, strength=0.5, **settings)
    kept = Path(from_memory.job.task.image)
    assert (np.asarray(Image.open(kept)) == np.asarray(photo)).all()
    assert from_memory.job.inputs == {"image": kept.stem}
    from_file = sd.generate("a cat", image=kept, strength=0.5, **settings)
    assert from_file.job.id == from_memory.job.id
    inpainted = sd.generate("a cat", image=photo, mask=white, **settings)
    nested = {"kind": "inpaint", "image": photo, "mask": white}
    assert inpainted.job.id == sd.generate("a cat", task=nested, **settings).job.id
    assert len(list(kept.parent.iterdir())) == 2
    assert inpainted.job.task.kind == "inpaint"
    [again] = sd.replay(inpainted.save("inpainted.png"))
    assert (pixels(again) == pixels(inpainted)).all()
    with pytest.raises(ConfigError, match="image: an image of mode CMYK"):
        sd.generate("a cat", image=photo.convert("CMYK"))
    kept.unlink()
    [lost] = package.load("postcards").stream("a cat", image=ImageOps.mirror(photo), **settings)
    assert lost.error is None


def test_threads_share_a_model(sd: package.StableDiffusion) -> None:
    kinds = [(name, seed) for name in ("euler-a", "ddim") for seed in (1, 2)]
    alone = [pixels(sd.generate("a cat", scheduler=name, seed=seed, steps=4)) for name, seed in kinds]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(sd.generate, "a cat", scheduler=name, seed=seed, steps=4) for name, seed in kinds * 3
        ]
    assert all((pixels(job.result()) == image).all() for job, image in zip(jobs, alone * 3, strict=True))


def test_a_setting_of_the_load_is_refused_later(sd: package.StableDiffusion) -> None:
    with pytest.raises(ConfigError, match=r"dtype: the model is loaded; give it to sdapp\.load"):
        sd.generate("a cat", dtype="float32")


def test_an_image_that_fails_is_an_error_with_all_results() -> None:
    broken = package.load("postcards")
    vae = broken.pipelines["txt2img"].vae
    vae.decoder.register_forward_hook(lambda *call: call[-1] * float("nan"))
    with pytest.raises(JobsFailedError, match=r"seed 7: .*not finite") as raised:
        broken.generate("a cat", count=2, seed=7, steps=1)
    assert [result.job.seed for result in raised.value.results] == [7, 8]


def test_what_is_not_read_says_that_it_paints_nothing() -> None:
    with pytest.warns(RuntimeWarning, match=r"sdapp\.stream painted nothing"):
        package.stream("a cat")
    results = package.stream("a cat", steps=1, executor=LocalExecutor())
    assert "read it to paint" in repr(results)
    results.close()


def test_a_result_can_be_read_as_the_iterator_that_it_was(sd: package.StableDiffusion) -> None:
    with pytest.warns(DeprecationWarning, match=r"sdapp\.stream is the iterator"):
        [result] = sd.generate("a cat", steps=1, seed=7)
    assert result.job.seed == 7


def test_the_keyword_arguments_are_those_of_the_settings() -> None:
    written = keywords.MODULE.read_text(encoding="utf-8")
    assert written == keywords.formatted(), "run: python tests/keywords.py"


def test_a_type_checker_knows_the_arguments_and_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])  # of the settings of mypy
    snippet = tmp_path / "snippet.py"
    snippet.write_text("\n".join([GOOD, *BAD]))
    out, errors, _ = mypy.run(["--strict", "--no-error-summary", str(snippet)])
    assert not errors
    found: dict[int, str] = {}
    for place, _, message in (line.partition(": error: ") for line in out.splitlines()):
        if message:
            number = int(place.rpartition(":")[2])
            found[number] = found.get(number, "") + message
    first = GOOD.count("\n") + 2
    assert found.keys() == set(range(first, first + len(BAD))), out
    for number, expected in enumerate(BAD.values(), first):
        assert expected in found[number]
