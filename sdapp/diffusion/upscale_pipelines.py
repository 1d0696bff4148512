"""Upscalers that are Stable Diffusion themselves: x4 reads the pixels of an image, x2 its latents."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from sdapp.diffusion.loading import load_upscaler
from sdapp.diffusion.noise import Float32Noise
from sdapp.diffusion.solvers import build_scheduler
from sdapp.diffusion.text_encoder import PromptText, TextEncoder
from sdapp.diffusion.upscale import with_tiles
from sdapp.errors import UpstreamError
from sdapp.images import Size, on_white
from sdapp.jobs import Job
from sdapp.models.upscalers import PIPELINES, find_pipeline
from sdapp.schedulers import Resolved

# Of a pipeline of the old kind: the step, the timestep and the latents.
OldCallback = Callable[[int, Any, Any], object]


class Loaded(NamedTuple):
    """A pipeline with its text encoder and the config of its own scheduler."""

    name: str
    pipe: Any
    text: TextEncoder
    scheduler_config: Mapping[str, Any]


class UpscalePipelines:
    """Makes images larger with an upscaler of Stable Diffusion; keeps the last one loaded."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._loaded: Loaded | None = None

    def enlarge(
        self, image: Image.Image, job: Job, size: Size, on_step: OldCallback | None
    ) -> tuple[Image.Image, dict[str, Any]]:
        """Return an image, RGB or RGBA, in `size`, and what made it: what is made is resized by Lanczos.

        All noise is drawn from the seed of the job. Transparency is enlarged by Lanczos. Raises
        UnavailableError if the upscaler cannot be loaded, UpstreamError for pixels that are not finite.
        """
        assert job.upscale is not None
        loaded = self._load(str(job.upscale.model))
        scale, _, multiple = PIPELINES[type(loaded.pipe).__name__]
        padded = _padded(on_white(image), multiple)
        arguments = self._arguments(loaded, job, scale)
        made, calls = self._run(loaded.pipe, padded, job, scale, arguments | {"callback": on_step})
        large = Image.fromarray(made).crop((0, 0, image.width * scale, image.height * scale))
        large = large.resize(size, Image.Resampling.LANCZOS)
        if image.mode == "RGBA":
            large.putalpha(image.getchannel("A").resize(size, Image.Resampling.LANCZOS))
        scheduler = loaded.pipe.scheduler
        return large, {"scheduler": scheduler, "eta": arguments.get("eta"), "unet_calls": calls}

    def _arguments(self, loaded: Loaded, job: Job, scale: int) -> dict[str, Any]:
        """The arguments of the pipeline, whose scheduler is built anew.

        The x2 upscaler has a solver of its own, reads the prompt without weights, and runs without guidance,
        as its authors do.
        """
        assert job.upscale is not None
        if scale == 2:
            own = type(loaded.pipe.scheduler)
            loaded.pipe.scheduler = own.from_config(loaded.scheduler_config)
            return {"prompt": job.last_words, "guidance_scale": 1.0}
        resolved = (job.upscale.scheduler or job.scheduler).resolve()
        loaded.pipe.scheduler = build_scheduler(resolved, dict(loaded.scheduler_config), [job.seed])
        texts = [PromptText(each, 0, job.prompt_syntax, job.emphasis) for each in job.last_prompts]
        with torch.no_grad():
            encoded = loaded.text.encode(texts[:1], texts[1:] if job.guidance_scale > 1 else None)
        given = {"guidance_scale": job.guidance_scale, "noise_level": job.upscale.noise_level}
        return {**encoded.arguments(), **given, **_eta_of(resolved)}

    def _run(
        self, pipe: Any, image: Image.Image, job: Job, scale: int, arguments: dict[str, Any]
    ) -> tuple["np.ndarray[Any, np.dtype[np.uint8]]", int]:
        """Levels [H, W, 3] of the large image, and how often the UNet was called."""
        assert job.upscale is not None
        tile, cell = job.upscale.tile, 8 if scale == 2 else 4  # pixels of the large image for each latent
        counted: list[int] = []
        hook = pipe.unet.register_forward_pre_hook(lambda *_: counted.append(1))
        pipe.vae.enable_tiling() if tile else pipe.vae.disable_tiling()
        with hook, Float32Noise(), with_tiles(pipe.unet, tile and tile // cell):
            [made] = pipe(
                image=image,
                num_inference_steps=job.upscale.steps or job.steps,
                generator=torch.Generator("cpu").manual_seed(job.seed),
                output_type="pt",
                **arguments,
            ).images
        if not made.isfinite().all():
            raise UpstreamError("the pixels of the upscaler are not finite; try --dtype float32")
        levels = made.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
        return levels.contiguous().cpu().numpy(), len(counted)

    def _load(self, name: str) -> Loaded:
        if self._loaded is None or self._loaded.name != name:
            self._loaded = None
            pipe = load_upscaler(find_pipeline(name), self._dtype).to(self._device)
            pipe.set_progress_bar_config(disable=True)
            self._loaded = Loaded(name, pipe, TextEncoder(pipe), dict(pipe.scheduler.config))
        return self._loaded


def _padded(image: Image.Image, multiple: int) -> Image.Image:
    """An image whose last column and row are repeated up to sides that are multiples of a number."""
    more = (0, -image.height % multiple), (0, -image.width % multiple), (0, 0)
    return Image.fromarray(np.pad(np.asarray(image), more, "edge"))


def _eta_of(resolved: Resolved) -> dict[str, float]:
    default = resolved.scheduler.default_eta
    return {} if default is None else {"eta": default}
