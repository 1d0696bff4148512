"""Where images are computed: memory, workers of a cluster."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sdapp.settings.types import Frozen, Setting

AutoSwitch = Annotated[bool | Literal["auto"], Setting(expected="true, false or auto")]


class Memory(Frozen):
    """What to trade for memory on the device; auto: what the free memory of a GPU needs."""

    offload: Annotated[
        Literal["auto", "none", "model", "group", "sequential"],
        Field(
            description="Keep on the device only the part of the model (model) or the layer (sequential) "
            "that runs; group: that layer, while the UNet's next one is being copied."
        ),
    ] = "auto"
    vae_slicing: Annotated[AutoSwitch, Field(description="Decode the images of a batch one by one.")] = "auto"
    vae_tiling: Annotated[AutoSwitch, Field(description="Decode in tiles; changes colors a little.")] = "auto"


class ExecutorChoice(Frozen):
    """Where the images of a batch or a comparison are painted."""

    kind: Annotated[
        Literal["local", "ray"],
        Field(description="This process, or a Ray cluster; default: ray if an address is given."),
    ] = "local"
    address: Annotated[
        str,
        Field(min_length=1, description="Of the cluster: auto, HOST:PORT or ray://HOST:PORT."),
        Setting("name"),
    ] = "auto"
    workers: Annotated[
        int | None, Field(ge=1, le=10_000, description="At most so many; default: all that fit.")
    ] = None
    gpus: Annotated[
        float | None, Field(ge=0, le=8, description="Of each worker; default: 1 if the cluster has GPUs.")
    ] = None
    cpus: Annotated[float, Field(gt=0, le=1024, description="Of each worker; its number of threads.")] = 1

    @model_validator(mode="before")
    @classmethod
    def _ray_if_addressed(cls, values: Any) -> Any:
        return {"kind": "ray"} | values if isinstance(values, dict) and "address" in values else values
