"""What the text encoders give for prompts in A1111's syntax, and that an image never depends on its batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import random_pipeline
from sdapp.diffusion.text_encoder import TextEncoder, emphasize
from sdapp.markup import Token
from sdapp.metadata.record import read_header
from sdapp.pipelines import Painter
from test_pipelines import furthest, paint, painter_of, pixels, settings

LONG = "a red house, " * 30
MANY = {"a cat": 1, "a (red:1.4) house": 1, "a cat BREAK a [dog]": 2, LONG: 2, "a BREAK b BREAK c": 3, "": 1}


@pytest.fixture(scope="module", params=[False, True], ids=["SD 1", "SDXL"])
def text(request: pytest.FixtureRequest) -> TextEncoder:
    """With biases: where the mean is 0, as in random weights, emphasis divides two rounding errors."""
    pipe = random_pipeline(4, "epsilon", is_xl=request.param)
    for name in ("text_encoder", "text_encoder_2") if request.param else ("text_encoder",):
        for part, weight in getattr(pipe, name).named_parameters():
            if part.endswith(("mlp.fc2.bias", "final_layer_norm.bias")):
                weight.data += 1
    return TextEncoder(pipe)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_tokens_are_weighed_and_their_mean_stays() -> None:
    hidden = torch.tensor([[1.0, 2], [3, 4], [5, -3]])
    weighed = emphasize(hidden, [Token(5, 1.5)])
    expected = [[0.774194, 1.548387], [3.483871, 4.645161], [3.870968, -2.322581]]
    assert torch.allclose(weighed, torch.tensor(expected), atol=1e-6)
    assert torch.isclose(weighed.mean(), hidden.mean())
    assert torch.equal(emphasize(hidden, [Token(5)]), hidden)


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_without_markup_both_syntaxes_give_the_same_bits(text: TextEncoder, clip_skip: int) -> None:
    texts = ["a red house", "", "a cat, a dog :)", "cat " * 75]
    plain, marked = (text._encode(texts, clip_skip, syntax) for syntax in ("plain", "a1111"))
    weight_1 = text._encode(
        ["a (red:1) house", "(:1)", "a cat, (a (dog:1):1) :)", "(" + texts[3] + ":1)"], clip_skip, "a1111"
    )
    for one, other, third in zip(plain, marked, weight_1, strict=True):
        for a, b, c in zip(one, other, third, strict=True):
            assert a is b is c is None or (torch.equal(a, b) and torch.equal(a, c))


def test_each_text_is_what_it_is_alone_whatever_is_beside_it(text: TextEncoder) -> None:
    together = text._encode(list(MANY), 0, "a1111")
    for (words, chunks), found in zip(MANY.items(), together, strict=True):
        [alone] = text._encode([words], 0, "a1111")
        assert len(found.embeds) == 77 * chunks
        assert torch.allclose(found.embeds, alone.embeds, atol=1e-4)


def test_chunks_are_encoded_alone_and_the_pooled_output_is_that_of_the_first(text: TextEncoder) -> None:
    [both], [first], [second] = (
        text._encode([words], 0, "a1111") for words in ("a cat BREAK dogs", "a cat", "dogs")
    )
    assert torch.allclose(both.embeds, torch.cat([first.embeds, second.embeds]), atol=1e-5)
    assert both.pooled is first.pooled is None or torch.allclose(both.pooled, first.pooled, atol=1e-5)


def test_the_shorter_of_prompt_and_negative_prompt_is_filled_with_empty_chunks(text: TextEncoder) -> None:
    given = text.encode(["a cat BREAK dogs"], ["blurry"], 0, "a1111").negative_prompt_embeds
    parts = text.embed(["blurry"], 0, "a1111")[0], text.embed([""], 0, "a1111")[0]
    assert given is not None
    assert torch.equal(given, torch.cat(parts, dim=1))
    assert len(text.encode(["a cat"], [LONG], 0).prompt_embeds[0]) == 77


def test_a_weight_turns_its_word_up(text: TextEncoder) -> None:
    plain, strong = text.embed(["a red house", "a (red:1.5) house"], 0, "a1111")[0]
    ratio = strong / plain
    assert torch.allclose(
        ratio[2], 1.5 * ratio[1], rtol=1e-3
    )  # after the mark of the start come `a` and `red`
    assert torch.allclose(strong[:, :32].mean(), plain[:, :32].mean(), rtol=1e-3)


# --- images -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter() -> Painter:
    return painter_of(settings("postcards"))


def test_a_batch_of_prompts_of_different_lengths_paints_each_as_alone(
    sdapp: Callable[..., Any], painter: Painter
) -> None:
    prompts = [each for each in MANY if each]
    Path("prompts.jsonl").write_text(
        "".join(f'{{"prompt": "{each}", "seed": 3}}\n' for each in [*prompts, *prompts])
    )
    done = sdapp(
        "batch",
        "prompts.jsonl",
        "--set",
        "batch_size=8",
        "--steps",
        2,
        "--out",
        "out",
        "--set",
        "output.name={index}",
    )
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(prompts)
    for path in Path("out").glob("*.png"):
        job = read_header(path)["job"]
        [alone] = paint(settings("postcards", prompt=job["prompt"], seed=3, steps=2), painter)
        assert alone.record.job_id == read_header(path)["record"]["job_id"]
        assert np.abs(np.asarray(Image.open(path)).astype(int) - pixels(alone)).max() <= 2


def test_weights_change_the_image_and_weights_of_1_do_not(painter: Painter) -> None:
    plain, same, strong, as_text = (
        paint(settings("postcards", steps=2, prompt=prompt, prompt_syntax=syntax), painter)[0]
        for prompt, syntax in (
            ("a red house", "a1111"), ("a (red:1) house", "a1111"), ("a (red:1.6) house", "a1111"), ("a (red:1.6) house", "plain"),
        )
    )  # fmt: skip
    assert furthest(plain, same) == 0
    assert min(furthest(plain, strong), furthest(strong, as_text)) > 2
