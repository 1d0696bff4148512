"""Draw the noise of an image from its seed alone, in float32 on the CPU, for every device and dtype."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from sdapp.profiles import Rng

HALVES = (torch.float16, torch.bfloat16)
UInt32s = NDArray[np.uint32]


class Float32Noise(TorchFunctionMode):
    """A context in which `torch.randn` draws in float32 and rounds to the dtype that was asked for.

    torch 2.13 draws the same numbers in half precision, rounded; 2.11 draws others, so that one seed would
    give different images in float32 and float16. It acts on the thread that enters it, and changes no module.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = kwargs.get("dtype")
        if func is torch.randn and dtype in HALVES:
            return func(*args, **kwargs | {"dtype": torch.float32}).to(dtype)
        return func(*args, **kwargs)


def draw_in_float32(owner: Any, *names: str) -> None:
    """Let methods of one object, such as the `step` of a scheduler, draw their noise in `Float32Noise`."""
    for name in names:
        if plain := getattr(owner, name, None):
            # `wraps`: the pipelines look at the signature of a scheduler's step.
            setattr(owner, name, wraps(plain)(partial(_draw_in_float32, plain)))


def _draw_in_float32(plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with Float32Noise():
        return plain(*args, **kwargs)


# --- the noise of NVIDIA's GPUs -----------------------------------------------------------------------------


def philox(counter: UInt32s, key: UInt32s) -> UInt32s:
    """Philox4x32-10: four random words for each column of `counter` [4, n], with the two words of `key`.

    From Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    x0, x1, x2, x3 = counter.astype(np.uint64)
    key0, key1 = int(key[0]), int(key[1])
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (
            (second >> np.uint64(32)) ^ x1 ^ np.uint64(key0),
            second & low,
            (first >> np.uint64(32)) ^ x3 ^ np.uint64(key1),
            first & low,
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3]).astype(np.uint32)


def gpu_randn(shape: tuple[int, ...], seed: int, calls: int = 0) -> torch.Tensor:
    """What `torch.randn(shape, device="cuda")` draws after so many calls with a generator of this seed.

    float32, equal but for the last bits: a GPU computes sine and logarithm less exactly. A GPU whose cores
    are fewer than the numbers lets each draw several, so larger noise differs (above 122,880 numbers with 80
    multiprocessors of 1,536 threads: an image of 1,400 × 1,400). Element i is made of the first two words of
    counter (calls, 0, i, 0), by the method of Box and Muller as in curand_normal.h.
    """
    n = int(np.prod(shape, dtype=np.int64))
    counter = np.zeros((4, n), np.uint32)
    counter[0], counter[2] = calls, np.arange(n, dtype=np.uint32)
    key = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)
    x, y = philox(counter, key)[:2].astype(np.float32)
    unit = np.float32(2.3283064e-10)  # 1 / 2³²
    turn = np.float32(2.3283064e-10 * 6.2831855)
    u, v = x * unit + unit / np.float32(2), y * turn + turn / np.float32(2)
    return torch.from_numpy((np.sqrt(np.float32(-2) * np.log(u)) * np.sin(v)).reshape(shape))


class ImageNoise(torch.Generator):
    """A generator of the noise of one image, for use within `Drawn`.

    `later` is what draws the noise after the first: another rng and seed; None: the first goes on.
    """

    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]

    def __init__(self, rng: Rng, seed: int, later: tuple[Rng, int] | None = None) -> None:
        self._later = later
        self._begin(rng, seed)

    def _begin(self, rng: Rng, seed: int) -> None:
        self._rng, self._seed, self._calls = rng, seed % 2**64, 0
        self.manual_seed(self._seed)

    def draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw the next noise, float32."""
        if self._rng == "gpu":
            drawn = gpu_randn(shape, self._seed, self._calls)
        else:
            drawn = torch.randn(shape, generator=self)
        self._calls += 1
        if self._later:
            self._begin(*self._later)
            self._later = None
        return drawn


class Drawn(TorchFunctionMode):
    """A context in which `torch.randn` asks the ImageNoise that it is given; other generators draw by `rng`.

    The latter are those that torchsde makes for its Brownian trees, a new one for each of their nodes.
    """

    def __init__(self, rng: Rng) -> None:
        super().__init__()
        self.rng = rng

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        is_ours = isinstance(generator, ImageNoise)
        if func is not torch.randn or generator is None or not (is_ours or self.rng == "gpu"):
            return func(*args, **kwargs)
        shape = tuple(kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args))
        drawn = generator.draw(shape) if is_ours else gpu_randn(shape, generator.initial_seed())
        return drawn.to(kwargs.get("device"), kwargs.get("dtype"))


@contextmanager
def drawn_as(rng: Rng, vae: Any) -> Iterator[None]:
    """Draw noise in the order of A1111 and ComfyUI: none is drawn for the latents of an image.

    diffusers first draws which latents of their distribution an image gets, whose mean is used here.
    """
    plain, before = vae.encode, vars(vae).get("encode")

    def encode(*args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(latents=plain(*args, **kwargs).latent_dist.mode())

    vae.encode = encode
    try:
        with Drawn(rng):
            yield
    finally:
        del vae.encode
        if before:
            vae.encode = before
