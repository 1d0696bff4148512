"""The page that explains how an image was painted: its numbers are those of the run, and it opens in a browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sdapp as package
from browser import SCREENS, Open, findings
from sdapp.diffusion.process import measure_process
from sdapp.diffusion.watch import Watcher
from sdapp.explanations.run import Explanation
from sdapp.jobs import LoadKey
from sdapp.models.vae import locate_model
from sdapp.planning import plan
from sdapp.scheduler_table import TABLE
from sdapp.settings.layers import merge, override
from sdapp.validation import validate

Command = Callable[..., Any]
SHARED: dict[str, Any] = {"seed": 7, "steps": 6, "device": "cpu"}
PROMPT = "a red house, (blue:1.3) sea"


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> Explanation:
    folder = tmp_path_factory.mktemp("explained")
    return package.explain(PROMPT, model=str(tiny()), out=folder, arrays=True, **SHARED)


@pytest.fixture(scope="module")
def arrays(explained: Explanation) -> dict[str, torch.Tensor]:
    assert explained.arrays is not None
    return load_file(explained.arrays)


def test_watching_changes_no_pixel(explained: Explanation, tiny: Callable[..., Path]) -> None:
    plain = package.generate(PROMPT, model=str(tiny()), **SHARED)
    assert explained.result.image is not None
    assert explained.result.image.tobytes() == plain.image.tobytes()
    assert explained.result.job.id == plain.job.id


def test_the_arrays_agree_with_each_other(arrays: dict[str, torch.Tensor]) -> None:
    clean_share = arrays["model.alphas_cumprod"][arrays["unet.timesteps"].round().long()][:, None, None, None]
    away, towards = arrays["unet.output_without_prompt"], arrays["unet.output_with_prompt"]
    noise = away + 7.5 * (towards - away)
    read = clean_share.sqrt() * arrays["unet.clean"] + (1 - clean_share).sqrt() * noise
    assert torch.allclose(read, arrays["unet.read"], atol=1e-4)
    assert arrays["unet.read"].shape == (6, 4, 8, 8)
    assert torch.allclose(arrays["attention"].sum(0), torch.ones(8, 8), atol=1e-4)
    assert arrays["attention"].shape == (77, 8, 8)
    assert arrays["text.embeddings"].shape == (77, 32)
    assert len(arrays["scheduler.sigmas"]) == 7
    # The last call reads what is almost clean: what it predicts is the result.
    assert (arrays["unet.clean"][-1] - arrays["latents"]).abs().max() < 0.05 * arrays["latents"].abs().max()


def test_the_attention_is_that_of_the_layers_themselves(tiny: Callable[..., Path]) -> None:
    """Of one call without guidance, against what a processor of diffusers without fused attention computes."""
    from diffusers.models.attention_processor import AttnProcessor

    sd = package.load(str(tiny()), device="cpu")
    pipe = sd.pipelines["txt2img"]
    seen: list[torch.Tensor] = []

    class Keeping(AttnProcessor):
        def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
            plain = attn.get_attention_scores
            attn.get_attention_scores = lambda *given: seen.append(plain(*given)) or seen[-1]
            try:
                return super().__call__(attn, *args, **kwargs)
            finally:
                del attn.get_attention_scores

    watcher = Watcher(with_attention=True)
    with watcher.watching(pipe):
        pipe(
            "a", num_inference_steps=1, guidance_scale=0, output_type="latent", generator=torch.manual_seed(0)
        )
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            module.set_processor(Keeping())
    pipe("a", num_inference_steps=1, guidance_scale=0, output_type="latent", generator=torch.manual_seed(0))
    maps = [each.mean(0).T.unflatten(1, (int(each.shape[1] ** 0.5), -1)) for each in seen]
    large = [torch.nn.functional.interpolate(each[None], (8, 8), mode="bilinear")[0] for each in maps]
    found = watcher.attention((8, 8))
    assert found is not None
    assert len(maps) > 1
    assert torch.allclose(found, torch.stack(large).mean(0), atol=1e-5)


def planned(folder: Path, **settings: Any) -> tuple[LoadKey, Any]:
    found = locate_model(str(folder), None, None)
    base = {"model": str(folder), "prompt": "a b", "steps": 4, "seed": 1, "device": "cpu"} | settings
    config = validate(merge([override(key, value, "test") for key, value in base.items()]))
    return LoadKey.of(config, found), plan(config, found)


MODELS = [{}, {"prediction_type": "v_prediction"}, {"is_xl": True}]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_family_with_its_schedulers(model: dict[str, Any], tiny: Callable[..., Path]) -> None:
    """All schedulers are watched on the first one; no hook is left on the UNet."""
    from sdapp.pipelines import load

    folder = tiny(**model)
    painter = load(planned(folder)[0])
    for name in [row.name for row in TABLE] if not model else ["ddim", "euler-a"]:
        _, jobs = planned(folder, scheduler=name)
        watcher = Watcher(with_attention=True)
        [result] = painter.paint(jobs, watcher=watcher)
        process = measure_process(painter.model.pipelines["txt2img"], result, watcher)
        assert len(process.calls) == jobs[0].unet_calls, name
        arrays = process.arrays()
        assert all(each.isfinite().all() for key, each in arrays.items() if key != "scheduler.sigmas"), name
        assert process.attention is not None
        assert torch.allclose(process.attention.sum(0), torch.ones(1), atol=1e-4)
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        assert not any(getattr(module, hooks) for module in painter.model.denoiser.unet.modules())


@pytest.mark.parametrize(
    ("settings", "guided"),
    [({"guidance_scale": 1.0}, 0), ({"guidance_interval": "0.25..0.75"}, 2), ({"guidance_rescale": 0.7}, 4)],
    ids=str,
)
def test_what_is_said_with_and_without_the_prompt(
    settings: dict[str, Any], guided: int, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    made = package.explain(
        "a", model=str(tiny()), out=tmp_path, arrays=True, **SHARED | {"steps": 4} | settings
    )
    assert made.arrays is not None
    away = load_file(made.arrays).get("unet.output_without_prompt")
    assert (0 if away is None else int(away.isfinite().flatten(1).all(1).sum())) == guided
    text = made.path.read_text()
    assert ("had no guidance" in text) == (guided == 0)
    assert text.count('<p class="label">call ') == guided


def test_the_image_that_is_taken_apart_is_the_input_of_img2img(
    house: Path, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    task = {"kind": "img2img", "image": str(house), "strength": 0.5}
    made = package.explain("a", model=str(tiny()), out=tmp_path, arrays=True, task=task, **SHARED)
    assert made.arrays is not None
    found = load_file(made.arrays)
    assert Image.fromarray(found["autoencoder.image"].numpy()).tobytes() == Image.open(house).tobytes()
    assert len(found["unet.read"]) == 3


def test_an_embedding_is_shown_by_its_own_vectors(tiny: Callable[..., Path], tmp_path: Path) -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": vectors}, tmp_path / "mood.safetensors")
    made = package.explain(
        "a (mood:1.5) !",
        model=str(tiny()),
        out=tmp_path,
        arrays=True,
        embeddings=[tmp_path / "mood.safetensors"],
        **SHARED | {"steps": 1},
    )
    assert made.arrays is not None
    found = load_file(made.arrays)
    assert (found["text.ids"] == -1).tolist() == [False, False, True, True, False, False]
    assert torch.equal(found["text.table"][2:4], vectors)
    assert not torch.isin(found["text.table"][4], vectors).any()
    assert made.path.read_text().count("<td>–</td>") == 2


# --- the command and the page -------------------------------------------------------------------------------------


def test_the_command(sdapp: Command, tiny: Callable[..., Path]) -> None:
    result = sdapp("explain", "a cat", "--model", tiny(), "--steps", 2, "--seed", 1, "--out", "why")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["why/explain.html"]
    assert [path.name for path in Path("why").iterdir()] == ["explain.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "count=2"), "count: one image is explained, not 2; use count: 1"),
        (("--set", "upscale=2"), "upscale: only one pass of denoising can be explained; leave it out"),
        (("--set", "detail=face"), "detail: only one pass of denoising can be explained; leave it out"),
        (("--set", "compile=on"), "compile: the layers of a compiled UNet cannot be watched; leave it out"),
        (("--out", "why.png"), "--out: give the folder"),
        (("--steps", 0), "--steps: must be"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    options: tuple[object, ...], message: str, sdapp: Command
) -> None:
    result = sdapp("explain", "a red house", *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not Path("explain").exists()


HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(2)> \u202e {{ 7 * 7 }}'


def test_the_page_works_from_the_disk_and_its_film_runs(explained: Explanation, visit: Open) -> None:
    from playwright.sync_api import expect

    page = visit(explained.path)
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    assert page.locator(".ten .step").count() == 6
    assert page.locator(".guided .step").count() == 4
    assert page.locator(".words-of figcaption .label").all_inner_texts() == [
        "a",
        "red",
        "house",
        "blue",
        "sea",
    ]
    first = page.locator(".ten .step").first
    first.click()
    assert page.locator("#film-read").get_attribute("src") == first.locator("img").first.get_attribute("src")
    page.locator("#place").press("End")
    assert page.locator("#film-call").inner_text() == "call 6"
    page.locator("#play").click()
    expect(page.locator("#film-call")).to_have_text("call 2")
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "Play"


def test_without_a_script_all_steps_are_there(explained: Explanation, visit: Open) -> None:
    page = visit(explained.path, java_script_enabled=False)
    assert page.locator("#film").is_hidden()
    assert page.locator(".ten img:visible").count() == 12


def test_hostile_texts_are_shown_as_they_are(visit: Open, tiny: Callable[..., Path], tmp_path: Path) -> None:
    given = SHARED | {"steps": 2, "prompt_syntax": "plain", "negative_prompt": HOSTILE}
    made = package.explain(HOSTILE, model=str(tiny()), out=tmp_path, **given)
    page = visit(made.path)
    assert page.locator("[onerror]").count() == 0
    assert page.locator("h1").inner_text() == " ".join(HOSTILE.split())
    assert page.evaluate("document.querySelectorAll('script').length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_is_wider_than_the_screen(
    explained: Explanation, visit: Open, screen: str, scheme: str
) -> None:
    page = visit(explained.path, color_scheme=scheme, **SCREENS[screen])
    assert page.evaluate("document.documentElement.scrollWidth") == SCREENS[screen]["viewport"]["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing(explained: Explanation, visit: Open, axe: str, screen: str, scheme: str) -> None:
    page = visit(explained.path, color_scheme=scheme, bypass_csp=True, **SCREENS[screen])
    assert findings(page, axe) == []


def test_of_a_prompt_that_changes_only_the_calls_with_its_first_words_count(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    asked = SHARED | {"model": str(tiny()), "guidance_scale": 1.0}
    pages = [
        package.explain(prompt, out=tmp_path / name, **asked).path.read_text()
        for name, prompt in (("both", "a red [house:ship:0.5]"), ("one", "a red house"))
    ]
    assert ["This prompt changes while the image is painted" in page for page in pages] == [True, False]
    from sdapp.pipelines import load

    painter, counted = load(planned(Path(asked["model"]))[0]), []
    for prompt in ("a red [house:ship:0.5]", "a red house"):
        watcher = Watcher(with_attention=True)
        list(painter.paint(planned(Path(asked["model"]), prompt=prompt)[1], watcher=watcher))
        counted.append(watcher._layers)
    assert counted[0] == counted[1] // 2 > 0
