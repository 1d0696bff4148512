"""What the text encoders give for prompts in A1111's syntax, and that an image never depends on its batch."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import random_pipeline
from sdapp.diffusion.text_encoder import PromptText, TextEncoder, emphasize
from sdapp.errors import UnavailableError
from sdapp.markup import Token
from sdapp.metadata.record import read_header
from sdapp.models.embedding_files import examine_embedding
from sdapp.pipelines import Painter
from sdapp.settings.additions import Embedding
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


def a1111(*texts: str) -> list[PromptText]:
    return [PromptText(each, syntax="a1111") for each in texts]


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
    without = emphasize(hidden, [Token(5, 1.5)], "no-norm")
    assert torch.equal(without, torch.tensor([[1.0, 2], [4.5, 6], [5, -3]]))


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_without_markup_both_syntaxes_give_the_same_bits(text: TextEncoder, clip_skip: int) -> None:
    texts = ["a red house", "", "a cat, a dog :)", "cat " * 75]
    plain, marked = (
        text._encode([PromptText(each, clip_skip, syntax) for each in texts]) for syntax in ("plain", "a1111")
    )
    weights = ["a (red:1) house", "(:1)", "a cat, (a (dog:1):1) :)", "(" + texts[3] + ":1)"]
    weight_1 = text._encode([PromptText(each, clip_skip, "a1111") for each in weights])
    for one, other, third in zip(plain, marked, weight_1, strict=True):
        for a, b, c in zip(one, other, third, strict=True):
            assert a is b is c is None or (torch.equal(a, b) and torch.equal(a, c))


def test_each_text_is_what_it_is_alone_whatever_is_beside_it(text: TextEncoder) -> None:
    together = text._encode(a1111(*MANY))
    for (words, chunks), found in zip(MANY.items(), together, strict=True):
        [alone] = text._encode(a1111(words))
        assert len(found.embeds) == 77 * chunks
        assert torch.allclose(found.embeds, alone.embeds, atol=1e-4)


def test_chunks_are_encoded_alone_and_the_pooled_output_is_that_of_the_first(text: TextEncoder) -> None:
    [both], [first], [second] = (
        text._encode(a1111(words)) for words in ("a cat BREAK dogs", "a cat", "dogs")
    )
    assert torch.allclose(both.embeds, torch.cat([first.embeds, second.embeds]), atol=1e-5)
    assert both.pooled is first.pooled is None or torch.allclose(both.pooled, first.pooled, atol=1e-5)


def test_the_shorter_of_prompt_and_negative_prompt_is_filled_with_empty_chunks(text: TextEncoder) -> None:
    given = text.encode(a1111("a cat BREAK dogs"), a1111("blurry")).negative_prompt_embeds
    parts = text.embed(a1111("blurry"))[0], text.embed(a1111(""))[0]
    assert given is not None
    assert torch.equal(given, torch.cat(parts, dim=1))
    assert len(text.encode([PromptText("a cat")], [PromptText(LONG)]).prompt_embeds[0]) == 77


def test_a_weight_turns_its_word_up(text: TextEncoder) -> None:
    plain, strong = text.embed(a1111("a red house", "a (red:1.5) house"))[0]
    ratio = strong / plain
    assert torch.allclose(
        ratio[2], 1.5 * ratio[1], rtol=1e-3
    )  # after the mark of the start come `a` and `red`
    assert torch.allclose(strong[:, :32].mean(), plain[:, :32].mean(), rtol=1e-3)


# --- embeddings ---------------------------------------------------------------------------------------------


def saved(path: Path, is_xl: bool, vectors: int) -> Path:
    torch.manual_seed(vectors)
    tensors = {"clip_l": torch.randn(vectors, 32), "clip_g": torch.randn(vectors, 48)}
    save_file(tensors if is_xl else {"<thing>": tensors["clip_l"]}, path)
    return path


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("is_xl", [False, True], ids=["SD 1", "SDXL"])
def test_an_embedding_is_what_the_loader_of_diffusers_makes_of_it(
    is_xl: bool, vectors: int, tmp_path: Path
) -> None:
    pipe, file = random_pipeline(4, "epsilon", is_xl), saved(tmp_path / "x.safetensors", is_xl, vectors)
    text, words = TextEncoder(pipe), "a <thing> house, <thing>"
    given = Embedding(file=str(file), name="<thing>", sha256=examine_embedding(file, None).sha256)
    plain, _ = text.embed(a1111(words))
    ours, pooled = text.embed([PromptText(words, 0, "a1111", embeddings=(given,))])
    assert not torch.equal(ours, plain)
    assert torch.equal(text._encode(a1111(words))[0].embeds, plain[0])  # the hook is gone
    found = load_file(file)
    if is_xl:
        second = {"text_encoder": pipe.text_encoder_2, "tokenizer": deepcopy(pipe.tokenizer)}
        pipe.tokenizer_2 = second["tokenizer"]
        pipe.load_textual_inversion({"<thing>": found["clip_g"]}, "<thing>", **second)
        found = {"<thing>": found["clip_l"]}
    pipe.load_textual_inversion(found, "<thing>")
    theirs = pipe.encode_prompt(
        words, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.allclose(ours, theirs[0], atol=1e-5)
    if is_xl:
        assert torch.allclose(pooled, theirs[2], atol=1e-5)


def test_texts_with_the_same_words_and_other_embeddings_are_encoded_apart(
    text: TextEncoder, tmp_path: Path
) -> None:
    is_xl = len(text.parts) == 2
    files = [saved(tmp_path / f"{n}.safetensors", is_xl, n) for n in (1, 2)]
    prompts = [
        PromptText(
            "a thing", 0, "a1111", embeddings=(Embedding(file=str(file), name="thing", sha256=digest),)
        )
        for file in files
        for digest in [examine_embedding(file, None).sha256]
    ]
    prompts += a1111("a thing")
    together = text.embed(prompts)[0]
    for one, prompt in zip(together, prompts, strict=True):
        text.forget()
        assert torch.allclose(one, text.embed([prompt])[0][0], atol=1e-5)
    assert len({tuple(each[2].tolist()) for each in together}) == 3


def test_a_file_that_changed_after_the_plan_is_refused(text: TextEncoder, tmp_path: Path) -> None:
    file = saved(tmp_path / "x.safetensors", len(text.parts) == 2, 2)
    given = Embedding(file=str(file), name="thing", sha256="0" * 64)
    with pytest.raises(UnavailableError, match="has changed since"):
        text.embed([PromptText("a thing", 0, "a1111", embeddings=(given,))])


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
