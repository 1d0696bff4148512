"""One image with nothing left open (`Job`), and the plan of a run as a list of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, overload

from pydantic import Field

from sdapp import markup
from sdapp.config import BatchSize, ImageSettings, LoadSettings, ModelSettings, RunConfig
from sdapp.models.model import Model
from sdapp.profiles import PROFILES, ProfileName, Rng
from sdapp.settings.additions import Embedding
from sdapp.settings.stages import Detail, Upscale
from sdapp.settings.tasks import FoundMask, Img2Img, Inpaint, Task, Txt2Img, UpscaleImage

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class Job(ImageSettings, ModelSettings):
    """What decides the pixels of one image; the fields are named and nested as in a config.

    `revision`, `vae` and `base` are pinned to a commit; `dtype` is as given: what `auto` became is in the
    record.
    """

    width: int
    height: int
    seed: int
    prompt: str
    inputs: dict[str, str]  # `image`, `mask` → SHA-256 of the file
    prompt_syntax: markup.PromptSyntax = "plain"  # of records from before there was this setting
    embeddings: list[Embedding] = Field([])  # those whose names are in the prompts
    # Of 75 tokens, in the longest of the image's prompts that are encoded.
    chunks: int = Field(1, exclude=True)
    detail_chunks: tuple[int, ...] = Field((), exclude=True)  # the same of each of `detail`

    @cached_property
    def id(self) -> str:
        """The first 12 hex digits of a SHA-256 over what decides the pixels.

        Input files count by their content, not their path; of `memory` only tiling that is asked for counts.
        The syntax of prompts, and `rng`, count where they make a difference.
        """
        content = self.model_dump(mode="json")
        content["memory"] = {"vae_tiling": self.memory.vae_tiling is True}
        content["detail"] = list(map(_as_before_blur, content["detail"]))
        content["task"] = {
            key: value for key, value in self._task_data(content).items() if key not in self.inputs
        }
        for each in (content["task"], *content["detail"]):
            each.pop("mask_model", None)  # which its digest stands for
        for name in ("loras", "embeddings"):
            content[name] = [{key: each[key] for key in each if key != "file"} for each in content[name]]
        if self.upscale:
            usual = Upscale().model_dump(mode="json")
            given = content["upscale"] | {"model": None}  # which its digest stands for
            content["upscale"] = {key: value for key, value in given.items() if value != usual[key]}
        content["control"] = [
            {key: each[key] for key in each if key != "image"} for each in content["control"]
        ]
        if self.rng == PROFILES[self.profile].rng:
            content["rng"] = None
        prompts = self.prompt, *(each.prompt or "" for each in self.detail)
        negatives = self.negative_prompt, *(each.negative_prompt or "" for each in self.detail)
        if all(map(markup.is_plain, prompts)) and all(markup.is_plain(each, True) for each in negatives):
            content["emphasis"] = "original"
            is_short = max(self.chunks, *self.detail_chunks, 1) == 1
            content["prompt_syntax"] = "plain" if is_short else self.prompt_syntax
        defaults = {key: field.default for key, field in type(self).model_fields.items()}
        content = {k: value for k, value in content.items() if k in ALWAYS_IN_ID or value != defaults[k]}
        return hashlib.sha256(_canonical(content).encode()).hexdigest()[:12]

    def to_data(self) -> dict[str, Any]:
        """Return the job as plain data for JSON, in the order of older records; without sizes not given."""
        content = self.model_dump(mode="json")
        keys = (*ALWAYS_IN_ID, *LATER_DEFAULTS)
        content["task"] = self._task_data(content)
        content["detail"] = list(map(_as_before_blur, content["detail"]))
        return {key: content[key] for key in keys if key not in ONLY_IF_GIVEN or content[key] is not None}

    def _task_data(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The task in plain data of the job: of masks from files and by words, without what the other has."""
        task: dict[str, Any] = content["task"]
        if self.task.kind != "inpaint":
            return task
        unused = BY_WORDS if self.task.mask_prompt is None else ("mask",)
        return {key: value for key, value in _as_before_blur(task).items() if key not in unused}

    @cached_property
    def pack(self) -> str:
        """Equal for jobs that can share UNet calls: only their prompts, equally long, and seeds differ."""
        content = self.model_dump(mode="json", exclude={"prompt", "negative_prompt", "embeddings", "seed"})
        return _canonical(content | {"chunks": [self.chunks, *self.detail_chunks]})

    def __copy__(self) -> Self:
        """Copy without what was computed from fields, which `model_copy` may change."""
        copied = super().__copy__()
        for name in ("id", "pack", "second_pass", "unet_calls"):
            copied.__dict__.pop(name, None)
        return copied

    def texts_by_call(self, prompt: str) -> tuple[str, ...]:
        """A prompt at each call of the UNet over all `steps`; a single one if it never changes."""
        if self.prompt_syntax == "plain":
            return (prompt,)
        return markup.texts_by_call(prompt, self.scheduler.resolve().counted_calls(self.steps))

    def prompts_by_call(self) -> list[tuple[str, ...]]:
        """The prompt and the negative prompt at each call; one pair if both stay."""
        both = map(self.texts_by_call, (self.prompt, self.negative_prompt))
        return markup.in_rows([*both])

    @property
    def last_prompts(self) -> tuple[str, ...]:
        """The prompt and the negative prompt at the end of a run."""
        if self.prompt_syntax == "plain":
            return self.prompt, self.negative_prompt
        return markup.last_text(self.prompt), markup.last_text(self.negative_prompt)

    @property
    def last_words(self) -> str:
        """The prompt at the end of a run, without markup."""
        return self.prompt if self.prompt_syntax == "plain" else markup.words(self.last_prompts[0])

    @property
    def shortcuts(self) -> dict[str, Any]:
        """The settings that make UNet calls cheaper, without those at their defaults."""
        given = {"guidance_interval": self.guidance_interval, "cache_interval": self.cache_interval}
        return {key: value for key, value in given.items() if value != LATER_DEFAULTS[key]}

    @property
    def steps_to_run(self) -> int:
        """How many of `steps_in_all` run at this strength."""
        return steps_to_run(self.task, self.steps, self.profile)

    @property
    def steps_in_all(self) -> int:
        """Over how many steps the noise levels are spread: `steps`, or more for img2img as in ComfyUI."""
        if isinstance(self.task, Txt2Img | UpscaleImage):
            return self.steps
        return PROFILES[self.profile].steps(self.steps, self.task.strength)[0]

    @property
    def is_drawn_plainly(self) -> bool:
        """Whether the noise is that of `torch.randn` on a CPU, drawn when diffusers wants it."""
        return self.profile == "diffusers" and self.rng in (None, "cpu")

    @property
    def noise(self) -> tuple[Rng, int, tuple[Rng, int] | None]:
        """What draws the first noise, with which seed, and what draws the noise of the steps, if another."""
        row, first = PROFILES[self.profile], self.rng or PROFILES[self.profile].rng
        if self.ensd:
            return first, self.seed, (first, self.seed + self.ensd)
        return first, self.seed, row.step_rng and (row.step_rng, self.seed)

    @cached_property
    def unet_calls(self) -> int:
        """How often UNets will be called for this image, by upscaling too.

        Of each `detail` one place is counted: how many there are is known when it is painted.
        """
        details = map(self.repainted, range(len(self.detail)))
        return self.whole_calls + sum(each.unet_calls for each in details) + self.upscaler_calls

    @property
    def whole_calls(self) -> int:
        """How often the model's UNet will be called for the whole image, which a film shows."""
        calls = self.scheduler.resolve().unet_calls(self.steps_to_run) if self.steps_to_run else 0
        rounds = len(self.rounds) if self.task.kind == "outpaint" else 1
        return calls * rounds + (self.second_pass.whole_calls if self.second_pass else 0)

    @property
    def upscaler_calls(self) -> int:
        """How often the UNet of an upscaler will be called (`upscale.method: diffusion`)."""
        if self.upscale is None or self.upscale.method != "diffusion":
            return 0
        scheduler = self.upscale.scheduler or self.scheduler
        return scheduler.resolve().unet_calls(self.upscale.steps or self.steps)

    @property
    def mask_models(self) -> set[str]:
        """What finds places of the image by words."""
        asked: list[Inpaint | Detail] = [*self.detail, *([self.task] if self.task.kind == "inpaint" else [])]
        return {str(each.mask_model) for each in asked if each.mask_prompt}

    @property
    def has_passes(self) -> bool:
        """Whether the image is denoised several times."""
        return self.task.kind == "outpaint" or self.upscale is not None or bool(self.detail)

    @property
    def rounds(self) -> list[Box]:
        """The parts of the canvas that are filled one after the other by outpainting, the last one all of it.

        Each round continues an image by at most half its width or height on a side.
        """
        assert self.task.kind == "outpaint"
        left, top = self.task.sides.left, self.task.sides.top
        box = left, top, self.width - self.task.sides.right, self.height - self.task.sides.bottom
        boxes = list[Box]()
        while box != (0, 0, self.width, self.height):
            across, down = (box[2] - box[0] + 1) // 2, (box[3] - box[1] + 1) // 2
            right, bottom = min(box[2] + across, self.width), min(box[3] + down, self.height)
            box = max(box[0] - across, 0), max(box[1] - down, 0), right, bottom
            boxes.append(box)
        return boxes

    @property
    def final_width(self) -> int:
        return final_side(self.width, self.upscale)

    @property
    def final_height(self) -> int:
        return final_side(self.height, self.upscale)

    @property
    def decoded_pixels(self) -> int:
        """The pixels of the largest image that the model denoises and decodes; 0 if it is only enlarged."""
        largest = self.second_pass or self
        return largest.width * largest.height if self.unet_calls > self.upscaler_calls else 0

    @cached_property
    def second_pass(self) -> "Job | None":
        """The job that denoises the enlarged image again (`upscale.method: hires`), as img2img; else None.

        Its size is the final one, rounded up to multiples of 8; the rest is cut off the finished image.
        """
        upscale = self.upscale
        if upscale is None or upscale.method != "hires":
            return None
        asked = upscale.steps or self.steps, upscale.strength
        steps, strength = PROFILES[self.profile].second_pass(*asked)
        change = {
            "task": Img2Img(kind="img2img", image="-", strength=strength),
            "steps": steps,
            "scheduler": upscale.scheduler or self.scheduler,
            "width": -(-self.final_width // 8) * 8,
            "height": -(-self.final_height // 8) * 8,
            "upscale": None,
            "detail": [],
        }
        return self.model_copy(update=change)

    def repainted(self, number: int) -> "Job":
        """The job that repaints a place of the finished image for a detail, at the size of this job."""
        detail = self.detail[number]
        strength, padding = detail.strength, detail.padding
        change: dict[str, Any] = {
            "task": Inpaint(kind="inpaint", image="-", mask="-", strength=strength, padding=padding),
            "upscale": None,
            "detail": [],
            "control": [],
        }
        given = {"prompt": detail.prompt, "negative_prompt": detail.negative_prompt}
        change |= {key: text for key, text in given.items() if text is not None}
        if len(self.detail_chunks) > number:
            change["chunks"] = self.detail_chunks[number]
        return self.model_copy(update=change)


class JobList(Sequence[Job]):
    """Jobs that differ only in their seeds; each is built when you access it."""

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
        seed = self._seeds[index]
        return self._first if seed == self._first.seed else self._first.model_copy(update={"seed": seed})

    @property
    def unet_calls(self) -> int:
        """How often the UNet will be called for all of them."""
        return len(self) * self._first.unet_calls


class LoadKey(LoadSettings):
    """What one load of a model depends on; jobs with equal keys can share a load.

    `revision`, `vae` and `base` are pinned to a commit. Keys can be pickled.
    """

    @classmethod
    def of(cls, config: RunConfig, model: Model) -> Self:
        """Return the key of a run's settings and the model that was found for them."""
        given = {name: getattr(config, name) for name in cls.model_fields}
        return cls(**given | pinned_models(config, model))


@dataclass(frozen=True)
class Work:
    """Jobs for one load of a model, and how to paint them. It can be pickled and sent to another machine."""

    load: LoadKey
    jobs: Sequence[Job]
    batch_size: BatchSize = 1
    keep_going: bool = False  # a job that fails becomes a result with its error
    unet_calls: int = 0  # of the whole run; decides whether compiling saves time
    preview: str | None = None  # a file that shows the image that is being painted
    film: str | None = None  # a file that shows how the only image was painted


def pinned_models(config: RunConfig, model: Model) -> dict[str, str | None]:
    """The references to models with their commits, where they are from the Hub."""
    commits = {"vae": model.vae_revision, "base": model.base and model.base.revision}
    found = {"revision": model.revision, "vae": config.vae, "base": config.base}
    return found | {key: f"{str(found[key]).partition('@')[0]}@{sha}" for key, sha in commits.items() if sha}


# Every id contains these. A setting that was added later is in it only if it is not the default, so that the
# ids of older images stay the same.
ALWAYS_IN_ID = (
    "model", "revision", "dtype", "scheduler", "steps", "guidance_scale", "negative_prompt", "width",
    "height", "seed", "task", "prompt", "eta", "clip_skip", "memory", "inputs",
)  # fmt: skip
BY_WORDS = ("mask_prompt", *FoundMask.model_fields)  # of inpainting, if it has no mask from a file
FROM_CONFIG = [name for name in Job.model_fields if name in RunConfig.model_fields]  # of a job and a config
ONLY_IF_GIVEN = ("original_size", "crop")  # in the record
LATER_DEFAULTS = {
    key: field.default
    for key, field in Job.model_fields.items()
    if key not in ALWAYS_IN_ID and not field.exclude
}


def _as_before_blur(group: Mapping[str, Any]) -> dict[str, Any]:
    """A task or detail without a `mask_blur` of 0: so ids and records from before that setting stay."""
    return {key: value for key, value in group.items() if key != "mask_blur" or value}


def steps_to_run(task: Task, steps: int, profile: ProfileName = "diffusers") -> int:
    """Return how many steps run for a task: int(steps × strength) if it starts from an image.

    Other profiles count otherwise. None run for an image that is only upscaled.
    """
    if task.kind == "upscale":
        return 0
    return steps if task.kind == "txt2img" else PROFILES[profile].steps(steps, task.strength)[1]


def final_side(pixels: int, upscale: Upscale | None) -> int:
    """Return a side of the final image, in whole pixels; a half is rounded up."""
    return pixels if upscale is None else int(pixels * upscale.scale + 0.5)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
