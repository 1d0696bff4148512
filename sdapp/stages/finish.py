"""The last stage: images and their records."""

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from sdapp import __version__
from sdapp.diffusion.decode import Decoded
from sdapp.diffusion.safety import SKIPPED
from sdapp.prompts.tokens import cut_by
from sdapp.records import Record, Result
from sdapp.stages.loaded_model import LoadedModel
from sdapp.stages.painting import CALLS, Painting

VERSIONED = ("diffusers", "transformers", "torch")


def make_results(model: LoadedModel, painting: Painting) -> Iterator[Result]:
    """Look at the images of a batch; yield each with its record."""
    decoded = painting.decoded or Decoded.nothing(len(painting.jobs))
    run_notes = [*model.placement.notes, *filter(None, [model.denoiser.failure])]
    shared = {
        "scheduler_class": "",
        "scheduler_config": {},
        "unet_calls": 0,
        **painting.shared,
        "device": _device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "memory": model.placement.saving,
        **{key: checksum.result() for key, checksum in model.checksums.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"sdapp": __version__} | {package: version(package) for package in VERSIONED},
    }
    for i, (job, image) in enumerate(zip(painting.jobs, painting.images, strict=True)):
        notes = (*cut_by(model.text.tokenizer, job), *run_notes, *decoded.notes[i])
        error = decoded.errors[i]
        flagged = model.safety.look(image) if model.safety and not error else None
        if model.safety and flagged and model.safety.skips:
            error = SKIPPED
        likeness = model.score.of(image, job) if model.score and not error else None
        own = painting.own[i] | {"notes": notes, "flagged": flagged, "clip_similarity": likeness}
        calls = {key: shared.get(key, 0) + own[key] for key in CALLS}
        record = Record(job_id=job.id, **shared | own | calls)
        finished = None if error else image
        latents = decoded.latents[i] if decoded.latents[i].numel() else None
        yield Result(job, painting.index + i, record, finished, error, latents=latents)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores)"
