"""Where the weights of a model are: on the device, or moved there when they are needed."""

import gc
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sdapp.diffusion.memory import usable_memory
from sdapp.errors import ConfigError
from sdapp.jobs import Job
from sdapp.models.control_files import count_weights
from sdapp.models.families import Family
from sdapp.models.mask_models import count_mask_weights
from sdapp.settings.hardware import Memory

GIB = 2**30
OFFLOADS = ("none", "model", "group", "sequential")  # each takes less memory than the one before it
AUTO = Memory()
# What a plan adds to the tensors that it counts: for memory in pieces, and for kernels and their workspaces.
MARGIN, RESERVE = 1.15, GIB // 2
LAYERS = GIB // 4  # of offload: group: the layer that works, and the next one
DECODED = 768  # numbers per pixel that decoding holds at once (benchmarks/activations.py)
ADDED = 26  # numbers per pixel and row that ControlNets add to a UNet call: 25.6 in all families
FLOAT32 = 4  # bytes of a number, in which mask models run
TILE = 512  # pixels, the side of tiles that nobody asked for
TURNS = {
    "model": "the parts of the model take turns on the device (memory.offload: model)",
    "group": "the layers of the model take turns on the device (memory.offload: group)",
}


@dataclass(frozen=True)
class Plan:
    """How to fit images into memory: the settings of `memory`, and the most images at a time."""

    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    batch: int = sys.maxsize
    fits: bool = True


@dataclass(frozen=True)
class Sizes:
    """What decides how much memory a model takes."""

    weights: Mapping[str, int]  # the bytes of each part
    unet_values: int  # of its family
    number: int = 2  # the bytes of a number in the UNet
    vae_number: int = 2  # the same in the VAE


def plan_memory(  # noqa: PLR0913 - each is something that takes memory, or a limit
    sizes: Sizes,
    free: int,
    pixels: int,
    batch: int = 1,
    asked: Memory = AUTO,
    ways: int = 3,
    control: int = 0,
    masks: int = 0,
) -> Plan:
    """Choose what `memory` leaves open: what costs the least time, and pixels only if nothing else fits.

    `free` are the bytes of the device before it has any weights, `pixels` those of an image, `control` the
    bytes of ControlNets, which are there while the UNet works, `masks` those of mask models, which are there
    if nothing is offloaded. Offloading is chosen for one image: a batch that needs more is made smaller. The
    tensors that live at the same time are counted (benchmarks/activations.py); each image has two rows, as
    with guidance. Of `OFFLOADS`, the first `ways` are tried.
    """
    weights = sizes.weights
    call = 2 * (sizes.unet_values + (ADDED if control else 0)) * pixels * sizes.number
    decode = DECODED * pixels * sizes.vae_number
    tile = DECODED * min(pixels, TILE**2) * sizes.vae_number
    others = max(size for part, size in weights.items() if part not in ("unet", "vae"))

    def fits(offload: str, images: int, decoding: int) -> bool:
        match offload:
            case "none":
                needed = sum(weights.values()) + control + masks + max(images * call, decoding)
            case "model":
                needed = max(weights["unet"] + control + images * call, weights["vae"] + decoding, others)
            case _:
                needed = LAYERS + max(control + images * call, decoding)
        return needed * MARGIN + RESERVE <= free

    tilings = (False, True) if asked.vae_tiling == "auto" else (asked.vae_tiling,)
    offloads = OFFLOADS[:ways] if asked.offload == "auto" else (asked.offload,)
    for tiling in tilings:
        one = tile if tiling else decode
        for offload in offloads:
            if images := next((n for n in range(batch, 0, -1) if fits(offload, n, one)), 0):
                is_sliced = not fits(offload, images, images * one)
                slicing = is_sliced if asked.vae_slicing == "auto" else asked.vae_slicing
                return Plan(offload, slicing, tiling, images)
    slicing = asked.vae_slicing if asked.vae_slicing != "auto" else batch > 1
    return Plan(offloads[-1], slicing, tilings[-1], 1, fits=False)


class Placement:
    """Where the weights of pipelines are; `notes` says what was given up to save memory."""

    def __init__(
        self, pipes: Mapping[str, Any], device: torch.device, memory: Memory, family: Family
    ) -> None:
        self._pipes, self._device, self._asked = tuple(pipes.values()), device, memory
        pipe = self._pipes[0]
        self._vae, self.notes = pipe.vae, list[str]()
        self._tile: int | None = None  # of second passes, since memory ran out
        weights = {
            name: sum(weight.nbytes for weight in part.parameters())
            for name, part in pipe.components.items()
            if isinstance(part, torch.nn.Module)
        }
        numbers = pipe.unet.dtype.itemsize, pipe.vae.dtype.itemsize
        self._sizes = Sizes(weights, family.unet_values, *numbers)
        self._free = usable_memory(device)
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        first = self._plan(side * side, 1)
        self._place(first.offload)
        self._vae.use_slicing = self._vae.use_tiling = False
        self._decode_with(first)
        self._tell(first, 1)

    @property
    def offload(self) -> str:
        """What is offloaded now."""
        return self._offload

    @property
    def stays(self) -> bool:
        """Whether what was used stays on the device."""
        return self._offload == "none"

    @property
    def saving(self) -> dict[str, Any]:
        """The settings of `memory` that are in use now, without those that save nothing."""
        found = {
            "offload": self._offload,
            "vae_slicing": self._vae.use_slicing,
            "vae_tiling": self._vae.use_tiling,
        }
        return {name: value for name, value in found.items() if value not in ("none", False)}

    def most(self, job: Job, batch: int) -> int:
        """How many images of a batch fit at a time."""
        return min(batch, self._plan_for(job, batch).batch)

    def make_room(self, job: Job, batch: int) -> bool:
        """Save what a batch needs, and keep it so; return whether weights are offloaded that were not before.

        Raises ConfigError for LoRAs where layers are offloaded.
        """
        plan = self._plan_for(job, batch)
        is_more = OFFLOADS.index(plan.offload) > OFFLOADS.index(self._offload)
        if job.loras and self._offload in ("group", "sequential"):
            raise ConfigError(
                "loras: cannot be merged into layers that are offloaded; set memory.offload: model"
            )
        if is_more:
            for pipe in self._pipes:
                pipe.remove_all_hooks()
                pipe.to("cpu")
            self._place(plan.offload)
        self._decode_with(plan)
        self._tell(plan, batch)
        return is_more

    def _plan_for(self, job: Job, batch: int) -> Plan:
        """Plan for images; LoRAs cannot be merged into layers that are offloaded."""
        control = sum(map(count_weights, {each.model for each in job.control})) * self._sizes.number
        masks = sum(map(count_mask_weights, job.mask_models)) * FLOAT32
        return self._plan(job.decoded_pixels, batch, bool(job.loras), control, masks)

    def _plan(
        self, pixels: int, batch: int, has_loras: bool = False, control: int = 0, masks: int = 0
    ) -> Plan:
        """Plan for images; an Apple GPU has the memory of the CPU, so that offloading frees none."""
        asked = self._asked
        if self._device.type == "cpu":
            offload = "none" if asked.offload == "auto" else asked.offload
            return Plan(offload, asked.vae_slicing is True, asked.vae_tiling is True)
        ways = 1 if self._device.type == "mps" else 2 if has_loras else 3
        return plan_memory(self._sizes, self._free, pixels, batch, asked, ways, control, masks)

    def _decode_with(self, plan: Plan) -> None:
        self._vae.use_slicing |= plan.vae_slicing
        if plan.vae_tiling and not self._vae.use_tiling:
            self._vae.use_tiling = True
            if self._asked.vae_tiling == "auto":  # SDXL's own tiles are as large as its images
                self._vae.tile_sample_min_size = TILE
                self._vae.tile_latent_min_size = TILE // self._pipes[0].vae_scale_factor

    def _tell(self, plan: Plan, batch: int) -> None:
        """Note what a plan chose."""
        chosen = [TURNS[plan.offload]] if self._asked.offload == "auto" and plan.offload != "none" else []
        if plan.vae_slicing and self._asked.vae_slicing == "auto":
            chosen.append("a batch is decoded image by image (memory.vae_slicing)")
        if plan.vae_tiling and self._asked.vae_tiling == "auto":
            chosen.append("the VAE decodes tiles, which changes pixels (memory.vae_tiling)")
        if plan.batch < batch:
            chosen.append(f"batches have {plan.batch} images, not {batch}")
        if not plan.fits:
            chosen.append("even so, it may run out")
        note = f"{self._free / GIB:.1f} GiB are free on {self._device}: {'; '.join(chosen)}"
        if chosen and note not in self.notes:
            self.notes.append(note)

    def _place(self, offload: str) -> None:
        """Put the weights on the device, or let accelerate's hooks move them there when they are needed."""
        self._offload = offload
        if offload == "group":  # hooks on the parts, which the pipelines share
            leaves = {"onload_device": self._device, "offload_type": "leaf_level"}
            is_cuda = self._device.type == "cuda"
            self._pipes[0].enable_group_offload(**leaves, use_stream=is_cuda, exclude_modules="vae")
            # A stream would keep copies in the first dtype, and it learns what comes next in `forward` only.
            self._vae.enable_group_offload(**leaves)
            return
        for pipe in self._pipes:
            match offload:
                case "none":
                    pipe.to(self._device)
                case "model":
                    pipe.enable_model_cpu_offload(device=self._device)
                case "sequential":
                    pipe.enable_sequential_cpu_offload(device=self._device)

    def tile_of(self, job: Job) -> int | None:
        """The side in pixels of the tiles in which a job's second pass is denoised; None: as a whole."""
        asked = job.upscale.tile if job.upscale else None
        return asked or (self._tile if _may_be_tiled(job) else None)

    def save_more(self, job: Job) -> bool:
        """Save memory: slice and tile the VAE, then offload, then denoise an enlarged image in tiles.

        False if nothing is left to do for this job.
        """
        if not (self._vae.use_slicing and self._vae.use_tiling):
            self._vae.enable_slicing()
            self._vae.enable_tiling()
            then = "the VAE works in slices and tiles, which changes pixels at edges"
        elif self._offload == "none" and self._device.type != "cpu":
            self._place("model")
            then = "only the part of the model that works is on the device"
        elif job.second_pass and _may_be_tiled(job) and not self.tile_of(job):
            self._tile = TILE
            then = f"enlarged images are denoised in tiles of {TILE} pixels, which changes them"
        else:
            return False
        self.notes.append(f"memory ran out: since then {then}")
        return True

    def free(self) -> None:
        """Give back the memory of a batch that failed."""
        for pipe in self._pipes:
            pipe.maybe_free_model_hooks()  # with `offload: model` it left something on the device
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()


def _may_be_tiled(job: Job) -> bool:
    """Whether tiles can be used: a cache remembers one tile only, and a ControlNet reads the whole image."""
    return job.cache_interval == 1 and not job.control
