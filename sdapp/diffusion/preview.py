"""A small image of what is being painted, written to a file in the background."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdapp.errors import OutputError
from sdapp.models.families import Family
from sdapp.outputs.files import overwrite

SECONDS = 1.0  # between two previews
ENLARGED = 4  # times the latents, where they are not decoded
DECODES_FAST = 10_000_000  # parameters at most of an autoencoder; that of Stable Diffusion has 84 million


class Preview:
    """Looks at the calls of a UNet, and keeps a file with the clean image that each predicts.

    A small autoencoder decodes it; for others, the colours are a linear function of the latents.
    """

    def __init__(self, family: Family, vae: Any) -> None:
        self._family, self._vae = family, vae
        self._is_small = sum(each.numel() for each in vae.parameters()) < DECODES_FAST
        self._writer = ThreadPoolExecutor(1, "preview")
        self._writing: Future[None] | None = None
        self._last = -math.inf

    @contextmanager
    def kept(self, pipe: Any, file: str | None) -> Iterator[None]:
        """Keep a file fresh while a pipeline runs; None: nothing is done."""
        if file is None:
            yield
            return

        def look(_unet: Any, args: tuple[Any, ...], output: tuple[torch.Tensor]) -> None:
            is_free = self._writing is None or self._writing.done()
            if is_free and time.monotonic() - self._last >= SECONDS:
                self._last = time.monotonic()
                colours = self._colours(predicted_latents(pipe, args[0], float(args[1]), output[0]))
                self._writing = self._writer.submit(_write, colours, Path(file))

        try:
            with pipe.unet.register_forward_hook(look):
                yield
        finally:
            if self._writing:
                wait([self._writing])  # no preview appears after its image

    def _colours(self, latents: torch.Tensor) -> torch.Tensor:
        """Colours [3, H, W] in -1 … 1, on the CPU, of latents [1, 4, h, w]."""
        if self._is_small:
            scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
            return self._vae.decode(scaled).sample[0].float().cpu()  # type: ignore[no-any-return]
        factors, bias = torch.tensor(self._family.latent_colours), torch.tensor(self._family.colour_bias)
        return torch.einsum("chw,cr->rhw", latents[0].float().cpu(), factors) + bias[:, None, None]


def predicted_latents(pipe: Any, sample: torch.Tensor, timestep: float, output: torch.Tensor) -> torch.Tensor:
    """The clean latents [1, 4, h, w] that a call of the UNet predicts for the first image of the batch."""
    is_guided = pipe.do_classifier_free_guidance
    images = len(output) // 2 if is_guided else len(output)
    said, x = output[-images][None].float(), latents_read(sample, images, output.shape[1])
    if is_guided:
        away = output[:1].float()
        said = away + pipe.guidance_scale * (said - away)
    return clean_latents(pipe.scheduler, x, timestep, said)


def latents_read(sample: torch.Tensor, images: int, channels: int) -> torch.Tensor:
    """The latents [1, C, h, w] of the first image of a batch, of what a UNet reads."""
    first = len(sample) - images
    return sample[first : first + 1, :channels].float()


def clean_latents(scheduler: Any, x: torch.Tensor, timestep: float, said: torch.Tensor) -> torch.Tensor:
    """The clean latents that what a UNet `said` of latents `x` means; all in one shape.

    Every scheduler scales what the UNet reads to x = √ᾱ·clean + √(1 − ᾱ)·noise (Ho et al. 2020, eq. 15).
    """
    clean_share = float(scheduler.alphas_cumprod[round(timestep)])
    signal, noise = math.sqrt(clean_share), math.sqrt(1 - clean_share)
    match scheduler.config.prediction_type:
        case "v_prediction":
            return signal * x - noise * said
        case "sample":
            return said
        case _:
            return (x - noise * said) / max(signal, 1e-3)


def _write(colours: torch.Tensor, file: Path) -> None:
    levels = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(levels.contiguous().numpy())
    if max(image.size) <= 256:
        image = image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, "png")
    with suppress(OutputError):  # it is only a preview
        overwrite(file, [buffer.getvalue()])
