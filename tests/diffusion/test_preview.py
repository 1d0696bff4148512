"""The preview of an image that is being painted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageStat

from sdapp.diffusion.preview import predicted_latents


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("guidance", [None, 3.0])
def test_the_clean_latents_are_found_again(prediction: str, guidance: float | None) -> None:
    torch.manual_seed(0)
    clean, noise, share = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), 0.3
    x = share**0.5 * clean + (1 - share) ** 0.5 * noise
    v = share**0.5 * noise - (1 - share) ** 0.5 * clean
    exact = {"epsilon": noise, "v_prediction": v, "sample": clean}[prediction]
    others = torch.randn(1, 4, 8, 8)  # of the second image of the batch
    output = torch.cat([exact, others])
    if guidance:  # u + g (c − u) must give what is exact
        away = torch.randn(2, 4, 8, 8)
        output = torch.cat([away, away + (output - away) / guidance])
    pipe = SimpleNamespace(
        do_classifier_free_guidance=guidance is not None,
        guidance_scale=guidance,
        scheduler=SimpleNamespace(
            alphas_cumprod=torch.full((1000,), share), config=SimpleNamespace(prediction_type=prediction)
        ),
    )
    read = torch.cat([x, others, x, others] if guidance else [x, others])
    masked = torch.cat([read, torch.zeros(len(read), 5, 8, 8)], dim=1)  # as a UNet for inpainting reads it
    assert torch.allclose(predicted_latents(pipe, masked, 500.0, output), clean, atol=1e-4)


@pytest.mark.parametrize("is_xl", [False, True])
def test_a_file_shows_the_image_while_it_is_painted(
    is_xl: bool, sdapp: Callable[..., Any], tiny: Callable[..., Path]
) -> None:
    shared = ("--model", tiny(is_xl=is_xl), "--steps", 3, "--seed", 1, "--size", "64x64")
    result = sdapp("generate", "a", *shared, "--preview", "--out", "seen")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("preview.png") == 1
    with Image.open("seen/preview.png") as preview:
        assert preview.size == (256, 256)  # this small autoencoder decodes it, and it is enlarged
    again = sdapp("generate", "a", *shared, "--out", "unseen")
    [seen], [unseen] = result.stdout.split(), again.stdout.split()
    assert Image.open(seen).tobytes() == Image.open(unseen).tobytes()
    assert not Path("unseen/preview.png").exists()


def test_the_preview_of_postcards_has_the_colours_of_the_image(sdapp: Callable[..., Any]) -> None:
    """The only call of a single step predicts the image."""
    result = sdapp("generate", "a red house on a beach at sunset", "--steps", 1, "--seed", 7, "--preview")
    [path] = result.stdout.split()
    with Image.open(path) as image, Image.open("outputs/preview.png") as preview:
        pairs = zip(ImageStat.Stat(image).mean, ImageStat.Stat(preview).mean, strict=True)
        assert all(abs(one - other) < 3 for one, other in pairs)


def test_a_batch_keeps_one_preview_and_does_not_count_it(
    sdapp: Callable[..., Any], tiny: Callable[..., Path]
) -> None:
    Path("lines.txt").write_text("a\nb\n")
    arguments = (
        "batch",
        "lines.txt",
        "--model",
        tiny(),
        "--steps",
        3,
        "--seed",
        1,
        "--out",
        "night",
        "--preview",
    )
    result = sdapp(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("preview.png") == 1
    assert len(list(Path("night").glob("*.png"))) == 3
    assert "2 done, 0 failed before, 0 to paint" in sdapp(*arguments).stderr
