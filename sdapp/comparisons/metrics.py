"""Distances between latents and between images. They are distances to a reference, not quality."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from sdapp.errors import InputError

PEAK = 255.0
WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01, 0.03
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def rms(latents: ArrayLike, reference: ArrayLike) -> float:
    """‖a − b‖₂ / √D of two latents with D numbers, computed in float64.

    Raises InputError if their shapes differ.
    """
    a, b = np.asarray(latents, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"latents of shape {a.shape} cannot be compared with a reference of shape {b.shape}")
    return math.sqrt(np.square(a - b).mean())


def psnr(image: Image.Image, reference: Image.Image) -> float:
    """Peak signal-to-noise ratio of the 8-bit RGB values, in dB; infinite for equal images.

    Raises InputError if their sizes differ.
    """
    error = np.square(np.subtract(*_rgb(image, reference))).mean()
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(image: Image.Image, reference: Image.Image) -> float:
    """Structural similarity of the luma: 1 for equal images, rarely below 0.

    Wang et al. 2004, equation 13: Gaussian window of 11 pixels, σ 1.5, K1 0.01, K2 0.03; mean over all places
    where the window is inside the image. Raises InputError if sizes differ or images are smaller than it.
    """
    x, y = (pixels @ LUMA for pixels in _rgb(image, reference))
    if min(x.shape) < WINDOW:
        size = f"{image.width}×{image.height}"
        raise InputError(f"SSIM needs images of {WINDOW}×{WINDOW} pixels at least, not {size}")
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x) - mean_x**2 + _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return float(similarity.mean())


def _rgb(image: Image.Image, reference: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if image.size != reference.size:
        sizes = " and ".join(f"{image.width}×{image.height}" for image in (image, reference))
        raise InputError(f"images must have the same size to be compared, not {sizes}")
    first, second = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (image, reference))
    return first, second


def _blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gaussian mean around each pixel for which the whole window is inside the image."""
    radius = WINDOW // 2
    blurred: NDArray[np.float64] = gaussian_filter(values, SIGMA, radius=radius)
    return blurred[radius:-radius, radius:-radius]
