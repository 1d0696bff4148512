"""One image with nothing left open (`Job`), and the plan of a run as a list of them."""

import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

from pydantic import Field

from sdapp import images, markup, schedulers
from sdapp.config import BatchSize, ImageSettings, LoadSettings, ModelSettings, RunConfig
from sdapp.errors import ConfigError
from sdapp.models.control_files import check_control
from sdapp.models.embedding_files import find_embeddings, vector_counts
from sdapp.models.locate import Model, check_clip_skip, check_task
from sdapp.models.lora_files import check_loras
from sdapp.models.mask_models import check_words_to_find
from sdapp.models.safety import check_ships
from sdapp.models.upscalers import check_upscaler
from sdapp.models.words import check_words
from sdapp.profiles import PROFILES, ProfileName, Rng
from sdapp.settings.additions import MAX_LORA_WEIGHT, Embedding, Lora
from sdapp.settings.files import find_named
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.stages import Detail, Upscale
from sdapp.settings.tasks import FoundMask, Img2Img, Inpaint, Outpaint, Task, Txt2Img, UpscaleImage

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
LORA_TAG = re.compile(r"<lora:([^<>:]+)((?::[-+]?\d*\.?\d+){0,2})>")
# The record of a JPEG has room for 65,504 bytes. A byte of a prompt takes up to 12.1 of them: up to 6 in the
# job (a control character in JSON) and 6 in the note about truncated text, or 3 and 9. A quarter is left.
MAX_JPEG_PROMPTS = 4_000
MAX_SIDES = {"jpeg": 65_500, "webp": 16_383}  # in pixels, of Pillow's encoders


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
    chunks: int = Field(1, exclude=True)  # of 75 tokens, in the longer of the prompts that are encoded
    detail_chunks: tuple[int, ...] = Field((), exclude=True)  # the same of each of `detail`

    @cached_property
    def id(self) -> str:
        """The first 12 hex digits of a SHA-256 over what decides the pixels.

        Input files count by their content, not their path; of `memory` only tiling that is asked for counts.
        The syntax of prompts, and `rng`, count where they make a difference.
        """
        content = self.model_dump(mode="json")
        content["memory"] = {"vae_tiling": self.memory.vae_tiling is True}
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
        return {key: content[key] for key in keys if key not in ONLY_IF_GIVEN or content[key] is not None}

    def _task_data(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The task in plain data of the job: of masks from files and by words, without what the other has."""
        task: dict[str, Any] = content["task"]
        if self.task.kind != "inpaint":
            return task
        unused = BY_WORDS if self.task.mask_prompt is None else ("mask",)
        return {key: value for key, value in task.items() if key not in unused}

    @cached_property
    def pack(self) -> str:
        """Equal for jobs that can share UNet calls: only their prompts, equally long, and seeds differ."""
        content = self.model_dump(mode="json", exclude={"prompt", "negative_prompt", "embeddings", "seed"})
        return _canonical(content | {"chunks": [self.chunks, *self.detail_chunks]})

    def __copy__(self) -> Self:
        """Copy without what was computed from fields, which `model_copy` may change."""
        copied = super().__copy__()
        for name in ("id", "pack", "second_pass"):
            copied.__dict__.pop(name, None)
        return copied

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

    @property
    def unet_calls(self) -> int:
        """How often UNets will be called for this image, by upscaling too.

        Of each `detail` one place is counted: how many there are is known when it is painted.
        """
        calls = self.scheduler.resolve().unet_calls(self.steps_to_run) if self.steps_to_run else 0
        rounds = len(self.rounds) if self.task.kind == "outpaint" else 1
        later = [*filter(None, [self.second_pass]), *map(self.repainted, range(len(self.detail)))]
        return calls * rounds + sum(each.unet_calls for each in later) + self.upscaler_calls

    @property
    def upscaler_calls(self) -> int:
        """How often the UNet of an upscaler will be called (`upscale.method: diffusion`)."""
        if self.upscale is None or self.upscale.method != "diffusion":
            return 0
        scheduler = self.upscale.scheduler or self.scheduler
        return scheduler.resolve().unet_calls(self.upscale.steps or self.steps)

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
        return self._first.model_copy(update={"seed": self._seeds[index]})

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
        return cls(**given | _pinned(config, model))


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


def _pinned(config: RunConfig, model: Model) -> dict[str, str | None]:
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


def plan(config: RunConfig, model: Model, seeds: Sequence[int] | None = None) -> JobList:
    """Plan the jobs of a run: one for each of `seeds`; by default image i has seed + i.

    If the config has no seed, the first one is random. Checks the input files. Raises ConfigError if there is
    no prompt, if it has markup that is not supported or, with the built-in model by default, nothing that it
    knows, if a JPEG has no room for the prompts, or if the model cannot do the task or the clip_skip;
    InputError for files that cannot be used.
    """
    if config.compare is not None:
        raise ConfigError("compare: this config is for `sdapp compare`, which paints all images of its grid")
    if config.prompt is None:
        raise ConfigError("prompt: there is none; give one on the command line or as `prompt:` in the config")
    check_task(model, config.task.kind)
    config = _with_found_masks(config, model)
    check_clip_skip(model, config.clip_skip)
    check_ships(config.safety_checker, model)
    _check_room(config)
    prompt, tags = _lora_tags(config)
    if "model" not in config.model_fields_set:  # with postcards by default, not by choice
        check_words(model, markup.words(prompt) if config.prompt_syntax == "a1111" else prompt)
    config = config.model_copy(update={"prompt": prompt})
    loras = check_loras([*config.loras, *tags], model, config.folders.loras)
    embeddings = find_embeddings(config, _encoded_texts(config), model, loras)
    if seeds is None:
        first = config.seed if config.seed is not None else secrets.randbelow(2**32)
        seeds = range(first, first + config.count)
    if not seeds:
        raise ConfigError("seed: give at least one")
    (width, height), inputs = _size_and_inputs(config, model)
    resolved = {
        **_pinned(config, model),
        "scheduler": choose_scheduler(config, model)[0],
        "upscale": _fitting_upscale(config, model, width, height),
        "width": width,
        "height": height,
        "seed": seeds[0],
        "inputs": inputs,
        "loras": loras,
        "embeddings": embeddings,
        "control": check_control(config.control, model, _hint_size(config, (width, height))),
        **_all_chunks(config, model, vector_counts(embeddings)),
    }
    given = {name: getattr(config, name) for name in FROM_CONFIG}
    return JobList(Job(**given | resolved), seeds)


def _check_room(config: RunConfig) -> None:
    texts = [config.prompt, config.negative_prompt]
    texts += [text for each in config.detail for text in (each.prompt, each.negative_prompt)]
    size = len("".join(filter(None, texts)).encode())
    if config.output.format == "jpeg" and size > MAX_JPEG_PROMPTS:
        room = f"a JPEG has room for {MAX_JPEG_PROMPTS:,} bytes of prompts, these have {size:,}"
        raise ConfigError(f"output.format: {room}; use png or webp")


def _lora_tags(config: RunConfig) -> tuple[str, list[Lora]]:
    """Take tags such as <lora:ink:0.8> out of the prompt; <lora:ink:0.5:0.8> has a text encoder weight first.

    Raises ConfigError for a name that is not in `folders.loras`, and for tags in the negative prompt.
    """
    loras: list[Lora] = []
    if config.prompt_syntax == "plain":
        return config.prompt or "", loras
    for name, weights in LORA_TAG.findall(config.prompt or ""):
        numbers = [float(number) for number in weights.split(":")[1:]]
        file = find_named(config.folders.loras, name)
        if file is None and not Path(name).is_file():
            unset = "here; say where your LoRAs are: sdapp config set folders.loras FOLDER"
            where = f"in {config.folders.loras}" if config.folders.loras else unset
            raise ConfigError(f"prompt: <lora:{name}>: there is no {name}.safetensors {where}")
        if any(abs(number) > MAX_LORA_WEIGHT for number in numbers):
            limits = f"weights are from -{MAX_LORA_WEIGHT} to {MAX_LORA_WEIGHT}"
            raise ConfigError(f"prompt: <lora:{name}{weights}>: {limits}")
        text_weight = numbers[0] if len(numbers) > 1 else None
        loras.append(Lora(file=file or name, weight=[1.0, *numbers][-1], text_encoder_weight=text_weight))
    if LORA_TAG.search(config.negative_prompt):
        raise ConfigError("negative_prompt: a LoRA belongs into the prompt; give it a negative weight there")
    if any(LORA_TAG.search(f"{each.prompt}{each.negative_prompt}") for each in config.detail):
        raise ConfigError("detail: LoRAs are those of the image; name them in its prompt")
    return " ".join(LORA_TAG.sub(" ", config.prompt or "").split()) if loras else config.prompt or "", loras


def _with_found_masks(config: RunConfig, model: Model) -> RunConfig:
    """Find and check the mask models of the settings that find places by words."""
    change: dict[str, Any] = {"detail": [check_words_to_find(each, model) for each in config.detail]}
    if config.task.kind == "inpaint":
        change["task"] = check_words_to_find(config.task, model)
    return config.model_copy(update=change)


def _with_prompts_of(detail: Detail, config: RunConfig) -> RunConfig:
    """The settings with the prompts of a detail."""
    given = {"prompt": detail.prompt, "negative_prompt": detail.negative_prompt}
    change = {key: text for key, text in given.items() if text is not None}
    return config.model_copy(update=change | {"detail": []})


def _all_chunks(config: RunConfig, model: Model, embeddings: Mapping[str, int]) -> dict[str, Any]:
    """The chunks of the image and of its details, as fields of a Job."""
    details = (_with_prompts_of(each, config) for each in config.detail)
    counts = [_count_chunks(each, model, embeddings, f"detail.{i}.") for i, each in enumerate(details)]
    return {"chunks": _count_chunks(config, model, embeddings), "detail_chunks": tuple(counts)}


def _count_chunks(config: RunConfig, model: Model, embeddings: Mapping[str, int], place: str = "") -> int:
    """Check the markup of the prompts; return the chunks of the longer of those that are encoded."""
    if config.prompt_syntax == "plain":
        return 1
    prompts = {"prompt": config.prompt or "", "negative_prompt": config.negative_prompt}
    for key, text in prompts.items():
        markup.check(f"{place}{key}", text)
    texts = _encoded_texts(config)
    if not embeddings:
        texts = [text for text in texts if not markup.is_short(text)]
    chunks = (markup.chunk(text, model.tokenizer, embeddings=embeddings) for text in texts)
    return max(map(len, chunks), default=1)


def _hint_size(config: RunConfig, size: images.Size) -> images.Size:
    """The size whose shape the images of ControlNets must have: with padding that of the whole image."""
    if config.control and config.task.kind == "inpaint" and config.task.padding is not None:
        return images.inputs.image(config.task.image, None, any_size=True).size
    return size


def _encoded_texts(config: RunConfig) -> list[str]:
    """The prompts that are encoded: the negative ones only with guidance."""
    details = [_with_prompts_of(each, config) for each in config.detail]
    texts = [config.prompt or "", *([config.negative_prompt] if config.guidance_scale > 1 else [])]
    return [*texts, *(text for each in details for text in _encoded_texts(each))]


def choose_scheduler(config: RunConfig, model: Model) -> tuple[SchedulerChoice, str]:
    """Return the scheduler that the model runs with, and a note if it is another than asked for, or ""."""
    asked, own = config.scheduler, config.noise_schedule(model.scheduler_config)
    is_given = "scheduler" in config.model_fields_set
    fitted = schedulers.fit_to_model(asked.name, asked.options, own, is_given)
    name, options, note = (asked.resolve().name, asked.options, "") if asked.exact else fitted
    resolved = schedulers.resolve(name, options)
    schedulers.check_run(resolved, config.steps, config.eta)
    schedulers.check_noise_schedule(resolved, own)
    return SchedulerChoice(name=name, options=dict(options)), note


def _fitting_upscale(config: RunConfig, model: Model, width: int, height: int) -> Upscale | None:
    """Return the settings of upscaling, with the scheduler that the model runs with and the upscaler's
    digest.
    """
    upscale = config.upscale
    _check_final_size(config, width, height)
    if upscale and upscale.uses_model:
        upscale = check_upscaler(upscale)
    if upscale is None or upscale.scheduler is None:
        return upscale
    second = config.model_copy(update={"scheduler": upscale.scheduler, "eta": None})
    return upscale.model_copy(update={"scheduler": choose_scheduler(second, model)[0]})


def _check_final_size(config: RunConfig, width: int, height: int) -> None:
    upscale = config.upscale
    final = final_side(width, upscale), final_side(height, upscale)
    if final[0] * final[1] > images.MAX_PIXELS:
        size = f"{final[0]}x{final[1]} are more than {images.MAX_PIXELS:,} pixels"
        if width * height > images.MAX_PIXELS:
            raise ConfigError(f"task.sides: {size}; add less")
        most = math.floor(100 * math.sqrt(images.MAX_PIXELS / (width * height))) / 100
        raise ConfigError(f"upscale.scale: {size}; for {width}x{height}, use at most {most:g}")
    if max(final) > (most_side := MAX_SIDES.get(config.output.format, max(final))):
        room = f"its sides have at most {most_side:,} pixels, and the image is {final[0]}x{final[1]}"
        raise ConfigError(f"output.format: {config.output.format}: {room}; use png")


def _size_and_inputs(config: RunConfig, model: Model) -> tuple[images.Size, dict[str, str]]:
    """Check the input files; return the size of the image and their digests."""
    asked = (config.width, config.height) if config.width and config.height else None
    task = config.task
    if task.kind == "txt2img":
        return asked or (model.size, model.size), {}
    # With padding, only the masked part is painted at the given size; the image keeps its own size.
    cropped = task.kind == "inpaint" and task.padding is not None
    any_size = cropped or task.kind in ("outpaint", "upscale")
    image = images.inputs.image(task.image, None if any_size else asked, any_size, keep_alpha=True)
    size = image.size
    if task.kind != "img2img" and config.output.format == "jpeg" and image.mode == "RGBA":
        raise ConfigError(
            f"output.format: {task.image} is partly transparent, which a JPEG cannot store; use png or webp"
        )
    inputs = {"image": images.inputs.read(task.image, "image")[1]}
    if task.kind == "inpaint" and task.mask is not None:
        images.inputs.mask(task.mask, task.image, size)
        inputs["mask"] = images.inputs.read(task.mask, "mask")[1]
    if task.kind == "outpaint":
        return _grown(task, size), inputs
    return asked or ((model.size, model.size) if cropped else size), inputs


def _grown(task: Outpaint, size: images.Size) -> images.Size:
    """The size of an image with what is added to it. Raises ConfigError for sides larger than the image."""
    for sides, pixels, name in ((("left", "right"), size[0], "wide"), (("top", "bottom"), size[1], "high")):
        for side in sides:
            if (added := getattr(task.sides, side)) > pixels:
                way = f"add at most {pixels}, and outpaint the result again"
                raise ConfigError(
                    f"task.sides.{side}: {added} pixels, but the image is {pixels} {name}; {way}"
                )
    return size[0] + task.sides.left + task.sides.right, size[1] + task.sides.top + task.sides.bottom
