"""One program loads a model, paints an image and writes what each step took; `peers.py pace` starts this.

Without imports of sdapp or torch at the top: stable-diffusion.cpp has an environment of its own.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
Paint = Callable[[Callable[[], None]], Any]  # is given what to call after each step; gives the image


def stable_diffusion_cpp(asked: Settings) -> Paint:
    """With the noise of torch; its flash attention and direct convolutions are not faster on a CPU."""
    from stable_diffusion_cpp import StableDiffusion

    model = StableDiffusion(
        model_path=asked["model"],
        wtype=asked["dtype"],
        n_threads=asked["threads"],
        rng_type="cpu",
        sampler_rng_type="cpu",
        vae_decode_only=True,
        verbose=False,
    )

    def paint(stepped: Callable[[], None]) -> Any:
        def progress(step: int, steps: int, _seconds: float) -> None:
            if steps == asked["steps"] and step:
                stepped()

        [image] = model.generate_image(
            prompt=asked["prompt"],
            cfg_scale=asked["guidance_scale"],
            sample_method="euler",
            scheduler="discrete",
            sample_steps=asked["steps"],
            width=asked["size"],
            height=asked["size"],
            seed=asked["seed"],
            progress_callback=progress,
        )
        return image

    return paint


def sdapp(asked: Settings) -> Paint:
    """With the noise and noise levels of k-diffusion, which stable-diffusion.cpp has too."""
    import sdapp

    loaded = sdapp.load(asked["model"], dtype=asked["dtype"], device="cpu")
    keys = ("prompt", "guidance_scale", "steps", "seed")
    settings = {key: asked[key] for key in keys} | {"width": asked["size"], "height": asked["size"]}

    def paint(stepped: Callable[[], None]) -> Any:
        how = {"scheduler": "euler", "profile": "a1111", "rng": "cpu"} | settings
        return loaded.generate(**how, on_step=lambda *_: stepped()).image

    return paint


def diffusers(asked: Settings) -> Paint:
    """The pipeline as one calls it without sdapp."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(asked["model"], dtype=getattr(torch, asked["dtype"]))
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def paint(stepped: Callable[[], None]) -> Any:
        def after(_pipe: Any, _step: int, _timestep: Any, kept: Any) -> Any:
            stepped()
            return kept

        return pipe(
            asked["prompt"],
            guidance_scale=asked["guidance_scale"],
            num_inference_steps=asked["steps"],
            width=asked["size"],
            height=asked["size"],
            generator=torch.Generator().manual_seed(asked["seed"]),
            callback_on_step_end=after,
        ).images[0]

    return paint


PROGRAMS = {"stable-diffusion.cpp": stable_diffusion_cpp, "sdapp": sdapp, "diffusers": diffusers}


def main(asked: Settings) -> None:
    """Write `image.png` and `times.json` into the current folder: seconds, and gigabytes."""
    started = time.perf_counter()
    paint = PROGRAMS[asked["program"]](asked)
    moments = [time.perf_counter()]
    image = paint(lambda: moments.append(time.perf_counter()))
    moments.append(time.perf_counter())
    image.save("image.png")
    times = {
        "load": moments[0] - started,
        "steps": [after - before for before, after in pairwise(moments[1:-1])],
        "image": moments[-1] - moments[0],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    Path("times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
