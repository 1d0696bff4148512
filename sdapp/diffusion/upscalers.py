"""Upscalers of finished images, such as ESRGAN, loaded by spandrel."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from sdapp.diffusion.upscale import in_tiles
from sdapp.errors import UnavailableError
from sdapp.images import Size, on_white
from sdapp.models.upscalers import INSTALL, KEY
from sdapp.settings.stages import Upscale


class Upscalers:
    """Makes images larger with an upscaler; keeps the last one loaded. Only weights are read, no code."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._loaded: tuple[str, Any] | None = None

    def enlarge(self, image: Image.Image, upscale: Upscale, size: Size) -> Image.Image:
        """Return an image, RGB or RGBA, in `size`: what the upscaler makes of it, resized by Lanczos.

        Transparency is enlarged by Lanczos. Raises UnavailableError if the upscaler cannot be loaded.
        """
        model = self._model(str(upscale.model))
        pixels = torch.from_numpy(np.array(on_white(image))).permute(2, 0, 1)[None]
        given = (pixels.float() / 255).to(self._device, model.dtype)
        tile = max(given.shape) if upscale.tile is None else max(16, upscale.tile // model.scale)
        made = in_tiles(model, given, tile, model.scale)[0].permute(1, 2, 0).float().clamp(0, 1)
        large = Image.fromarray((made * 255).round().to(torch.uint8).cpu().numpy())
        large = large.resize(size, Image.Resampling.LANCZOS)
        if image.mode == "RGBA":
            large.putalpha(image.getchannel("A").resize(size, Image.Resampling.LANCZOS))
        return large

    def _model(self, path: str) -> Any:
        if self._loaded is None or self._loaded[0] != path:
            self._loaded = None
            self._loaded = path, self._load(path)
        return self._loaded[1]

    def _load(self, path: str) -> Any:
        try:
            from spandrel import ModelLoader, UnsupportedModelError
        except (ImportError, RuntimeError) as exc:  # a torchvision for another torch
            raise UnavailableError(f"upscale: spandrel cannot be imported ({exc}); fix: {INSTALL}") from exc
        try:
            model = ModelLoader().load_from_state_dict(load_file(path))
        except UnsupportedModelError as exc:
            what = "is of an architecture that spandrel does not know"
            raise UnavailableError(f"{KEY}: {Path(path).name} {what}") from exc
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as exc:
            reason = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
            raise UnavailableError(f"{KEY}: {Path(path).name} cannot be loaded: {reason}") from exc
        if (model.input_channels, model.output_channels) != (3, 3) or model.scale < 2:
            what = f"{model.input_channels} to {model.output_channels} channels, {model.scale} times as large"
            raise UnavailableError(f"{KEY}: {Path(path).name} does not make RGB images larger ({what})")
        is_half = self._dtype == torch.float16 and model.supports_half
        is_half |= self._dtype == torch.bfloat16 and model.supports_bfloat16
        return model.to(self._device, self._dtype if is_half else torch.float32).eval()
