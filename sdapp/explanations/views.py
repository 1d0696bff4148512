"""What the page of an explanation shows: texts, numbers and pictures of one run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdapp.diffusion.process import Process, PromptToken
from sdapp.diffusion.watch import Call
from sdapp.pages.format import decibels, number
from sdapp.pages.sources import to_data_uri

MOST_STEPS, MOST_GUIDED, MOST_TOKENS, MOST_WORDS = 10, 4, 24, 24  # that the page shows
MOST_PIXELS = 320  # pixels of the pictures inside the page, but for the finished image
ENHANCED = 8  # how much differences are enlarged
NEGATIVE, POSITIVE = (62, 124, 194), (224, 122, 50)  # the colours of numbers below and above 0
Decode = Callable[[Iterable[torch.Tensor]], Iterator[Image.Image]]


@dataclass(frozen=True)
class Picture:
    """An image inside the page."""

    src: str
    alt: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class TokenRow:
    """A token, and the vector that the text encoder makes of it."""

    text: str
    id: str
    weight: str
    norm: str
    share: float  # of the longest vector
    bars: str  # the source of a picture of the vector
    is_mark: bool


@dataclass(frozen=True)
class HeatMap:
    """Cosines between vectors of tokens, each -1 to 1."""

    title: str
    labels: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    longest = 12  # letters of a label that are shown

    @property
    def edge(self) -> int:
        """The room for labels, in units of the SVG image, in which a square has 16."""
        return 12 + 6 * min(self.longest, max(map(len, self.labels)))


@dataclass(frozen=True)
class Step:
    """A call of the UNet in pictures."""

    number: int
    timestep: str
    noise: str
    read: Picture
    clean: Picture


@dataclass(frozen=True)
class GuidedStep:
    """What a call predicts without the prompt, with it, and guided."""

    number: int
    without: Picture
    with_prompt: Picture
    guided: Picture


def picture(
    image: Image.Image, alt: str, title: str = "", note: str = "", side: int = MOST_PIXELS
) -> Picture:
    """A picture at most `side` pixels wide and high."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Picture(to_data_uri(small), alt, title, note)


# --- the prompt -------------------------------------------------------------------------------------------


def token_rows(process: Process) -> list[TokenRow]:
    """The first tokens with their vectors."""
    shown = process.tokens[:MOST_TOKENS]
    vectors = process.embeds[[each.place for each in shown]]
    norms = vectors.norm(dim=1)
    # The start mark has numbers far from all others: the scale is that of the tokens.
    scale = float(vectors[1:].abs().quantile(0.99)) if len(vectors) > 1 else float(vectors.abs().max())
    return [
        TokenRow(
            _token_text(token),
            str(token.id) if token.id >= 0 else "–",
            "" if token.weight == 1 else f"×{token.weight:.3g}",
            number(float(norm)),
            float(norm / norms.max()),
            to_data_uri(coloured(vector[None], scale), lossless=True),
            token.is_mark,
        )
        for token, vector, norm in zip(shown, vectors, norms, strict=True)
    ]


def heat_maps(process: Process) -> list[HeatMap]:
    """How alike the vectors of tokens are, before and after the text encoder."""
    shown = process.tokens[:MOST_TOKENS]
    labels = tuple(map(_token_text, shown))
    after = process.embeds[[each.place for each in shown]]
    return [
        HeatMap("Before the text encoder", labels, _cosines(process.table[: len(shown)])),
        HeatMap("After it", labels, _cosines(after)),
    ]


def _token_text(token: PromptToken) -> str:
    return f"{token.text}·" if token.goes_on else token.text


def _cosines(vectors: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    units = torch.nn.functional.normalize(vectors, dim=1)
    return tuple(tuple(row) for row in (units @ units.T).tolist())


# --- latents ----------------------------------------------------------------------------------------------


def coloured(values: torch.Tensor, scale: float) -> Image.Image:
    """Numbers [h, w] as colours: blue below 0, orange above it, transparent at 0, full at ± `scale`."""
    strength = (values / (scale or 1.0)).clamp(-1, 1)
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where(strength[..., None].numpy() < 0, NEGATIVE, POSITIVE)
    pixels[..., 3] = (strength.abs() * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels)


def channel_pictures(latents: torch.Tensor) -> list[Picture]:
    """The channels of latents [C, h, w], all on one scale."""
    scale = float(latents.abs().quantile(0.995)) if latents.numel() < 2**24 else float(latents.abs().max())
    return [
        Picture(
            to_data_uri(coloured(channel, scale), lossless=True),
            f"Channel {index} of the latents",
            f"Channel {index}",
            f"mean {float(channel.mean()):+.2f}, spread {float(channel.std()):.2f}",
        )
        for index, channel in enumerate(latents, 1)
    ]


def trip_pictures(process: Process) -> list[Picture]:
    """The image, what the autoencoder gives back, and the difference."""
    trip = process.trip
    lost = Image.fromarray((trip.difference * ENHANCED).clip(0, 255).astype(np.uint8))
    mean, most = trip.difference.mean(), trip.difference.max()
    return [
        picture(trip.image, "The image before the autoencoder", "Before"),
        picture(trip.decoded, "The image after the autoencoder", "After", decibels(trip.psnr)),
        picture(
            lost,
            f"The difference, enlarged {ENHANCED} times",
            f"Difference × {ENHANCED}",
            f"mean {mean:.2f}, most {most} of 255",
        ),
    ]


def noised_pictures(process: Process, decode: Decode) -> list[Picture]:
    """The image with more and more noise."""
    found = process.noised
    images = decode(each.latents for each in found)
    return [
        picture(image, f"The image with {each.noise:.0%} noise", f"{each.noise:.2f}", f"t = {each.timestep}")
        for each, image in zip(found, images, strict=True)
    ]


# --- steps ------------------------------------------------------------------------------------------------


def chosen(number_of_calls: int, most: int) -> list[int]:
    """Indexes of at most so many calls, evenly spread, the first and the last among them."""
    if number_of_calls <= most:
        return list(range(number_of_calls))
    return sorted({round(i * (number_of_calls - 1) / (most - 1)) for i in range(most)})


def steps(process: Process, decode: Decode) -> list[Step]:
    """Calls of the UNet: what each reads, and the clean image that it predicts."""
    places = chosen(len(process.calls), MOST_STEPS)
    calls = [process.calls[place] for place in places]
    read = list(decode(call.read for call in calls))
    clean = list(decode(call.clean for call in calls))
    return [
        Step(
            place + 1,
            f"{call.timestep:g}",
            f"{_noise_share(call, process):.2f}",
            picture(before, f"What call {place + 1} reads"),
            picture(after, f"What call {place + 1} predicts"),
        )
        for place, call, before, after in zip(places, calls, read, clean, strict=True)
    ]


def guided_steps(process: Process, decode: Decode) -> list[GuidedStep]:
    """Guided calls: the clean images that they predict without the prompt, with it, and guided."""
    guided = [(i, call) for i, call in enumerate(process.calls) if call.clean_away is not None]
    found = [guided[place] for place in chosen(len(guided), MOST_GUIDED)]
    kinds: list[tuple[str, list[torch.Tensor]]] = [
        ("without the prompt", [call.clean_away for _, call in found if call.clean_away is not None]),
        ("with the prompt", [call.clean_towards for _, call in found]),
        ("guided", [call.clean for _, call in found]),
    ]
    rows = [[picture(image, f"Predicted {name}") for image in decode(latents)] for name, latents in kinds]
    return [GuidedStep(found[i][0] + 1, *each) for i, each in enumerate(zip(*rows, strict=True))]


def guidance_sizes(process: Process) -> list[float]:
    """How far the prompt moves what the UNet says, relative to what it says without it, at guided calls."""
    return [
        float((call.towards - call.away).norm() / call.away.norm())
        for call in process.calls
        if call.away is not None
    ]


def distances(process: Process) -> list[float]:
    """The root-mean-square distance of each predicted clean image to the last one, in latents."""
    last = process.latents
    return [float((call.clean - last).square().mean().sqrt()) for call in process.calls]


def _noise_share(call: Call, process: Process) -> float:
    return float((1 - process.alphas[round(call.timestep)]).sqrt())


# --- attention --------------------------------------------------------------------------------------------


def word_pictures(process: Process, image: Image.Image) -> list[Picture]:
    """The image, bright where each word of the prompt is looked at most."""
    if process.attention is None:
        return []
    small = image.convert("RGB")
    small.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    found = []
    for text, places in _words(process.tokens)[:MOST_WORDS]:
        heat = process.attention[places].sum(0)
        low, high = float(heat.min()), float(heat.max())
        light = (heat - low) / ((high - low) or 1.0)
        mask = Image.fromarray((light * 255).round().to(torch.uint8).numpy())
        mask = mask.resize(small.size, Image.Resampling.BICUBIC)
        dark = Image.blend(small, Image.new("RGB", small.size, (16, 16, 20)), 0.86)
        lit = Image.composite(small, dark, mask)
        shares = f"{float(heat.mean()):.1%} of attention; {low:.1%} to {high:.1%}"
        found.append(picture(lit, f"Where {text!r} is looked at", text, shares))
    return found


def word_share(process: Process) -> float:
    """The mean attention to all words together, 0 to 1."""
    places = [place for _, places in _words(process.tokens) for place in places]
    return 0.0 if process.attention is None else float(process.attention[places].sum(0).mean())


def _words(tokens: Sequence[PromptToken]) -> list[tuple[str, list[int]]]:
    """The words of a prompt, whole, with the places of their tokens; without marks and signs."""
    found: list[tuple[str, list[int]]] = []
    goes_on = False
    for token in tokens:
        if token.is_mark:
            goes_on = False
            continue
        if goes_on:
            found[-1] = found[-1][0] + token.text, [*found[-1][1], token.place]
        else:
            found.append((token.text, [token.place]))
        goes_on = token.goes_on
    return [(text, places) for text, places in found if any(map(str.isalnum, text))]


def facts(process: Process, job: Any) -> dict[str, str]:
    """Numbers for the texts of the page."""
    channels, height, width = process.trip.latents.shape
    image = process.trip.image
    values = 3 * image.width * image.height
    return {
        "pixels": f"{image.width} × {image.height}",
        "image_values": f"{values:,}",
        "cells": f"{width} × {height}",
        "channels": str(channels),
        "latent_values": f"{channels * width * height:,}",
        "fewer": f"{values / (channels * width * height):g}",
        "psnr": decibels(process.trip.psnr),
        "vectors": str(len(process.embeds)),
        "words": str(len(_words(process.tokens))),
        "encoders": str(process.encoders),
        "dimension": f"{process.embeds.shape[1]:,}",
        "tokens": str(sum(not token.is_mark for token in process.tokens)),
        "places": str(len(process.tokens)),
        "word_share": f"{word_share(process):.0%}",
        "first": f"{process.calls[0].timestep:g}",
        "last": f"{process.calls[-1].timestep:g}",
        "calls": f"{len(process.calls):,}",
        "steps": f"{job.steps_to_run:,}",
        "changes": "yes" if len(job.prompts_by_call()) > 1 else "",
    }
