"""ControlNets: copies of a UNet's first half that read an image and steer the UNet by what they see."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdapp.diffusion.loading import load_control
from sdapp.jobs import Job
from sdapp.settings.additions import Control


class ControlNets:
    """The ControlNets beside a UNet; those of the last batch that had any stay loaded."""

    def __init__(self, unet: Any, device: torch.device) -> None:
        self._unet, self._device = unet, device
        self._loaded: dict[str, Any] = {}

    def load(self, control: Sequence[Control]) -> None:
        """Load the ControlNets that are needed and not loaded, and drop others. Raises UnavailableError."""
        names = {each.model for each in control}
        if not names <= self._loaded.keys():
            self._loaded = {name: net for name, net in self._loaded.items() if name in names}
        for name in names - self._loaded.keys():
            self._loaded[name] = load_control(name, self._unet)

    @contextmanager
    def steering(self, pipe: Any, job: Job, hints: Sequence[Image.Image], stays: bool) -> Iterator[None]:
        """Let the ControlNets of a job steer the UNet of a pipeline; `hints` are their images.

        A hook gives what they add to the UNet's own arguments, so every task and family has them. They are on
        the device meanwhile, and afterwards if they may stay there.
        """
        if not job.control:
            yield
            return
        self.load(job.control)
        nets = [self._loaded[each.model].to(self._device) for each in job.control]
        tensors = [_hint_tensor(hint).to(self._device, nets[0].dtype) for hint in hints]
        steered = _Steered(pipe, list(zip(nets, job.control, tensors, strict=True)))
        try:
            with self._unet.register_forward_pre_hook(steered.before, with_kwargs=True):
                yield
        finally:
            for net in nets if not stays else ():
                net.to("cpu")


class _Steered:
    """The UNet calls of one batch: each gets the sum of what the ControlNets of its step add."""

    def __init__(self, pipe: Any, nets: Sequence[tuple[Any, Control, torch.Tensor]]) -> None:
        self._pipe, self._nets, self._calls = pipe, nets, 0

    def before(
        self, _unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The hook before a call."""
        begin, end = (call / self._pipe.num_timesteps for call in (self._calls, self._calls + 1))
        self._calls += 1
        added: list[torch.Tensor] = []
        for net, control, hint in self._nets:
            if begin < control.start or end > control.end:
                continue
            down, middle = net(
                args[0][:, : net.config.in_channels],  # without the mask of a model made for inpainting
                args[1],
                encoder_hidden_states=kwargs["encoder_hidden_states"],
                controlnet_cond=hint.expand(len(args[0]), -1, -1, -1),
                conditioning_scale=control.scale,
                added_cond_kwargs=kwargs.get("added_cond_kwargs"),
                return_dict=False,
            )
            new = [*down, middle]
            added = [one + other for one, other in zip(added, new, strict=True)] if added else new
        if not added:
            return None
        names = "down_block_additional_residuals", "mid_block_additional_residual"
        return args, kwargs | dict(zip(names, (tuple(added[:-1]), added[-1]), strict=True))


def _hint_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as [1, 3, H, W], 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
