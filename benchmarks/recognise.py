"""Measure the processor time to say what a file is: python benchmarks/recognise.py [--rounds 20]

The files have the tensor names and shapes of real models, and holes for weights: a whole checkpoint, its UNet
in the layout of diffusers, a LoRA for it and an autoencoder.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from models import SHAPES, build
from sdapp.models.catalog import describe
from sides import settings, tell_machine

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from headers import Shapes, save_header
from original_layout import original_tensors


def kinds(name: str) -> dict[str, Shapes]:
    """The tensors of four kinds of files, with their shapes."""
    pipe = build(SHAPES[name], "meta")
    whole = {key: tuple(value.shape) for key, value in original_tensors(pipe).items()}
    unet = {key: tuple(value.shape) for key, value in pipe.unet.state_dict().items()}
    lora: dict[str, tuple[int, ...]] = {}
    for key, shape in unet.items():
        if "attentions" in key and len(shape) == 2:
            layer = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            lora |= {f"{layer}.lora_down.weight": (8, shape[1]), f"{layer}.alpha": ()}
            lora[f"{layer}.lora_up.weight"] = (shape[0], 8)
    prefix = "first_stage_model."
    vae = {key.removeprefix(prefix): shape for key, shape in whole.items() if key.startswith(prefix)}
    return {name: whole, f"UNet of {name}": unet, f"LoRA for {name}": lora, f"VAE of {name}": vae}


def main(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.shapes:
            for kind, shapes in kinds(name).items():
                taken = []
                for each in range(asked.rounds):  # a new file each time: what is known of one is remembered
                    path = save_header(Path(folder) / f"{each}.safetensors", shapes)
                    before = time.process_time()
                    found = describe(path)
                    taken.append(1000 * (time.process_time() - before))
                times = f"{statistics.median(taken):6.1f} ms, at most {max(taken):6.1f}"
                print(f"{kind:14} {len(shapes):5} tensors {times}: {found.what}")
    tell_machine(settings(argparse.Namespace(model="postcards", device="cpu", dtype="float32", size=64)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shapes", nargs="+", choices=("sd15", "sdxl"), default=["sdxl", "sd15"])
    main(parser.parse_args())
