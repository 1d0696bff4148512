"""What the user should know about a run before the first image is painted."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from sdapp.config import RunConfig, Txt2Img
from sdapp.images import inputs
from sdapp.jobs import Job
from sdapp.models.files import BUILT_IN, read_json
from sdapp.models.locate import Model

OnNote = Callable[[str], object]  # is given a note for the user


class Notes:
    """Passes each note on to a hook, once."""

    def __init__(self, on_note: OnNote | None) -> None:
        self._on_note, self._told = on_note, set[str]()

    def tell(self, notes: Iterable[str]) -> None:
        """Pass on each note, unless it was passed on before."""
        for note in notes:
            if note not in self._told and self._on_note:
                self._on_note(note)
            self._told.add(note)

    def wait(self, who: str) -> None:
        """Tell who is painting the images that are missing, and wait a moment."""
        self.tell([who])
        time.sleep(0.5)


def unknown_words(model: Model, prompt: str) -> list[str]:
    """The words of a prompt that the built-in model was not trained on: those that are not one token.

    Other models: none.
    """
    if model.name != BUILT_IN:
        return []
    vocabulary: Mapping[str, int] = read_json(model.path / "tokenizer" / "tokenizer.json")["model"]["vocab"]
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    return list(dict.fromkeys(word for word in words if f"{word}</w>" not in vocabulary))


def notes_before_painting(config: RunConfig, model: Model, job: Job) -> Iterator[str]:
    """Notes on settings that have no effect, take long, or are beyond what the model was trained on."""
    if words := unknown_words(model, f"{job.prompt} {job.negative_prompt}"):
        yield (
            f"{BUILT_IN} does not know: {', '.join(words)}. It knows the words of its small world "
            "(in its MODEL_CARD.md); for anything else use a real checkpoint: "
            "--model stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    yield from config.scheduler.resolve().notes
    if job.negative_prompt and job.guidance_scale <= 1:
        yield "the negative prompt has no effect at a guidance_scale of 1 or below"
    if job.guidance_scale <= 1 and "guidance_interval" in job.shortcuts:
        yield "guidance_interval has no effect at a guidance_scale of 1 or below"
    if job.width * job.height > 4 * model.size**2:
        yield (
            f"{job.width}x{job.height} is far more than the {model.size}x{model.size} that {model.name} "
            "was trained on: it takes long, and things repeat; --size makes it smaller"
        )
    if not isinstance(job.task, Txt2Img) and job.steps_to_run != job.steps:
        yield f"{job.steps_to_run} of {job.steps} steps run at strength {job.task.strength:g}"
    if (
        job.task.kind == "img2img"
        and inputs.image(job.task.image, None, True, keep_alpha=True).mode == "RGBA"
    ):
        yield f"{job.task.image}: img2img paints the whole image opaque; what is transparent begins as white"
    if config.compile == "on" and "cache_interval" in job.shortcuts:
        yield "compile has no effect with a cache_interval above 1"
    elif config.compile == "on":
        yield "the UNet is compiled at the first step of each size, which can take minutes"
    if config.output.format == "png" and "quality" in config.output.model_fields_set:
        yield "output.quality has no effect on PNG, which is lossless"
