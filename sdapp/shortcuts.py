"""Exactness given for speed, where it is asked for: guidance on a part of the run, the deep part of the UNet from before."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sdapp.jobs import Job

Forward = Callable[..., Any]


@contextmanager
def shortened(pipe: Any, job: Job) -> Iterator[Counter[str]]:
    """While it is open, the UNet of a pipeline takes the shortcuts of a job; counts such calls, `unguided` and `cached`."""
    taken: Counter[str] = Counter()
    with ExitStack() as stack:
        if job.cache_interval > 1:
            _cache(pipe.unet, job.cache_interval, taken, stack)
        if "guidance_interval" in job.shortcuts:
            _instead(pipe.unet, _guided_within(pipe, job.guidance_interval, taken), stack)
        yield taken


def _guided_within(pipe: Any, interval: list[float], taken: Counter[str]) -> Forward:
    """Guidance where begin ≤ i/n < end, for call i of n (Kynkäänniemi et al. 2024, arXiv:2404.07724).

    Elsewhere the UNet gets the half with the prompt alone, and its answer stands for both: u + w (c − u) with u = c is c.
    """
    whole, (begin, end), calls = pipe.unet.forward, interval, 0

    def forward(sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **named: Any) -> Any:
        nonlocal calls
        at, calls = calls / pipe.num_timesteps, calls + 1
        if begin <= at < end or not pipe.do_classifier_free_guidance:
            return whole(sample, timestep, encoder_hidden_states, **named)
        taken["unguided"] += 1
        [towards] = whole(sample.chunk(2)[1], timestep, encoder_hidden_states.chunk(2)[1], **named)
        return (torch.cat([towards, towards]),)

    return forward


def _cache(unet: Any, every: int, taken: Counter[str], stack: ExitStack) -> None:
    """Compute all of the UNet at every so many calls, and between them only its outermost blocks.

    DeepCache (Ma, Fang and Wang 2024, arXiv:2312.00858): what the inner blocks gave changes little from step to step. Where
    the number of rows changes, all is computed.
    """
    whole, shape, left, is_whole = unet.forward, None, 0, True

    def forward(sample: torch.Tensor, *rest: Any, **named: Any) -> Any:
        nonlocal shape, left, is_whole
        is_whole = left == 0 or sample.shape != shape
        shape, left = sample.shape, every - 1 if is_whole else left - 1
        taken["cached"] += not is_whole
        return whole(sample, *rest, **named)

    def remembering(plain: Forward) -> Forward:
        kept = None

        def forward(*args: Any, **named: Any) -> Any:
            nonlocal kept
            if is_whole:
                kept = plain(*args, **named)
            return kept

        return forward

    _instead(unet, forward, stack)
    for block in filter(None, [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]):
        _instead(block, remembering(block.forward), stack)


def _instead(module: Any, forward: Forward, stack: ExitStack) -> None:
    """Replace what a module does, until the stack is closed; accelerate's offloading does the same."""
    before = vars(module).get("forward")
    if before is None:
        stack.callback(delattr, module, "forward")
    else:
        stack.callback(setattr, module, "forward", before)
    module.forward = forward
