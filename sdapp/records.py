"""What happened: the record of a job that ran, and its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sdapp.jobs import Job

OnStep = Callable[
    [int, int, int, int], None
]  # index of the first image, images in the batch, step, steps in all


@dataclass(frozen=True)
class Record:
    """What ran, read off the objects that ran it."""

    job_id: str
    scheduler_class: str
    scheduler_config: Mapping[str, Any]
    device: str
    dtype: str
    unet_calls: int
    batch_size: int
    seconds: float  # of the batch, shared out among its images
    created: str  # ISO 8601, with the time zone
    versions: Mapping[str, str]
    peak_memory: int | None = None  # bytes on a GPU, of the batch
    optimizations: tuple[str, ...] = ()  # what made it faster than the plain pipeline call would be
    unguided_calls: int = 0  # of the UNet calls, those outside the guidance_interval
    cached_calls: int = (
        0  # of the UNet calls, those whose deep part came from one before, by the cache_interval
    )
    notes: tuple[str, ...] = ()  # what the user should know, such as a decode repeated in float32


@dataclass(frozen=True)
class Result:
    """A finished job: an image and its record, or the reason why there is none."""

    job: Job
    index: int
    record: Record | None  # none where the job never ran to its end
    image: Image.Image | None
    error: str | None = None
    choices: Mapping[str, str] = field(
        default_factory=dict
    )  # of `{a|b}` and `__words__` in the prompt that it came from
    line: int = 0  # of the prompt file that asked for it
    path: Path | None = None  # where it was published
    latents: Any = None  # the end of the denoising, float32 on the CPU, [4, h, w]
    file: bytes | None = None  # the image as a file with job and record inside, once it is encoded
    source: Path | None = None  # the image that it is a replay of
