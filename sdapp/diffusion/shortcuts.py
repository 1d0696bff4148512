"""Exactness given for speed, where it is asked for: guidance on a part of the run, the deep part of the UNet from before."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sdapp.jobs import Job

Forward = Callable[..., Any]


@contextmanager
def with_shortcuts(pipe: Any, job: Job) -> Iterator[Counter[str]]:
    """While it is open, the UNet of a pipeline takes the shortcuts of a job; counts such calls, `unguided` and `cached`.

    The UNet as a whole gets hooks, since what offloads or compiles it replaces its `forward`, in the middle of a call too.
    """
    taken: Counter[str] = Counter()
    with ExitStack() as stack:
        if "guidance_interval" in job.shortcuts:
            _guide(pipe, job.guidance_interval, taken, stack)
        if "cache_interval" in job.shortcuts:
            _cache(pipe.unet, job.cache_interval, taken, stack)
        yield taken


def _guide(pipe: Any, interval: list[float], taken: Counter[str], stack: ExitStack) -> None:
    """Guidance where begin ≤ i/n < end, for call i of n (Kynkäänniemi et al. 2024, arXiv:2404.07724).

    Elsewhere the UNet gets the half with the prompt alone, and its answer stands for both: u + w (c − u) with u = c is c.
    """
    (begin, end), calls, is_halved = interval, 0, False

    def halve(
        _unet: Any, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        nonlocal calls, is_halved
        at, calls = calls / pipe.num_timesteps, calls + 1
        is_halved = pipe.do_classifier_free_guidance and not begin <= at < end
        if not is_halved:
            return None
        taken["unguided"] += 1
        (sample, *rest), text = args, named["encoder_hidden_states"]
        return (sample.chunk(2)[1], *rest), named | {"encoder_hidden_states": text.chunk(2)[1]}

    def double(_unet: Any, _args: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        return (torch.cat([output[0]] * 2),) if is_halved else None

    stack.callback(pipe.unet.register_forward_pre_hook(halve, with_kwargs=True).remove)
    stack.callback(pipe.unet.register_forward_hook(double).remove)


def _cache(unet: Any, every: int, taken: Counter[str], stack: ExitStack) -> None:
    """Compute all of the UNet at every so many calls, and between them only its outermost blocks.

    DeepCache (Ma, Fang and Wang 2024, arXiv:2312.00858): what the inner blocks gave changes little from step to step. Where
    the number of rows changes, all is computed.
    """
    shape, left, is_whole = None, 0, True

    def decide(_unet: Any, args: tuple[Any, ...]) -> None:
        nonlocal shape, left, is_whole
        is_whole = left == 0 or args[0].shape != shape
        shape, left = args[0].shape, every - 1 if is_whole else left - 1
        taken["cached"] += not is_whole

    def remembering(plain: Forward) -> Forward:
        kept = None

        def forward(*args: Any, **named: Any) -> Any:
            nonlocal kept
            if is_whole:
                kept = plain(*args, **named)
            return kept

        return forward

    stack.callback(unet.register_forward_pre_hook(decide).remove)
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
