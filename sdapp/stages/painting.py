"""A batch on its way through the stages, and its steps, which are reported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from sdapp.diffusion.decode import Decoded
from sdapp.diffusion.task_inputs import TaskInputs, paste_result
from sdapp.diffusion.text_encoder import Conditioning
from sdapp.diffusion.watch import Watcher
from sdapp.jobs import Job
from sdapp.records import OnStep

CALLS = ("unet_calls", "unguided_calls", "cached_calls")
RecordFields = Mapping[str, Any]  # some fields of a Record


class StepReporter:
    """Calls `on_step` from a pipeline; `raised` is what it raised, which is not an error of the pipeline.

    `steps` are those of all passes for these images, 0 for a single one.
    """

    def __init__(self, on_step: OnStep, index: int, images: int, steps: int) -> None:
        self._on_step, self._index, self._images = on_step, index, images
        self._steps, self._before, self._done = steps, 0, 0
        self.raised: Exception | None = None

    def begin_pass(self) -> None:
        """Count on from the steps that are done."""
        self._before = self._done

    def for_one_of(self, images: int, place: int, calls: int) -> Callable[[int, Any, Any], object]:
        """A callback of the old kind, for a pass over the images of the batch one by one."""
        pipe = SimpleNamespace(num_timesteps=0)
        return lambda step, _t, _latents: self(pipe, (place * calls + step) // images, None, {})

    def count_places(self, places: int, calls: int) -> None:
        """Correct the steps, in which one place of a detail is counted, when all are known."""
        self._steps += (places - 1) * calls
        if not places and self._done:  # maybe no step follows
            self._tell(self._steps)

    def __call__(self, pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._done = self._before + step + 1
        self._tell(max(self._steps, pipe.num_timesteps, self._done))
        return tensors

    def _tell(self, steps: int) -> None:
        try:
            self._on_step(self._index, self._images, self._done, steps)
        except Exception as exc:
            self.raised = exc
            raise


@dataclass
class Painting:
    """A batch of jobs with one `pack`; each stage adds what it made."""

    jobs: tuple[Job, ...]
    index: int  # of the first job in the run
    preview: str | None  # a file to keep fresh
    watcher: Watcher | None  # of this run
    reporter: StepReporter | None
    inputs: list[TaskInputs] = field(default_factory=list)  # of each job, none for txt2img
    conditioning: list[Conditioning] = field(default_factory=list)  # of each UNet call, or one for all
    latents: torch.Tensor | None = None
    decoded: Decoded | None = None
    reworked: list[Image.Image] = field(default_factory=list)  # by an upscaler, or with repainted details
    shared: dict[str, Any] = field(default_factory=dict)  # fields of the Record that all images have
    own: list[dict[str, Any]] = field(default_factory=list)  # fields of the Record by image

    @property
    def job(self) -> Job:
        """The first job, for settings that all have."""
        return self.jobs[0]

    @property
    def images(self) -> list[Image.Image]:
        """The images so far: reworked, or as painted and pasted into the inputs, or else the inputs."""
        if self.reworked:
            return self.reworked
        if self.decoded is None:
            return [each.whole for each in self.inputs if each.whole]
        painted = map(Image.fromarray, self.decoded.levels)
        return [paste_result(*each) for each in zip_longest(self.inputs, painted)]
