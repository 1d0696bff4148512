"""The UNet of a loaded model: its calls counted, its timesteps kept on the device."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sdapp.stopwatch import timed


class Denoiser:
    """A UNet that a pipeline calls. `settle` waits for the device, where time is measured."""

    def __init__(self, unet: Any, device: torch.device, settle: Callable[[], None]) -> None:
        self.unet, self._device, self._settle = unet, device, settle

    @contextmanager
    def watched(self, scheduler: Any) -> Iterator[list[int]]:
        """The batch size of each UNet call, counted where it happens.

        The schedulers' timesteps are on the CPU, where reading one waits for nothing. The UNet gets its own copies from one
        transfer for the whole batch: a scalar sent at each step would have the device waited for.
        """
        calls, one, there = list[int](), ExitStack(), dict[float, torch.Tensor]()

        def begin(_: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
            calls.append(len(args[0]))
            if self._device.type != "cpu":
                if not there:
                    moved = scheduler.timesteps.to(self._device, torch.float32)  # as the UNet will have them
                    there.update(zip(map(float, scheduler.timesteps), moved, strict=True))
                args = (args[0], there[float(args[1])], *args[2:])
            one.enter_context(timed("UNet", self._settle))
            return args

        before = self.unet.register_forward_pre_hook(begin)
        after = self.unet.register_forward_hook(lambda *_: one.close(), always_call=True)
        try:
            yield calls
        finally:
            before.remove()
            after.remove()
