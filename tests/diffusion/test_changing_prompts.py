"""Prompts that change during a run: what the UNet reads at each call, in every task and pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdapp.diffusion.text_encoder import PromptText
from sdapp.models.locate import locate
from sdapp.pipelines import Painter
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.validation import validate
from test_pipelines import furthest, paint, painter_of, settings, tasks

CAT_DOG = "a [cat:dog:0.5]"


def reads(painter: Painter, asked: dict[str, Any]) -> tuple[list[Any], list[tuple[torch.Tensor, Any]]]:
    """The results, and what the UNet was given of the prompts at each call."""
    given = list[tuple[torch.Tensor, Any]]()

    def look(_unet: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        given.append(
            (kwargs["encoder_hidden_states"], (kwargs.get("added_cond_kwargs") or {}).get("text_embeds"))
        )

    hook = painter.model.denoiser.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        return paint(asked, painter), given
    finally:
        hook.remove()


def check(painter: Painter, given: tuple[torch.Tensor, Any], *texts: str) -> None:
    """One call read these texts, of the negative prompts first."""
    with torch.no_grad():
        embeds, pooled = painter.model.text.embed([PromptText(each, syntax="a1111") for each in texts])
    assert torch.equal(given[0], embeds)
    assert pooled is None or torch.equal(given[1], pooled)


@pytest.mark.parametrize("is_xl", [False, True], ids=["SD 1", "SDXL"])
@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_each_call_reads_the_prompts_of_that_call(
    kind: str, is_xl: bool, tiny: Callable[..., Path], house: Path, mask: Path
) -> None:
    task = tasks(house, mask)[kind] if kind != "txt2img" else {"kind": kind}
    task |= {"strength": 1.0} if kind != "txt2img" else {}
    asked = settings(tiny(is_xl=is_xl), task=task, prompt=CAT_DOG, negative_prompt="[tree|sun]")
    painter = painter_of(asked)
    [result], given = reads(painter, asked)
    positive, negative = ("a cat", "a cat", "a dog", "a dog"), ("tree", "sun", "tree", "sun")
    assert len(given) == 4
    for call, *texts in zip(given, negative, positive, strict=True):
        check(painter, call, *texts)
    unguided, given = reads(painter, asked | {"guidance_scale": 1.0})
    for call, text in zip(given, positive, strict=True):
        check(painter, call, text)
    assert furthest(result, *unguided) > 0


def test_the_share_of_a_run_counts_calls_over_all_steps(tiny: Callable[..., Path], house: Path) -> None:
    """As in A1111: Heun calls twice a step, and img2img runs the last steps but counts from its first."""
    asked = settings(tiny(), prompt=CAT_DOG, guidance_scale=1.0)
    painter = painter_of(asked)
    _, given = reads(painter, asked | {"scheduler": "heun"})  # 4 steps count as 8 calls, but the last has one
    for call, text in zip(given, ["a cat"] * 4 + ["a dog"] * 3, strict=True):
        check(painter, call, text)
    task = {"kind": "img2img", "image": str(house), "strength": 0.75}
    _, given = reads(painter, asked | {"task": task})
    for call, text in zip(given, ["a cat", "a cat", "a dog"], strict=True):
        check(painter, call, text)


def test_later_passes_read_the_last_prompt(tiny: Callable[..., Path]) -> None:
    asked = settings(
        tiny(), prompt="a [cat:dog:1.0]", guidance_scale=1.0, upscale={"scale": 2, "strength": 0.5}
    )
    painter = painter_of(asked)
    _, given = reads(painter, asked)
    for call, text in zip(given, ["a cat"] * 4 + ["a dog"] * 2, strict=True):
        check(painter, call, text)


def test_an_image_does_not_depend_on_the_prompts_beside_it(tiny: Callable[..., Path]) -> None:
    """The second is longer, at another time; both are filled up to as many chunks at every call."""
    more = "a red house, " * 30
    prompts = [f"a [cat:{more}:0.5]", f"[{more}:a dog:0.25]"]
    asked = settings(tiny(), guidance_interval=[0.0, 0.75], batch_size=2)
    painter = painter_of(asked)
    jobs = [plan(validate(Layer(asked | {"prompt": each})), locate(asked["model"]))[0] for each in prompts]
    assert [each.chunks for each in jobs] == [2, 2]
    assert jobs[0].pack == jobs[1].pack
    together = list(painter.paint(jobs, 2))
    alone = [result for job in jobs for result in painter.paint([job], 1)]
    assert max(furthest(*pair) for pair in zip(together, alone, strict=True)) <= 1
    assert furthest(*together) > 2


def test_plain_prompts_keep_their_brackets(tiny: Callable[..., Path]) -> None:
    asked = settings(tiny(), prompt=CAT_DOG, prompt_syntax="plain", guidance_scale=1.0)
    painter = painter_of(asked)
    [result], given = reads(painter, asked)
    assert all(torch.equal(call[0], given[0][0]) for call in given)
    assert result.job.last_prompts == (CAT_DOG, "")
