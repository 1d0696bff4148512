"""Stable Diffusion for shells and scripts: a thin layer over diffusers."""

__version__ = "0.1.0"  # before the imports: modules below read it

from sdapp.api import batch, compare, explain, generate, grid, paint, paint_file, replay, stream, upscale
from sdapp.warm import StableDiffusion

load = StableDiffusion.load

__all__ = [
    "StableDiffusion",
    "__version__",
    "batch",
    "compare",
    "explain",
    "generate",
    "grid",
    "load",
    "paint",
    "paint_file",
    "replay",
    "stream",
    "upscale",
]
