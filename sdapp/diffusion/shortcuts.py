"""Hooks on the UNet: guide only a part of the run, rescale the guidance, reuse the deep part of the UNet."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sdapp.jobs import Job

CONDITIONED = ("encoder_hidden_states", "added_cond_kwargs")  # arguments of a UNet with a row per prompt
Forward = Callable[..., Any]


@contextmanager
def with_shortcuts(pipe: Any, job: Job) -> Iterator[Counter[str]]:
    """Let the UNet of a pipeline take the shortcuts of a job; count the `unguided` and `cached` calls.

    Guidance is rescaled here too. All are hooks of the whole UNet, since offloading and compiling replace its
    `forward`, during a call too.
    """
    taken: Counter[str] = Counter()
    with ExitStack() as stack:
        if "guidance_interval" in job.shortcuts:
            _GuidanceInterval(pipe, job.guidance_interval, taken, stack)
        if job.guidance_rescale:
            _rescale_guidance(pipe, job.guidance_rescale, stack)
        if "cache_interval" in job.shortcuts:
            _DeepCache(pipe.unet, job.cache_interval, taken, stack)
        yield taken


def _second_half(value: Any) -> Any:
    """The rows of the prompts; the rows of the negative prompts are the first half."""
    if isinstance(value, dict):
        return {name: _second_half(part) for name, part in value.items()}
    return value.chunk(2)[1] if value is not None else None


class _GuidanceInterval:
    """Guide call i of n only where begin ≤ i/n < end (Kynkäänniemi et al. 2024, arXiv:2404.07724).

    In the other calls the UNet gets the half of the batch with the prompts, and its output is used for both
    halves: u + w (c − u) with u = c is c.
    """

    def __init__(self, pipe: Any, interval: list[float], taken: Counter[str], stack: ExitStack) -> None:
        self._pipe, self._taken, (self._begin, self._end) = pipe, taken, interval
        self._calls, self._is_halved = 0, False
        stack.callback(pipe.unet.register_forward_pre_hook(self._halve, with_kwargs=True).remove)
        stack.callback(pipe.unet.register_forward_hook(self._double).remove)

    def _halve(
        self, _unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        is_inside = self._begin <= self._calls / self._pipe.num_timesteps < self._end
        self._calls += 1
        self._is_halved = self._pipe.do_classifier_free_guidance and not is_inside
        if not self._is_halved:
            return None
        self._taken["unguided"] += 1
        halves = {name: _second_half(kwargs[name]) for name in CONDITIONED if name in kwargs}
        return (_second_half(args[0]), *args[1:]), kwargs | halves

    def _double(self, _unet: Any, _args: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        return (torch.cat([output[0]] * 2),) if self._is_halved else None


def _rescale_guidance(pipe: Any, share: float, stack: ExitStack) -> None:
    """Give what is guided the spread of what is not, by a share of 0 to 1 (arXiv:2305.08891).

    The result r takes the place of both halves: u + w (c − u) with u = c = r is r. So it works for every task
    and family; only some pipelines have it.
    """

    def rescale(_unet: Any, _args: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        if not pipe.do_classifier_free_guidance:
            return None
        away, towards = output[0].chunk(2)
        guided = away + pipe.guidance_scale * (towards - away)
        spreads = [each.std(dim=list(range(1, each.ndim)), keepdim=True) for each in (towards, guided)]
        return (torch.cat([share * (guided * (spreads[0] / spreads[1])) + (1 - share) * guided] * 2),)

    stack.callback(pipe.unet.register_forward_hook(rescale).remove)


class _DeepCache:
    """Compute the whole UNet at every N-th call, and only its outermost blocks in the calls between.

    DeepCache (Ma, Fang and Wang 2024, arXiv:2312.00858): the output of the inner blocks changes little from
    step to step. A call with another number of rows than the one before is whole.
    """

    def __init__(self, unet: Any, every: int, taken: Counter[str], stack: ExitStack) -> None:
        self._every, self._taken = every, taken
        self._shape: torch.Size | None = None
        self._calls_left, self._is_whole = 0, True
        self._kept: dict[Forward, Any] = {}
        stack.callback(unet.register_forward_pre_hook(self._decide).remove)
        for block in filter(None, [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]):
            stack.enter_context(replaced_forward(block, self._remembering(block.forward)))

    def _decide(self, _unet: Any, args: tuple[Any, ...]) -> None:
        self._is_whole = self._calls_left == 0 or args[0].shape != self._shape
        self._shape = args[0].shape
        self._calls_left = self._every - 1 if self._is_whole else self._calls_left - 1
        self._taken["cached"] += not self._is_whole

    def _remembering(self, plain: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._is_whole:
                self._kept[plain] = plain(*args, **kwargs)
            return self._kept[plain]

        return forward


@contextmanager
def replaced_forward(module: Any, forward: Forward) -> Iterator[None]:
    """Replace the `forward` of a module in the `with` block, as accelerate's offloading does."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
