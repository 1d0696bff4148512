"""A model in memory, with everything that the stages of painting need of it."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import diffusers
import torch
from PIL import Image

from sdapp.diffusion.clip_score import ClipScore
from sdapp.diffusion.control import ControlNets
from sdapp.diffusion.loras import Loras
from sdapp.diffusion.masks import MaskFinder
from sdapp.diffusion.noise import HALVES, draw_in_float32
from sdapp.diffusion.placement import Placement
from sdapp.diffusion.preview import Preview
from sdapp.diffusion.safety import SafetyChecker
from sdapp.diffusion.task_inputs import keep_sizes_exact, paint_whole_cells
from sdapp.diffusion.text_encoder import TextEncoder
from sdapp.diffusion.unet import Denoiser
from sdapp.diffusion.upscale_pipelines import UpscalePipelines
from sdapp.diffusion.upscalers import Upscalers
from sdapp.models.families import Family
from sdapp.profiling import timed
from sdapp.settings.hardware import Memory
from sdapp.settings.stages import Detail
from sdapp.settings.tasks import Inpaint


class LoadedModel:
    """A model with a pipeline for each task; all pipelines share its weights."""

    def __init__(
        self,
        pipe: Any,
        family: Family,
        device: torch.device,
        memory: Memory,
        safety: SafetyChecker | None = None,
        score: ClipScore | None = None,
    ) -> None:
        """`pipe` is the one for txt2img; `memory` decides where its weights are placed."""
        self.family, self.device, self.dtype = family, device, pipe.unet.dtype
        self.safety, self.score = safety, score
        self.checksums: dict[str, Future[str]] = {}  # of single files; computed beside everything else
        self.scheduler_config: Mapping[str, Any] = dict(pipe.scheduler.config)
        self.scale = int(pipe.vae_scale_factor)  # pixels per latent, along one side
        self.pipelines = _pipelines_of(pipe, family)
        self.vae, self.text, self.loras = pipe.vae, TextEncoder(pipe), Loras(pipe)
        self.denoiser, self.control = Denoiser(pipe.unet, device, self.settle), ControlNets(pipe.unet, device)
        self.placement = Placement(self.pipelines, device, memory, family)
        self.preview, self.masks = Preview(family, pipe.vae), MaskFinder(device)
        self.upscalers = Upscalers(device, self.dtype)
        self.upscale_pipelines = UpscalePipelines(device, self.dtype)

    def find(self, image: Image.Image, asked: Inpaint | Detail) -> Image.Image | None:
        """A mask of what words name in an image; None if nothing is found. Raises UnavailableError."""
        with timed("find", self.settle):
            return self.masks.find(image, asked, self.placement.stays)

    def settle(self) -> None:
        """Wait for the device, for measuring time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _pipelines_of(pipe: Any, family: Family) -> dict[str, Any]:
    """The pipelines of diffusers by task: txt2img, img2img and inpaint."""
    # Built from the components: from_pipe() would cast the shared weights to float32.
    pipes: dict[str, Any] = {
        kind: pipe if kind == "txt2img" else getattr(diffusers, name)(**pipe.components, **family.options)
        for kind, name in family.pipelines.items()
    }
    for each in pipes.values():
        each.set_progress_bar_config(disable=True)
        if family.reads_sizes:
            keep_sizes_exact(each)
        if pipe.unet.dtype in HALVES:
            draw_in_float32(each, "prepare_latents", "prepare_mask_latents")
    paint_whole_cells(pipes["inpaint"])
    return pipes
