"""The safety checker of Stable Diffusion: which images it flags."""

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import safety_checker as upstream
from PIL import Image

from sdapp.diffusion.loading import load_part, loading

SKIPPED = "flagged by the safety checker, so there is no image; --set flagged=write keeps such images"


class SafetyChecker:
    """A safety checker in float32 on the CPU, where it takes no memory of the device.

    `skips` says that what it flags is kept out.
    """

    def __init__(self, folder: Path, skips: bool) -> None:
        """Load it. Raises UnavailableError."""
        self.skips = skips
        with loading("safety_checker", folder):
            from transformers import CLIPImageProcessor

            self._model = load_part(
                upstream.StableDiffusionSafetyChecker, folder, torch.float32, key="safety_checker"
            )
        size = self._model.config.vision_config.image_size
        self._prepare = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)

    def look(self, image: Image.Image) -> bool:
        """Whether an image is flagged; the checker sees it at 224 × 224."""
        pixels = self._prepare(image.convert("RGB"), return_tensors="pt").pixel_values
        upstream.logger.addFilter(_is_other)
        try:  # it would black out what it flags
            _, [flag] = self._model(clip_input=pixels, images=[np.zeros(1)])
        finally:
            upstream.logger.removeFilter(_is_other)
        return bool(flag)


def _is_other(record: logging.LogRecord) -> bool:
    """Drop the message that a black image is returned, since none is."""
    return "black image" not in record.getMessage()
