"""What only a GPU can show: float16, offloading, memory. `make test-gpu`; where there is no CUDA device these are skipped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdapp.diffusion.decode import keep_dtype
from sdapp.diffusion.noise import gpu_randn
from sdapp.diffusion.placement import GIB
from sdapp.jobs import LoadKey
from sdapp.models.families import FAMILIES
from sdapp.models.locate import locate
from sdapp.pipelines import Painter
from sdapp.planning import plan
from sdapp.records import Result
from sdapp.scheduler_table import TABLE
from sdapp.settings.hardware import Memory
from sdapp.settings.layers import Layer
from sdapp.stages.loaded_model import LoadedModel
from sdapp.validation import validate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device; `make test-gpu` on a machine that has one"
    ),
]
TOLERANCE = 2.0  # of 255: the mean distance of a float16 image from the float32 one; float16 on a CPU leads to 0.02 to 0.1
GUIDANCE = 3.0  # K-LMS multiplies each rounding by about two a step at 7.5 and 20 steps, and paints something else then
NAMES = [name for row in TABLE for name in (row.name, *(f"{row.name}-{sigmas}" for sigmas in row.sigmas))]
Make = Callable[..., Painter]


def tasks(house: Path, mask: Path) -> dict[str, dict[str, Any]]:
    return {
        "txt2img": {"kind": "txt2img"},
        "img2img": {"kind": "img2img", "image": str(house), "strength": 0.6},
        "inpaint": {"kind": "inpaint", "image": str(house), "mask": str(mask)},
    }


@pytest.fixture(scope="module")
def make() -> Make:
    """A painter on the GPU for a dtype, loaded once."""
    from sdapp.pipelines import load

    made: dict[str, Painter] = {}

    def build(dtype: str = "float16", fresh: bool = False, **memory: Any) -> Painter:
        key, config = (
            f"{dtype} {memory}",
            validate(Layer({"device": "cuda", "dtype": dtype, "memory": memory})),
        )
        if fresh:
            return load(LoadKey.of(config, locate(config.model)))
        if key not in made:
            made[key] = load(LoadKey.of(config, locate(config.model)))
        return made[key]

    return build


@pytest.fixture(scope="module")
def sd15() -> Iterator[dict[torch.dtype, Painter]]:
    """Stable Diffusion 1.5's shape with random weights, in float16 and float32."""
    from models import SHAPES, build

    cuda = torch.device("cuda")
    yield {
        dtype: Painter(LoadedModel(build(SHAPES["sd15"], "cuda").to(dtype), FAMILIES[0], cuda, Memory()))
        for dtype in (torch.float16, torch.float32)
    }
    torch.cuda.empty_cache()


def paint(painter: Painter, batch_size: int = 1, **settings: Any) -> list[Result]:
    config = validate(
        Layer(
            {"prompt": "a red house on a beach", "seed": 7, "steps": 20, "guidance_scale": GUIDANCE}
            | settings
        )
    )
    return list(painter.paint(plan(config, locate(config.model)), batch_size))


def apart(one: Result, other: Result) -> float:
    """The mean distance of two images, of 255."""
    assert one.error is None, one.error
    assert other.error is None, other.error
    return float(np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).mean())


def survive(painter: Painter, count: int, gib: int) -> None:
    """Paint a batch with so little memory beyond what is taken that it runs out."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + gib * 2**30) / total)
    try:
        results = paint(painter, count, count=count, steps=2, width=512, height=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [result.error for result in results] == [None] * count
    assert any("memory ran out" in note for note in results[-1].record.notes)


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
@pytest.mark.parametrize("name", NAMES)
def test_float16_paints_what_float32_does(
    name: str, kind: str, make: Make, house: Path, mask: Path, record_property: Callable[..., None]
) -> None:
    settings = {"scheduler": name, "task": tasks(house, mask)[kind]}
    [half], [full] = (paint(make(dtype), **settings) for dtype in ("float16", "float32"))
    record_property("distance", round(apart(half, full), 3))
    assert half.record.dtype == "float16"
    assert apart(half, full) <= TOLERANCE


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
@pytest.mark.parametrize("name", NAMES)
def test_float16_is_finite_at_the_size_of_stable_diffusion(
    name: str, kind: str, sd15: dict[torch.dtype, Painter], house: Path, mask: Path
) -> None:
    settings = {"scheduler": name, "task": tasks(house, mask)[kind], "steps": 6, "width": 512, "height": 512}
    [half], [full] = (paint(painter, **settings) for painter in sd15.values())
    assert apart(half, full) <= TOLERANCE
    assert half.record.peak_memory


def test_the_noise_is_that_of_the_cpu_bit_for_bit(make: Make) -> None:
    seen = []
    painter = make("float32")
    hook = painter.model.denoiser.unet.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].cpu())
    )
    paint(painter, scheduler="ddim", steps=2)
    hook.remove()
    assert torch.equal(
        seen[0][0], torch.randn(seen[0][:1].shape, generator=torch.Generator().manual_seed(7))[0]
    )


@pytest.mark.parametrize("batch_size", [3, 8])
def test_neither_batches_nor_their_order_change_an_image(batch_size: int, make: Make) -> None:
    alone = paint(make(), count=8)
    jobs = [result.job for result in alone]
    for order in (jobs, jobs[::-1]):
        together = {result.job.id: result for result in make().paint(order, batch_size)}
        assert max(apart(one, together[one.job.id]) for one in alone) <= TOLERANCE


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_changes_no_image(offload: str, make: Make, record_property: Callable[..., None]) -> None:
    [plain], [saved] = (paint(painter) for painter in (make(), make(offload=offload)))
    assert apart(plain, saved) <= TOLERANCE
    remember(record_property, plain, saved)


@pytest.mark.parametrize("part", ["vae_slicing", "vae_tiling"])
def test_a_vae_in_parts_paints_what_it_does_in_float32(
    part: str, make: Make, record_property: Callable[..., None]
) -> None:
    """A batch larger than a slice, of images larger than a tile; each tile has norms of its own."""
    settings = {"batch_size": 4, "count": 4, "steps": 4, "width": 256, "height": 256}
    half, full, plain = (
        paint(painter, **settings)
        for painter in (make(**{part: True}), make("float32", **{part: True}), make())
    )
    assert max(apart(one, other) for one, other in zip(half, full, strict=True)) <= TOLERANCE
    remember(record_property, plain[0], half[0])


def remember(record_property: Callable[..., None], plain: Result, other: Result) -> None:
    for name, result in (("plain", plain), ("other", other)):
        record_property(f"peak_memory_{name}", result.record.peak_memory)


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_compiled_graphs_paint_the_same_images(
    kind: str, make: Make, house: Path, mask: Path, record_property: Callable[..., None]
) -> None:
    settings = {"task": tasks(house, mask)[kind], "count": 4}
    plain = paint(make(), 2, **settings)
    painter = make("float16", fresh=True)
    painter.model.denoiser.compile(after=0)
    compiled = paint(painter, 2, **settings)
    assert compiled[-1].record.optimizations[-1] == "compiled UNet with CUDA graphs", compiled[
        -1
    ].record.notes
    assert max(apart(one, other) for one, other in zip(plain, compiled, strict=True)) <= TOLERANCE
    remember(record_property, plain[-1], compiled[-1])


def test_a_size_that_comes_anew_is_compiled_too_and_memory_that_runs_out_in_a_graph_is_survived(
    make: Make,
) -> None:
    painter = make("float16", fresh=True)
    painter.model.denoiser.compile(after=0)
    for size in (64, 96):
        [compiled], [plain] = (paint(each, width=size, height=size, steps=4) for each in (painter, make()))
        assert apart(compiled, plain) <= TOLERANCE
    survive(painter, 64, gib=1)


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_shortcuts_and_offloading_do_not_disturb_each_other(offload: str, make: Make) -> None:
    shortcuts = {"guidance_interval": [0.2, 0.7], "cache_interval": 2}
    for said in (shortcuts, {}):
        [plain], [saved] = paint(make(), **said), paint(make(offload=offload), **said)
        assert apart(plain, saved) <= TOLERANCE


def test_memory_that_runs_out_for_real_is_survived(sd15: dict[torch.dtype, Painter]) -> None:
    survive(sd15[torch.float16], 16, gib=3)


@pytest.mark.parametrize("offload", ["none", "model", "group", "sequential"])
def test_a_vae_that_overflows_in_float16_decodes_again_in_float32(offload: str, make: Make) -> None:
    painter, [plain] = make("float16", fresh=True), paint(make())
    painter.model.vae.decoder.conv_in.weight.data *= (
        4096.0  # the normalisations take it out again, where it is finite
    )
    painter.model.vae.decoder.conv_in.bias.data *= 4096.0
    painter.model.placement._place(offload)
    [mended] = paint(painter)
    assert any("float32" in note for note in mended.record.notes)
    assert apart(plain, mended) <= 2 * TOLERANCE


# --- SDXL -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdxl() -> Iterator[Any]:
    """A pipeline of SDXL's shape with random weights, in float16 with its VAE in float32."""
    from models import SHAPES, build

    pipe = build(SHAPES["sdxl"], "cuda")
    pipe.unet.half()
    pipe.text_encoder.half()
    pipe.text_encoder_2.half()
    keep_dtype(pipe.vae, torch.float16)
    yield pipe
    torch.cuda.empty_cache()


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
@pytest.mark.parametrize(
    "name", ["euler", "euler-a", "dpm++2m-karras", "dpm++2m-sde", "ddim", "unipc", "lcm"]
)
def test_sdxl_is_finite_at_its_own_size(
    name: str, kind: str, sdxl: Any, house: Path, mask: Path, record_property: Callable[..., None]
) -> None:
    painter = Painter(LoadedModel(sdxl, FAMILIES[2], torch.device("cuda"), Memory(offload="none")))
    settings = {"scheduler": name, "task": tasks(house, mask)[kind], "steps": 4}
    [result] = paint(painter, **settings, width=1024, height=1024)
    assert result.error is None, result.error
    record_property("peak_memory", result.record.peak_memory)


@pytest.mark.parametrize(("free", "offload"), [(23, "none"), (7, "model"), (5, "group")])
def test_memory_auto_keeps_sdxl_within_what_is_free(
    free: int,
    offload: str,
    sdxl: Any,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[..., None],
) -> None:
    """The last test with this pipeline, which stays offloaded."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _=None: (free * GIB, free * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _=None: 0)
    painter = Painter(LoadedModel(sdxl, FAMILIES[2], torch.device("cuda"), Memory()))
    [result] = paint(painter, steps=2, width=1024, height=1024)
    assert result.record.memory == ({} if offload == "none" else {"offload": offload})
    record_property("peak_memory", result.record.peak_memory)
    assert result.record.peak_memory <= free * GIB


def test_an_interrupt_ends_a_run_at_the_next_step(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sdapp.cli",
        "generate",
        "a cat",
        "--count",
        "500",
        "--device",
        "cuda",
        "--out",
        "night",
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not list(tmp_path.glob("night/*.png")):
        time.sleep(0.05)
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    stderr = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 130, stderr
    assert "finished images are kept" in stderr


@pytest.mark.parametrize("shape", [(4, 64, 64), (1, 4, 96, 128), (1, 4, 128, 128)])
@pytest.mark.parametrize("seed", [0, 1234, 2**32 + 5])
def test_noise_of_a_gpu_is_computed_without_one(seed: int, shape: tuple[int, ...]) -> None:
    """`rng: gpu` against the GPU itself, also after the first call; it computes sine and logarithm less exactly."""
    generator = torch.Generator("cuda").manual_seed(seed)
    for calls in range(3):
        drawn = torch.randn(shape, generator=generator, device="cuda").cpu()
        torch.testing.assert_close(gpu_randn(shape, seed, calls), drawn, atol=1e-4, rtol=0)
