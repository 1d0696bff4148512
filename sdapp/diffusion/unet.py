"""The UNet of a loaded model: its calls counted, its timesteps kept on the device, compiled where that pays."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from sdapp.profiling import timed

MOST_SHAPES = 6  # that are compiled: torch refuses a ninth


class Denoiser:
    """A UNet that a pipeline calls. `settle` waits for the device, where time is measured."""

    def __init__(self, unet: Any, device: torch.device, settle: Callable[[], None]) -> None:
        self.unet, self._device, self._settle = unet, device, settle
        self._plain, self.failure = unet.forward, ""
        self._is_compiled = self._may_compile = self._compiled_ran = False

    @property
    def optimizations(self) -> tuple[str, ...]:
        """What made the last batch faster, read off what ran."""
        last = self.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        graphs = " with CUDA graphs" if self._device.type == "cuda" else ""
        return (
            *(["channels_last"] if last else []),
            *([f"compiled UNet{graphs}"] if self._compiled_ran else []),
        )

    def compile(self, after: int) -> None:
        """Compile the UNet for each shape (and memory layout) of latents that it is given more than `after` times.

        On CUDA as graphs that are replayed, so that Python is not waited for. Where that fails, it goes on without.
        """
        mode = "reduce-overhead" if self._device.type == "cuda" else None
        compiled: Any = torch.compile(self._plain, fullgraph=True, dynamic=False, mode=mode)
        seen = Counter[tuple[object, ...]]()

        def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            seen[kind := (sample.shape, sample.stride())] += 1
            worth = [each for each, calls in seen.items() if calls > after][:MOST_SHAPES]
            if self.failure or not self._may_compile or kind not in worth:
                return self._plain(sample, *args, **kwargs)
            try:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                [noise] = compiled(sample, *args, **kwargs)
            except (TorchDynamoException, FailOnRecompileLimitHit) as exc:
                self.failure = f"compiling the UNet failed, so it runs as it is: {str(exc).strip().splitlines()[0][:300]}"
                return self._plain(sample, *args, **kwargs)
            self._compiled_ran = True
            return (noise.clone(),)  # the next replay of a graph writes to the same place

        self.unet.forward, self._is_compiled = forward, True

    def give_up_compiling(self, why: str) -> None:
        """Paint without from now on, and give back the memory of graphs, if anything was compiled."""
        if self._is_compiled:
            self.failure = self.failure or why
            torch.compiler.reset()

    @contextmanager
    def watched(self, scheduler: Any, is_whole: bool) -> Iterator[Counter[str]]:
        """Count the UNet's `calls` where they happen; a UNet of which parts are left out is not compiled.

        The schedulers' timesteps are on the CPU, where reading one waits for nothing. The UNet gets its own copies from one
        transfer for the whole batch: a scalar sent at each step would have the device waited for.
        """
        counted, one, there = Counter[str](), ExitStack(), dict[float, torch.Tensor]()
        self._may_compile, self._compiled_ran = is_whole, False

        def begin(_: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
            counted["calls"] += 1
            if not there:
                moved = scheduler.timesteps.to(self._device, torch.float32)  # as the UNet will have them
                there.update(zip(map(float, scheduler.timesteps), moved, strict=True))
            one.enter_context(timed("UNet", self._settle))
            return args[0], there[float(args[1])], *args[2:]

        before = self.unet.register_forward_pre_hook(begin)
        after = self.unet.register_forward_hook(lambda *_: one.close(), always_call=True)
        try:
            yield counted
        finally:
            before.remove()
            after.remove()
