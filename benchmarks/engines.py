"""Measure whether another engine is worth an extra: python benchmarks/engines.py

One call of the UNet with guidance on the CPU, by torch in float32, in bfloat16 and with int8 weights of
linear layers, compiled with frozen weights (`--compile`), and by OpenVINO, if this Python has it; and how
far each is from float32.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Callable, Iterator

import torch
import torch._inductor.config
from torch.utils.benchmark import Timer

from models import SHAPES, build
from sdapp.diffusion.loading import quiet
from sides import rounds, tell_machine

Call = Callable[[], torch.Tensor]


def engines(name: str, size: int, compiles: bool) -> Iterator[tuple[str, Call]]:
    """Each engine with a call of it; the one before may be dropped."""
    unet = build(SHAPES[name]).unet.eval()
    latents, words = torch.randn(2, 4, size // 8, size // 8), torch.randn(2, 77, SHAPES[name].text[0])
    time = torch.tensor(500.0)
    yield "float32", lambda: unet(latents, time, words).sample
    if importlib.util.find_spec("openvino"):
        yield from _openvino(unet, latents, time, words)
    int8 = torch.ao.quantization.quantize_dynamic(unet, {torch.nn.Linear}, dtype=torch.qint8)
    yield "float32, linear layers in int8", lambda: int8(latents, time, words).sample
    half = unet.to(torch.bfloat16, memory_format=torch.channels_last)
    given = latents.bfloat16().contiguous(memory_format=torch.channels_last), time, words.bfloat16()
    yield "bfloat16", lambda: half(*given).sample
    if compiles:
        torch._inductor.config.freezing = True
        compiled = torch.compile(half)
        yield "bfloat16, compiled with frozen weights", lambda: compiled(*given).sample


def _openvino(unet: torch.nn.Module, *given: torch.Tensor) -> Iterator[tuple[str, Call]]:
    import openvino

    class Output(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.unet(*inputs, return_dict=False)[0]

    converted = openvino.convert_model(Output(), example_input=given)
    converted.reshape({i: list(each.shape) for i, each in enumerate(given)})
    arrays = [each.numpy() for each in given]
    for hint in ("f32", "bf16"):
        model = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        yield (
            f"OpenVINO {openvino.__version__[:8]}, {hint}",
            lambda model=model: torch.from_numpy(model(arrays)[0]),
        )


@torch.no_grad()
def main(asked: argparse.Namespace) -> None:
    quiet(verbose=False)
    warnings.filterwarnings("ignore", module=r"torch\.ao")
    exact, plain = torch.empty(0), 0.0
    for name, call in engines(asked.model, asked.size, asked.compile):
        output = call().float()  # which also compiles
        exact = output if not len(exact) else exact
        seconds = (
            Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
            .timeit(asked.rounds)
            .median
        )
        plain = plain or seconds
        error = float((output - exact).norm() / exact.norm())
        print(
            f"{name:40} {seconds:7.2f} s  {plain / seconds:5.2f} times as fast  {error:.1%} away", flush=True
        )
    tell_machine({"model": asked.model, "width": asked.size, "height": asked.size})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=[name for name in SHAPES if not SHAPES[name].is_xl], default="sd15"
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--compile", action="store_true", help="takes minutes")
    rounds(parser, default=3)
    main(parser.parse_args())
