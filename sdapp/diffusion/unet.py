"""The UNet of a model: count its calls, keep its timesteps on the device, compile it if that pays."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from sdapp.profiling import timed

MAX_SHAPES = 6  # that are compiled: torch refuses a ninth


class Denoiser:
    """A UNet that a pipeline calls. `settle` waits for the device, for measuring time."""

    def __init__(self, unet: Any, device: torch.device, settle: Callable[[], None]) -> None:
        self.unet, self._device, self._settle = unet, device, settle
        self._plain, self.failure = unet.forward, ""
        self._compiled: Any = None
        self._compile_after, self._seen = 0, Counter[tuple[object, ...]]()
        self._may_compile = self._compiled_ran = False

    @property
    def optimizations(self) -> tuple[str, ...]:
        """What made the last batch faster, as it ran."""
        is_last = self.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        graphs = " with CUDA graphs" if self._device.type == "cuda" else ""
        compiled = (f"compiled UNet{graphs}",) if self._compiled_ran else ()
        return ("channels_last", *compiled) if is_last else compiled

    def compile(self, after: int) -> None:
        """Compile the UNet for each shape and memory layout of latents that it gets more than `after` times.

        On CUDA it becomes graphs, replayed without Python. If compiling fails, the UNet runs as it is.
        """
        mode = "reduce-overhead" if self._device.type == "cuda" else None
        self._compiled = torch.compile(self._plain, fullgraph=True, dynamic=False, mode=mode)
        self._compile_after = after
        self.unet.forward = self._forward

    def _forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        is_steered = kwargs.get("mid_block_additional_residual") is not None  # by a ControlNet
        self._seen[kind := (sample.shape, sample.stride(), is_steered)] += 1
        frequent = [each for each, calls in self._seen.items() if calls > self._compile_after][:MAX_SHAPES]
        if self.failure or not self._may_compile or kind not in frequent:
            return self._plain(sample, *args, **kwargs)
        try:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            [noise] = self._compiled(sample, *args, **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as exc:
            reason = str(exc).strip().splitlines()[0][:300]
            self.failure = f"compiling the UNet failed, so it runs as it is: {reason}"
            return self._plain(sample, *args, **kwargs)
        self._compiled_ran = True
        return (noise.clone(),)  # the next replay of a graph writes to the same memory

    def stop_compiling(self, reason: str) -> None:
        """Run the UNet as it is from now on, and free the memory of graphs, if anything was compiled."""
        if self._compiled is not None:
            self.failure = self.failure or reason
            torch.compiler.reset()

    @contextmanager
    def watched(self, scheduler: Any, is_whole: bool) -> Iterator["Calls"]:
        """Count the calls of the UNet; one of which parts are left out (not `is_whole`) is not compiled."""
        self._may_compile, self._compiled_ran = is_whole, False
        calls = Calls(scheduler, self._device, self._settle)
        before = self.unet.register_forward_pre_hook(calls.begin)
        after = self.unet.register_forward_hook(calls.end, always_call=True)
        with before, after:
            yield calls


class Calls:
    """The calls of a UNet for one batch: their `number` and time, and the timesteps on the device.

    The schedulers' timesteps are on the CPU, where reading one does not wait for the device. The UNet gets
    copies from one transfer for the whole batch: sending one at each step would wait for the device.
    """

    def __init__(self, scheduler: Any, device: torch.device, settle: Callable[[], None]) -> None:
        self.number, self._scheduler, self._device, self._settle = 0, scheduler, device, settle
        self._timer, self._timesteps = ExitStack(), dict[float, torch.Tensor]()

    def begin(self, _unet: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The hook before a call."""
        self.number += 1
        if not self._timesteps:
            timesteps = self._scheduler.timesteps
            moved = timesteps.to(self._device, torch.float32)  # the UNet converts them to float32 too
            self._timesteps.update(zip(map(float, timesteps), moved, strict=True))
        self._timer.enter_context(timed("UNet", self._settle))
        return args[0], self._timesteps[float(args[1])], *args[2:]

    def end(self, *_: Any) -> None:
        """The hook after a call, also one that failed."""
        self._timer.close()
