"""What happened: the record of a job that ran, and its result."""

import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sdapp.jobs import Job

# The index of the first image, the number of images in the batch, the step, the number of steps.
OnStep = Callable[[int, int, int, int], None]


@dataclass(frozen=True)
class Record:
    """What ran, read from the objects that ran it."""

    job_id: str
    scheduler_class: str
    scheduler_config: Mapping[str, Any]
    device: str
    dtype: str
    unet_calls: int
    batch_size: int
    seconds: float  # of the batch, divided by its images
    created: str  # ISO 8601, with the time zone
    versions: Mapping[str, str]
    peak_memory: int | None = None  # bytes on a GPU, of the batch
    optimizations: tuple[str, ...] = ()  # what made it faster than the plain call of the pipeline
    unguided_calls: int = 0  # UNet calls outside the guidance_interval
    cached_calls: int = 0  # those that reuse the deep part of an earlier one (cache_interval)
    notes: tuple[str, ...] = ()  # what the user should know, such as a decode repeated in float32
    eta: float | None = None  # the eta that ran; None if the scheduler takes none, and in older images
    memory: Mapping[str, Any] = field(default_factory=dict)  # what was done to save memory on the device
    flagged: bool | None = None  # by the safety checker; None if there was none
    clip_similarity: float | None = None  # of image and prompt, -1 to 1; None without `score: clip`
    final_size: tuple[int, int] | None = None  # width and height, if the image was upscaled
    second_pass: Mapping[str, Any] | None = None  # scheduler and UNet calls of `upscale.method: hires`
    model_sha256: str | None = None  # of a model that is a single file
    found: tuple[Mapping[str, Any], ...] = ()  # places: by the words of a mask, then of each `detail`
    vae_sha256: str | None = None  # of an autoencoder in its place that is a single file
    base_sha256: str | None = None  # of a `base` that is a single file


@dataclass(frozen=True, repr=False)
class Result:
    """A finished job: an image and its record, or the reason why there is none."""

    job: Job
    index: int
    record: Record | None  # None if the job did not run to its end
    image: Image.Image | None  # RGB; RGBA after inpainting an image with transparent pixels
    error: str | None = None
    choices: Mapping[str, str] = field(default_factory=dict)  # from `{a|b}` and `__words__` in the prompts
    line: int = 0  # of the prompt file
    number: str = ""  # of the line, and of the image among those of that line, such as `0007-2`
    labels: Mapping[str, str] = field(default_factory=dict)  # what else the line has, such as a tag
    path: Path | None = None  # of the published file
    latents: Any = None  # the result of the denoising, float32 on the CPU, [4, h, w]
    file: bytes | None = None  # the encoded image file, with job and record inside
    source: Path | None = None  # the image that it is a replay of

    def __repr__(self) -> str:
        job, taken = self.job, f", {self.record.seconds:g} s" if self.record else ""
        size = f"{job.final_width}x{job.final_height}"
        facts = f"seed {job.seed}, {size}, {job.scheduler.name}, {job.steps} steps{taken}"
        error = f", error: {self.error}" if self.error else ""
        return f"<{textwrap.shorten(job.prompt, 60, placeholder='…')!r}, {facts}{error}>"

    def _repr_png_(self) -> bytes | None:
        """The image as a PNG, for notebooks."""
        return self.image._repr_png_() if self.image else None

    @property
    def flagged(self) -> bool:
        """Whether the safety checker flagged the image; with `flagged: skip` there is none then."""
        return bool(self.record and self.record.flagged)

    @property
    def picture(self) -> Image.Image | None:
        """Deprecated: use `image`."""
        warnings.warn("Result.picture is now Result.image", DeprecationWarning, stacklevel=2)
        return self.image
