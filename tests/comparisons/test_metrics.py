import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from sdapp.comparisons.metrics import psnr, rms, ssim
from sdapp.errors import InputError

GREY = Image.new("RGB", (32, 24), (100, 100, 100))


def noisy(scale: float) -> Image.Image:
    chance = np.random.default_rng(0)
    ramp = np.linspace(40, 200, 48)[None, :, None].repeat(40, 0).repeat(3, 2)
    return Image.fromarray(
        (ramp + scale * chance.standard_normal(ramp.shape)).clip(0, 255).round().astype(np.uint8)
    )


def test_rms_is_the_length_of_the_difference_per_number() -> None:
    zeros = np.zeros((4, 8, 8), dtype=np.float32)
    assert rms(zeros, zeros) == 0
    assert rms(zeros - 0.5, zeros) == 0.5
    assert rms([3.0, 4.0], [0.0, 0.0]) == pytest.approx(5 / math.sqrt(2))


def test_rms_takes_tensors_and_does_not_overflow_in_half_precision() -> None:
    assert rms(torch.full((2, 4), 300, dtype=torch.float16), torch.zeros(2, 4, dtype=torch.float16)) == 300


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_images_of_two_sizes_are_refused(measure: Callable[..., float]) -> None:
    with pytest.raises(InputError, match="not 32×24 and 24×32"):
        measure(GREY, Image.new("RGB", (24, 32)))


def test_latents_of_two_shapes_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"shape \(4, 1\) cannot be compared with a reference of shape \(4,\)"
    ):
        rms(np.zeros((4, 1)), np.zeros(4))


def test_equal_images() -> None:
    assert psnr(noisy(20), noisy(20)) == math.inf
    assert ssim(noisy(20), noisy(20)) == pytest.approx(1)


@pytest.mark.parametrize(("shift", "decibel"), [(1, 48.1308), (10, 28.1308), (155, 4.3242)])
def test_a_constant_shift_is_known(shift: int, decibel: float) -> None:
    """PSNR is 20 log10(255 / shift). Without contrast SSIM is its first factor, of the means alone."""
    other = Image.new("RGB", GREY.size, (100 + shift,) * 3)
    c1 = 2.55**2
    likeness = (2 * 100 * (100 + shift) + c1) / (100**2 + (100 + shift) ** 2 + c1)
    assert psnr(other, GREY) == pytest.approx(decibel, abs=1e-4)
    assert ssim(other, GREY) == pytest.approx(likeness, abs=1e-9)


def test_ssim_of_opposites_is_negative() -> None:
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    assert ssim(Image.fromarray(board), Image.fromarray(255 - board)) < -0.9


@pytest.mark.parametrize(
    ("scale", "likeness"),
    [(5.0, 0.9142953416741947), (20.0, 0.40840029947445505), (60.0, 0.07641463443554262)],
)
def test_ssim_is_that_of_scikit_image(scale: float, likeness: float) -> None:
    """0.26.0: structural_similarity(luma, luma, gaussian_weights=True, use_sample_covariance=False, data_range=255)."""
    assert ssim(noisy(scale), noisy(0)) == pytest.approx(likeness, abs=1e-9)


def test_images_smaller_than_the_window_are_refused() -> None:
    small = Image.new("RGB", (64, 10))
    assert psnr(small, small) == math.inf
    with pytest.raises(InputError, match="11×11 pixels at least, not 64×10"):
        ssim(small, small)
