"""A model that stays loaded, with the Python functions as its methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from sdapp import api
from sdapp.arguments import as_layer
from sdapp.batches.executors import LocalExecutor
from sdapp.config import LoadSettings
from sdapp.errors import ConfigError
from sdapp.grids.axes import AxisGiven
from sdapp.jobs import LoadKey, Work
from sdapp.keywords import AnyPath, LoadKeywords, WarmBatchKeywords, WarmCompareKeywords, WarmKeywords
from sdapp.models.vae import locate_model
from sdapp.notes import OnNote
from sdapp.outputs.painted import Painted
from sdapp.prompts.seeds import Seeds
from sdapp.records import OnStep
from sdapp.validation import validate

if TYPE_CHECKING:
    from sdapp.comparisons.cells import Comparison
    from sdapp.grids.folder import ImageGrid


class StableDiffusion:
    """A loaded model, made by `sdapp.load`. Its methods are the functions of the same names.

    Threads may call them. They take all settings but those of the load. `batch`, `compare`,
    `replay` and `upscale` use this model too, whatever the images name.
    """

    def __init__(self, executor: LocalExecutor, key: LoadKey, load_settings: Mapping[str, Any]) -> None:
        self._executor, self._key, self._load_settings = executor, key, load_settings

    @classmethod
    def load(cls, model: AnyPath, /, **settings: Unpack[LoadKeywords]) -> Self:
        """Load a model for many calls: `sd = sdapp.load("postcards"); sd.generate("a red house", seed=7)`.

        `model` is postcards, a Hub id, a folder or a file; `settings` are those of a load: `vae`, `dtype`,
        `device`, `memory`, … `compile="auto"` does not compile. Raises UnavailableError, ConfigError.
        """
        config = validate(as_layer({**settings, "model": model}))
        found = locate_model(config.model, config.revision, config.vae, config.base)
        key = LoadKey.of(config, found)
        executor = LocalExecutor({key: found})
        executor.painter(Work(key, ()))
        return cls(executor, key, config.model_dump(include=set(LoadSettings.model_fields)))

    def __repr__(self) -> str:
        return f"<{self._key.model}, loaded with sdapp.load>"

    @property
    def pipelines(self) -> Mapping[str, Any]:
        """The pipelines of diffusers by task: txt2img, img2img and inpaint. They share their weights."""
        return self._executor.painter(Work(self._key, ())).model.pipelines

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        film: str | Path | None = None,
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmKeywords],
    ) -> Painted: ...
    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        count: int,
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmKeywords],
    ) -> list[Painted]: ...
    def generate(self, prompt: str | None = None, **options: Any) -> Painted | list[Painted]:
        """Paint an image, or a list of `count` images; see `sdapp.generate`."""
        painted: Painted | list[Painted] = api.generate(prompt, **self._with_model(options))
        return painted

    def stream(
        self,
        prompt: str | None = None,
        *,
        count: int = 1,
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmKeywords],
    ) -> api.Stream:
        """Paint images and give each as soon as it is there; see `sdapp.stream`."""
        options = self._with_model(settings)
        return api.stream(prompt, count=count, on_step=on_step, on_note=on_note, **options)

    def batch(
        self,
        file: str | Path,
        *,
        seeds: Seeds | None = None,
        shard: str = "1/1",
        retry_failed: bool = False,
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmBatchKeywords],
    ) -> api.Stream:
        """Paint the images of a prompt file that its folder lacks; see `sdapp.batch`."""
        how: dict[str, Any] = {"seeds": seeds, "shard": shard, "retry_failed": retry_failed}
        return api.batch(file, on_step=on_step, on_note=on_note, **how, **self._with_model(settings))

    def compare(
        self,
        *prompts: str,
        out: str | Path = "comparison",
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmCompareKeywords],
    ) -> "Comparison":
        """Compare schedulers; see `sdapp.compare`."""
        options = self._with_model(settings)
        return api.compare(*prompts, out=out, on_step=on_step, on_note=on_note, **options)

    def replay(
        self,
        *images: str | Path,
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmBatchKeywords],
    ) -> api.Stream:
        """Paint images again from the settings inside them; see `sdapp.replay`."""
        return api.replay(*images, on_step=on_step, on_note=on_note, **self._with_model(settings))

    def grid(
        self,
        prompt: str | None = None,
        *,
        x: AxisGiven,
        y: AxisGiven | None = None,
        z: AxisGiven | None = None,
        out: str | Path = "grid",
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Unpack[WarmKeywords],
    ) -> "ImageGrid":
        """Paint a grid; see `sdapp.grid`. An axis can be another model, which takes the place of this one."""
        options = {"x": x, "y": y, "z": z, "out": out, **self._with_model(settings)}
        return api.grid(prompt, on_step=on_step, on_note=on_note, **options)

    def upscale(
        self,
        *images: str | Path,
        on_step: OnStep | None = None,
        on_note: OnNote | None = None,
        **settings: Any,
    ) -> api.Stream:
        """Make images larger; see `sdapp.upscale`. Methods with an upscaler alone do not use this model."""
        return api.upscale(*images, on_step=on_step, on_note=on_note, **self._with_model(settings))

    def _with_model(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, this model and its executor. Raises ConfigError for settings of a load."""
        if wrong := [key for key in settings if key in LoadSettings.model_fields]:
            raise ConfigError(f"{wrong[0]}: the model is loaded; give it to sdapp.load")
        return {**settings, **self._load_settings, "executor": self._executor}
