"""Plan the jobs of a run: from settings to what is painted, all input checked, without torch."""

import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sdapp import images, markup, schedulers
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, SdappError, gathered
from sdapp.jobs import FROM_CONFIG, Job, JobList, final_side, pinned_models
from sdapp.models.checks import check_clip_skip, check_task
from sdapp.models.control_files import check_control
from sdapp.models.embedding_files import find_embeddings, vector_counts
from sdapp.models.lora_files import check_loras
from sdapp.models.mask_models import check_words_to_find
from sdapp.models.model import Model
from sdapp.models.safety import check_ships
from sdapp.models.upscalers import check_upscaler, find_pipeline, has_own_solver
from sdapp.models.words import check_words
from sdapp.profiles import is_exact
from sdapp.settings.additions import MAX_LORA_WEIGHT, Lora
from sdapp.settings.files import find_named
from sdapp.settings.sampling import SchedulerChoice
from sdapp.settings.stages import Detail, Upscale
from sdapp.settings.tasks import Img2Img, Inpaint, Outpaint

LORA_TAG = re.compile(r"<lora:([^<>:]+)((?::[-+]?\d*\.?\d+){0,2})>")
# The record of a JPEG has room for 65,504 bytes. A byte of a prompt takes up to 12.1 of them: up to 6 in the
# job (a control character in JSON) and 6 in the note about truncated text, or 3 and 9. A quarter is left.
MAX_JPEG_PROMPTS = 4_000
MAX_STEPS = 1_000  # in all of a pass, as many as a model was trained with
T = TypeVar("T")
U = TypeVar("U")
MAX_SIDES = {"jpeg": 65_500, "webp": 16_383}  # in pixels, of Pillow's encoders


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
    config = _with_checked_texts(config, model)
    check_clip_skip(model, config.clip_skip)
    check_ships(config.safety_checker, model)
    _check_room(config)
    prompt, tags = _lora_tags(config)
    if "model" not in config.model_fields_set:  # with postcards by default, not by choice
        check_words(model, markup.words(prompt) if config.prompt_syntax == "a1111" else prompt)
    config = config if prompt == config.prompt else config.model_copy(update={"prompt": prompt})
    loras = check_loras([*config.loras, *tags], model, config.folders.loras)
    embeddings = find_embeddings(config, _encoded_texts(config), model, loras)
    if seeds is None:
        first = config.seed if config.seed is not None else secrets.randbelow(2**32)
        seeds = range(first, first + config.count)
    if not seeds:
        raise ConfigError("seed: give at least one")
    (width, height), inputs = _size_and_inputs(config, model)
    scheduler, counts = choose_scheduler(config, model)[0], vector_counts(embeddings)
    resolved = {
        **pinned_models(config, model),
        "scheduler": scheduler,
        "upscale": _fitting_upscale(config, model, width, height),
        "width": width,
        "height": height,
        "seed": seeds[0],
        "inputs": inputs,
        "loras": loras,
        "embeddings": embeddings,
        "control": check_control(config.control, model, _hint_size(config, (width, height))),
        **_all_chunks(config, model, counts, scheduler.resolve().counted_calls(config.steps)),
    }
    given = {name: getattr(config, name) for name in FROM_CONFIG}
    return JobList(_with_checked_passes(Job(**given | resolved)), seeds)


def _with_checked_passes(job: Job) -> Job:
    """Refuse a pass over whose steps in all its scheduler cannot spread noise levels. Raises ConfigError."""
    passes = [
        (f"detail.{i}", job.steps, each.strength, job.repainted(i)) for i, each in enumerate(job.detail)
    ]
    if isinstance(job.task, Img2Img | Inpaint | Outpaint):
        passes.append(("task", job.steps, job.task.strength, job))
    if job.upscale and (second := job.second_pass):
        passes.append(("upscale", job.upscale.steps or job.steps, job.upscale.strength, second))
    for group, steps, strength, each in passes:
        resolved, in_all = each.scheduler.resolve(), each.steps_in_all
        said = f"{group}.strength: {steps} steps at strength {strength:g} are the last of {in_all:,}"
        if in_all > MAX_STEPS:
            raise ConfigError(f"{said}, at most {MAX_STEPS:,} are possible; use more strength or fewer steps")
        if in_all == steps or is_exact(job.profile, resolved):
            continue
        try:
            schedulers.check_run(resolved, in_all, None)
        except ConfigError as exc:
            raise ConfigError(f"{said}: {str(exc).partition(': ')[2]}") from None
    return job


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


def _with_checked_texts(config: RunConfig, model: Model) -> RunConfig:
    """Check the markup of all prompts, and find the mask models for what is found by words.

    Raises one error with everything that is wrong.
    """
    errors: list[SdappError] = []
    _check_each(lambda pair: markup.check(*pair), _texts_with_markup(config).items(), errors)
    details = _check_each(lambda each: check_words_to_find(each, model), config.detail, errors)
    tasks = [config.task] if config.task.kind == "inpaint" else []
    found = _check_each(lambda task: check_words_to_find(task, model), tasks, errors)
    if errors:
        raise gathered(errors)
    change = ({"detail": details} if details else {}) | ({"task": found[0]} if found else {})
    return config.model_copy(update=change) if change else config


def _check_each(check: Callable[[T], U], given: Iterable[T], errors: list[SdappError]) -> list[U]:
    """Return what a check returns for each; what it raises is added to `errors`."""
    results: list[U] = []
    for each in given:
        try:
            results.append(check(each))
        except SdappError as exc:
            errors.append(exc)
    return results


def _texts_with_markup(config: RunConfig) -> dict[str, str]:
    """The prompts of the image and its details by their keys, without LoRAs; none if they are plain text."""
    if config.prompt_syntax == "plain":
        return {}
    given = {"": config} | {f"detail.{i}.": each for i, each in enumerate(config.detail)}
    texts = {
        f"{place}{key}": getattr(each, key) or ""
        for place, each in given.items()
        for key in ("prompt", "negative_prompt")
    }
    return {key: LORA_TAG.sub(" ", text) for key, text in texts.items()}  # `_lora_tags` checks LoRAs


def _with_prompts_of(detail: Detail, config: RunConfig) -> RunConfig:
    """The settings with the prompts of a detail."""
    given = {"prompt": detail.prompt, "negative_prompt": detail.negative_prompt}
    change = {key: text for key, text in given.items() if text is not None}
    return config.model_copy(update=change | {"detail": []})


def _all_chunks(config: RunConfig, model: Model, embeddings: Mapping[str, int], calls: int) -> dict[str, Any]:
    """The chunks of the image and of its details, as fields of a Job."""
    details = (_with_prompts_of(each, config) for each in config.detail)
    counts = [_count_chunks(each, model, embeddings, calls) for each in details]
    image = config.model_copy(update={"detail": []})
    return {"chunks": _count_chunks(image, model, embeddings, calls), "detail_chunks": tuple(counts)}


def _count_chunks(config: RunConfig, model: Model, embeddings: Mapping[str, int], calls: int) -> int:
    """The chunks of the longest of the prompts that are encoded, during and after so many calls."""
    if config.prompt_syntax == "plain":
        return 1
    texts = _encoded_texts(config)
    if not embeddings:
        texts = [text for text in texts if not markup.is_short(text)]
    every = {each for text in texts for each in markup.every_text(text, calls)}
    chunks = (markup.chunk(text, model.tokenizer, embeddings=embeddings) for text in every)
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
    is_as_asked = (name, options, False) == (asked.name, asked.options, asked.exact)
    return asked if is_as_asked else SchedulerChoice(name=name, options=dict(options)), note


def _fitting_upscale(config: RunConfig, model: Model, width: int, height: int) -> Upscale | None:
    """Return the settings of upscaling, with the scheduler that the model runs with and the upscaler's
    digest.
    """
    upscale = config.upscale
    _check_final_size(config, width, height)
    if upscale and upscale.uses_model:
        upscale = check_upscaler(upscale)
    if upscale is None or (upscale.scheduler is None and upscale.steps is None):
        return upscale
    if upscale.method == "diffusion" and has_own_solver(find_pipeline(str(upscale.model))):
        return upscale
    change: dict[str, Any] = {"steps": upscale.steps or config.steps, "eta": None}
    change |= {"scheduler": upscale.scheduler} if upscale.scheduler else {}
    try:
        chosen = choose_scheduler(config.model_copy(update=change), model)[0]
    except ConfigError as exc:
        raise ConfigError(f"upscale.{exc}") from None
    return upscale.model_copy(update={"scheduler": chosen}) if upscale.scheduler else upscale


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
