"""The UNet compiled and laid out otherwise: the same images, and the record says what was on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch

from sdapp.errors import ConfigError
from sdapp.jobs import LoadKey
from sdapp.models.locate import locate
from sdapp.pipelines import Painter, load
from sdapp.planning import plan
from sdapp.records import Result
from sdapp.settings.layers import Layer
from sdapp.validation import validate

Tiny = Callable[..., Path]
needs_compiler = pytest.mark.skipif(
    not (which("g++") or which("clang++")), reason="no C++ compiler for torch.compile"
)


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    yield
    torch.compiler.reset()


def asked(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "prompt": "a red house",
        "seed": 7,
        "steps": 3,
        "device": "cpu",
        "scheduler": "pndm",
    } | changes


def painter_of(settings: dict[str, Any], unet_calls: int = 0) -> Painter:
    config = validate(Layer(settings))
    return load(LoadKey.of(config, locate(config.model)), unet_calls=unet_calls, batch_size=config.batch_size)


def paint(settings: dict[str, Any], painter: Painter | None = None) -> list[Result]:
    config = validate(Layer(settings))
    return list(
        (painter or painter_of(settings)).paint(plan(config, locate(config.model)), config.batch_size)
    )


def pixels(result: Result) -> "np.ndarray[Any, Any]":
    assert result.image is not None, result.error
    return np.asarray(result.image).astype(int)


@needs_compiler
def test_a_compiled_unet_paints_the_same_image_and_the_record_says_so(tiny: Tiny) -> None:
    settings = asked(tiny())
    [plain], [compiled] = paint(settings), paint(settings | {"compile": "on"})
    assert plain.record is not None
    assert compiled.record is not None
    assert plain.record.optimizations == ()
    assert compiled.record.optimizations == ("compiled UNet",)
    assert compiled.record.unet_calls == plain.record.unet_calls
    assert np.abs(pixels(plain) - pixels(compiled)).max() <= 2


@needs_compiler
def test_only_shapes_that_come_often_enough_are_compiled(tiny: Tiny) -> None:
    settings = asked(tiny())
    painter = painter_of(settings)
    painter.model.denoiser.compile(after=5)  # an image takes four calls
    on = [
        result.record.optimizations for _ in range(2) for result in paint(settings, painter) if result.record
    ]
    assert on == [(), ("compiled UNet",)]
    [alone] = paint(settings | {"width": 128, "height": 64}, painter)
    assert alone.record is not None
    assert alone.record.optimizations == ()


def test_where_compiling_fails_the_image_is_painted_without_and_says_so(tiny: Tiny) -> None:
    settings = asked(tiny(), width=72, height=72)  # a size that no other test has compiled
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        [result] = paint(settings | {"compile": "on"})
    assert result.record is not None
    assert result.record.optimizations == ()
    assert any(
        note.startswith("compiling the UNet failed, so it runs as it is: ") for note in result.record.notes
    )
    assert (pixels(result) == pixels(paint(settings)[0])).all()


@needs_compiler
def test_a_unet_of_which_parts_are_left_out_is_not_compiled(tiny: Tiny) -> None:
    settings = asked(tiny(), compile="on", cache_interval=2)
    [result] = paint(settings)
    assert result.record is not None
    assert (result.record.optimizations, result.record.cached_calls) == ((), 2)
    assert (pixels(result) == pixels(paint(settings | {"compile": "off"})[0])).all()


def test_where_memory_runs_out_nothing_is_compiled_any_more(tiny: Tiny) -> None:
    settings = asked(tiny(), count=2, batch_size=2)
    painter = painter_of(settings | {"compile": "on"})

    def fail(_unet: Any, args: Any) -> None:
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    painter.model.denoiser.unet.register_forward_pre_hook(fail)
    for result in paint(settings, painter):
        assert result.record is not None, result.error
        assert result.record.optimizations == ()
        assert "memory ran out: since then the UNet is not compiled" in result.record.notes


def test_auto_does_not_compile_on_a_cpu_however_long_the_run(tiny: Tiny) -> None:
    settings = asked(tiny())
    painter = painter_of(settings, unet_calls=10**9)
    [result] = paint(settings, painter)
    assert result.record is not None
    assert result.record.optimizations == ()


def test_channels_last_is_the_same_image_and_the_record_says_so(tiny: Tiny) -> None:
    [plain], [last] = paint(asked(tiny())), paint(asked(tiny(), channels_last="on"))
    assert last.record is not None
    assert last.record.optimizations == ("channels_last",)
    assert np.abs(pixels(plain) - pixels(last)).max() <= 2


def test_a_unet_that_is_offloaded_cannot_be_compiled(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="compile: an offloaded UNet cannot be compiled"):
        validate(Layer(asked(tiny(), compile="on", memory={"offload": "model"})))
