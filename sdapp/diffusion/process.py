"""What one run did, measured: tokens and their vectors, the autoencoder, noise, steps, attention."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdapp import markup
from sdapp.diffusion.masks import MaskFinder
from sdapp.diffusion.task_inputs import prepare_inputs
from sdapp.diffusion.text_encoder import load_vectors
from sdapp.diffusion.watch import Call, Watcher
from sdapp.jobs import Job
from sdapp.models.embedding_files import vector_counts
from sdapp.records import Result

NOISE_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)  # of the forward noising that is shown, or the nearest


@dataclass(frozen=True)
class PromptToken:
    """A place in the prompt as the UNet reads it: the marks of start and end, tokens, and padding."""

    text: str
    id: int  # -1: a vector of an embedding, which is not in the vocabulary
    place: int  # among all vectors that the UNet reads
    weight: float = 1.0
    goes_on: bool = False  # the next token belongs to the same word
    is_mark: bool = False
    vector: tuple[str, int] | None = None  # the name of an embedding, and which of its vectors


@dataclass(frozen=True)
class RoundTrip:
    """An image, and what the autoencoder makes of it; latents [C, h, w] as the UNet sees them."""

    image: Image.Image
    latents: torch.Tensor
    decoded: Image.Image

    @property
    def difference(self) -> "np.ndarray[Any, np.dtype[np.int16]]":
        """[H, W, 3], in levels of 0 to 255."""
        before, after = (np.asarray(each, np.int16) for each in (self.image, self.decoded))
        return np.asarray(np.abs(after - before))

    @property
    def psnr(self) -> float:
        """In dB; infinite if nothing is lost."""
        error = float(np.square(self.difference.astype(np.float64)).mean())
        return 10 * math.log10(255**2 / error) if error else math.inf


@dataclass(frozen=True)
class Noised:
    """Clean latents with an amount of noise: √ᾱ·clean + √(1 − ᾱ)·noise."""

    timestep: int
    signal: float  # √ᾱ
    noise: float  # √(1 − ᾱ)
    latents: torch.Tensor


@dataclass(frozen=True)
class Process:
    """Everything that one run shows; tensors are float32 on the CPU."""

    tokens: tuple[PromptToken, ...]
    embeds: torch.Tensor  # [T, D], what the UNet reads of the prompt
    table: torch.Tensor  # [n, E], the vectors of `tokens` before the text encoder
    trip: RoundTrip
    noised: tuple[Noised, ...]
    calls: tuple[Call, ...]
    alphas: torch.Tensor  # ᾱ of each timestep of the model
    sigmas: torch.Tensor | None  # of the scheduler, if it has them
    timesteps: torch.Tensor  # of the scheduler
    attention: torch.Tensor | None  # [T, h, w]
    latents: torch.Tensor  # the last ones
    encoders: int  # of text; two have their vectors joined

    def arrays(self) -> dict[str, torch.Tensor]:
        """All arrays by their names, for safetensors; S is the number of calls of the UNet."""
        calls = self.calls
        named: dict[str, torch.Tensor | None] = {
            "text.ids": torch.tensor([each.id for each in self.tokens]),
            "text.table": self.table,
            "text.embeddings": self.embeds,
            "autoencoder.latents": self.trip.latents,
            "autoencoder.image": torch.from_numpy(np.array(self.trip.image)),
            "autoencoder.decoded": torch.from_numpy(np.array(self.trip.decoded)),
            "noising.timesteps": torch.tensor([each.timestep for each in self.noised]),
            "noising.latents": torch.stack([each.latents for each in self.noised]),
            "model.alphas_cumprod": self.alphas,
            "scheduler.timesteps": self.timesteps,
            "scheduler.sigmas": self.sigmas,
            "unet.timesteps": torch.tensor([call.timestep for call in calls]),
            "unet.read": torch.stack([call.read for call in calls]),
            "unet.output_with_prompt": torch.stack([call.towards for call in calls]),
            "unet.output_without_prompt": _stacked([call.away for call in calls]),
            "unet.clean": torch.stack([call.clean for call in calls]),
            "attention": self.attention,
            "latents": self.latents,
        }
        return {name: each.contiguous() for name, each in named.items() if each is not None}


def _stacked(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """A stack of all tensors; with NaN for those that are missing, None if all are."""
    first = next((each for each in tensors if each is not None), None)
    if first is None:
        return None
    return torch.stack([torch.full_like(first, math.nan) if each is None else each for each in tensors])


def measure_process(pipe: Any, result: Result, watcher: Watcher) -> Process:
    """Measure what a run did that a watcher saw; `pipe` is the pipeline of txt2img of its model."""
    job, scheduler = result.job, watcher.scheduler
    tokens = tuple(_read_tokens(job, pipe.tokenizer))
    finder = MaskFinder(pipe._execution_device)
    inputs = prepare_inputs(job, partial(finder.find, stays=False))
    image = inputs.image if inputs and isinstance(inputs.image, Image.Image) else result.image
    assert image is not None
    assert watcher.embeds is not None
    alphas = scheduler.alphas_cumprod.float().cpu()
    sigmas = getattr(scheduler, "sigmas", None)
    with torch.no_grad():
        trip = _round_trip(pipe.vae, pipe._execution_device, image.convert("RGB"))
        table = _vectors_before(pipe, job, tokens)
    pipe.maybe_free_model_hooks()
    return Process(
        tokens,
        watcher.embeds,
        table,
        trip,
        tuple(_add_noise(trip.latents, alphas, job.seed)),
        tuple(watcher.calls),
        alphas,
        sigmas.float().cpu() if isinstance(sigmas, torch.Tensor) else None,
        scheduler.timesteps.float().cpu(),
        watcher.attention((result.latents.shape[-2], result.latents.shape[-1])),
        result.latents,
        1 if getattr(pipe, "text_encoder_2", None) is None else 2,
    )


def _read_tokens(job: Job, tokenizer: Any) -> Iterator[PromptToken]:
    """The tokens of a prompt between the marks of each chunk; padding is left out."""
    chunks = markup.chunk(
        job.texts_by_call(job.prompt)[0], tokenizer, job.prompt_syntax, vector_counts(job.embeddings)
    )
    for number, tokens in enumerate(chunks):
        first = number * tokenizer.model_max_length
        yield PromptToken("start", tokenizer.bos_token_id, first, is_mark=True)
        for place, token in enumerate(tokens, first + 1):
            if token.embedding:
                which, text = (token.embedding, token.vector), f"{token.embedding} {token.vector + 1}"
                yield PromptToken(text, -1, place, token.weight, vector=which)
                continue
            is_end = str(tokenizer.convert_ids_to_tokens(token.id)).endswith("</w>")
            text = str(tokenizer.decode([token.id])).strip()
            yield PromptToken(text, token.id, place, token.weight, not is_end)
        yield PromptToken("end", tokenizer.eos_token_id, first + 1 + len(tokens), is_mark=True)


def _vectors_before(pipe: Any, job: Job, tokens: Sequence[PromptToken]) -> torch.Tensor:
    """The vectors [n, E] that the text encoder, or the first of two, reads for tokens."""
    table = pipe.text_encoder.get_input_embeddings()
    device = pipe._execution_device if table.weight.device.type == "meta" else table.weight.device
    rows: torch.Tensor = table(torch.tensor([max(each.id, 0) for each in tokens], device=device))
    for row, token in zip(rows, tokens, strict=True):
        if token.vector:
            name, number = token.vector
            row[:] = load_vectors(job.embeddings, name, 0)[number]
    return rows.float().cpu()


def _round_trip(vae: Any, device: torch.device, image: Image.Image) -> RoundTrip:
    """Encode an image, whose sides are cut to multiples of the autoencoder's, and decode it again."""
    cell = 2 ** (len(vae.config.block_out_channels) - 1)
    image = image.crop((0, 0, image.width // cell * cell, image.height // cell * cell))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(device).float() / 127.5 - 1
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    made = vae.decode(latents).sample[0].float().clamp(-1, 1)
    levels = ((made + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    scaled = latents[0].float().cpu() * float(vae.config.scaling_factor)
    return RoundTrip(image, scaled, Image.fromarray(levels))


def _add_noise(latents: torch.Tensor, alphas: torch.Tensor, seed: int) -> Iterator[Noised]:
    """Latents with more and more noise, as in training (Ho et al. 2020, eq. 4)."""
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed))
    shares = (1 - alphas).sqrt()
    for wanted in NOISE_SHARES:
        timestep = int((shares - wanted).abs().argmin())
        signal, share = float(alphas[timestep].sqrt()), float(shares[timestep])
        yield Noised(timestep, signal, share, signal * latents + share * noise)
