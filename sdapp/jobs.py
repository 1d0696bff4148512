"""One image with nothing left open (`Job`), and the plan of a run as a list of them."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, overload

from sdapp import images
from sdapp.config import (
    WHOLE_INTERVAL,
    BatchSize,
    Inpaint,
    Memory,
    RunConfig,
    SchedulerChoice,
    Switch,
    Task,
    Txt2Img,
)
from sdapp.errors import ConfigError
from sdapp.models.locate import Model, check_task
from sdapp.settings.types import Frozen

# The record of a JPEG has 65,504 bytes. A byte of a prompt takes up to 12.1 of them: 6 in the job (a control character in
# JSON) and as many in the note of what the text encoder does not read, or 3 and 9. So a quarter is left for all the rest.
MAX_JPEG_PROMPTS = 4_000


class Job(Frozen):
    """What decides the pixels of one image. The fields have the names and places that they have in a config."""

    model: str
    revision: str | None
    dtype: str  # as asked for; what `auto` became is in the record
    scheduler: SchedulerChoice
    steps: int
    guidance_scale: float
    negative_prompt: str
    width: int
    height: int
    seed: int
    task: Task
    prompt: str
    eta: float | None
    clip_skip: int
    memory: Memory
    inputs: dict[str, str]  # `image`, `mask` → SHA-256 of the file
    # Of images from before there were these, nothing says them.
    vae: str | None = None
    guidance_interval: list[float] = WHOLE_INTERVAL
    cache_interval: int = 1

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of what decides the pixels: of input files the content, of memory the tiling."""
        content = self.model_dump(mode="json", exclude={"memory": {"offload", "vae_slicing"}})
        content["task"] = {key: value for key, value in content["task"].items() if key not in self.inputs}
        content = {key: value for key, value in content.items() if key not in UNSAID or value != UNSAID[key]}
        return hashlib.sha256(_canonical(content).encode()).hexdigest()[:12]

    @cached_property
    def pack(self) -> str:
        """Equal for jobs that can share UNet calls: only their prompts and seeds differ."""
        return _canonical(self.model_dump(mode="json", exclude={"prompt", "negative_prompt", "seed"}))

    def __copy__(self) -> Self:
        """Without what was worked out of the fields, which `model_copy` may change."""
        copied = super().__copy__()
        for name in ("id", "pack"):
            copied.__dict__.pop(name, None)
        return copied

    @property
    def shortcuts(self) -> dict[str, Any]:
        """What makes a UNet call cheaper than a whole one, where that is asked for."""
        asked = {"guidance_interval": self.guidance_interval, "cache_interval": self.cache_interval}
        return {key: value for key, value in asked.items() if value != UNSAID[key]}

    @property
    def steps_to_run(self) -> int:
        """Of `steps`, those that run at this strength."""
        return steps_to_run(self.task, self.steps)

    @property
    def unet_calls(self) -> int:
        """How often the UNet will be called for this image."""
        return self.scheduler.resolve().unet_calls(self.steps_to_run)


class JobList(Sequence[Job]):
    """Jobs that differ in their seeds alone, one for each seed; each is built when it is asked for."""

    def __init__(self, first: Job, seeds: Sequence[int]) -> None:
        self._first, self._seeds = first, seeds

    def __len__(self) -> int:
        return len(self._seeds)

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> "JobList": ...
    def __getitem__(self, index: int | slice) -> "Job | JobList":
        if isinstance(index, slice):
            return JobList(self._first, self._seeds[index])
        return self._first.model_copy(update={"seed": self._seeds[index]})

    @property
    def unet_calls(self) -> int:
        """How often the UNet will be called for all of them."""
        return len(self) * self._first.unet_calls


class LoadKey(Frozen):
    """What one load of a model depends on. Jobs whose keys are equal can share a load; keys can be pickled."""

    model: str
    revision: str | None  # the commit, for a model from the Hub
    vae: str | None
    device: str
    dtype: str
    memory: Memory
    compile: Switch
    channels_last: Switch

    @classmethod
    def of(cls, config: RunConfig, model: Model) -> Self:
        """The key of a run's settings and the model that was located for them."""
        given = {name: getattr(config, name) for name in cls.model_fields}
        return cls(**given | {"revision": model.revision, "vae": pinned_vae(config, model)})


@dataclass(frozen=True)
class Work:
    """Jobs for one load of a model, and how to paint them. It can be pickled and sent to another machine."""

    load: LoadKey
    jobs: Sequence[Job]
    batch_size: BatchSize = 1
    keep_going: bool = False  # a job that cannot be painted becomes a result with its error
    unet_calls: int = 0  # of the whole run that this is a part of, which decides whether compiling pays


def pinned_vae(config: RunConfig, model: Model) -> str | None:
    """The name of the autoencoder asked for, with its commit if it is from the Hub: `org/name@commit`."""
    if config.vae is None or model.vae_revision is None:
        return config.vae
    return f"{config.vae.partition('@')[0]}@{model.vae_revision}"


UNSAID = {key: field.default for key, field in Job.model_fields.items() if not field.is_required()}


def steps_to_run(task: Task, steps: int) -> int:
    """Of so many steps, those that run for a task, by its strength."""
    return steps if isinstance(task, Txt2Img) else min(int(steps * task.strength), steps)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def plan(config: RunConfig, model: Model, seeds: Sequence[int] | None = None) -> JobList:
    """The jobs of a run: one for each of `seeds`, else image i has seed + i. Reads and checks the input files.

    Raises ConfigError without a prompt, for prompts that the format cannot carry or for a task that the model cannot do;
    InputError for files that cannot be used.
    """
    if config.compare is not None:
        raise ConfigError(
            "compare: this is a config for `sdapp compare`, which paints every image of its grid"
        )
    if config.prompt is None:
        raise ConfigError(
            "prompt: there is none; give one on the command line, or as `prompt:` in the config"
        )
    check_task(model, config.task.kind)
    size = len((config.prompt + config.negative_prompt).encode())
    if config.output.format == "jpeg" and size > MAX_JPEG_PROMPTS:
        raise ConfigError(f"output.format: a JPEG has room for prompts of {MAX_JPEG_PROMPTS:,} bytes in all, and these have "
                          f"{size:,}; use png or webp")  # fmt: skip
    (width, height), inputs = _size_and_inputs(config, model)
    if seeds is None:
        first = config.seed if config.seed is not None else secrets.randbelow(2**32)
        seeds = range(first, first + config.count)
    scheduler = SchedulerChoice(name=config.scheduler.resolve().name, options=config.scheduler.options)
    same = {name: getattr(config, name) for name in Job.model_fields if name in RunConfig.model_fields}
    same |= {
        "revision": model.revision,
        "scheduler": scheduler,
        "width": width,
        "height": height,
        "inputs": inputs,
    }
    same["vae"] = pinned_vae(config, model)
    if not seeds:
        raise ConfigError("seed: there is none")
    return JobList(Job(**(same | {"seed": seeds[0]})), seeds)


def _size_and_inputs(config: RunConfig, model: Model) -> tuple[images.Size, dict[str, str]]:
    asked = (config.width, config.height) if config.width and config.height else None
    if isinstance(config.task, Txt2Img):
        return asked or (model.size, model.size), {}
    data, digest = images.read_bytes(config.task.image, "image")
    # With padding the masked part is painted at the asked size, and the image keeps its own, whatever it is.
    cropped = isinstance(config.task, Inpaint) and config.task.padding is not None
    image = images.load_image(data, config.task.image, None if cropped else asked, any_size=cropped)
    inputs = {"image": digest}
    if isinstance(config.task, Inpaint):
        mask_data, inputs["mask"] = images.read_bytes(config.task.mask, "mask")
        images.load_mask(mask_data, config.task.mask, data, image.size)
    return asked or ((model.size, model.size) if cropped else image.size), inputs


# --- jobs inside images -----------------------------------------------------------------------------------------
