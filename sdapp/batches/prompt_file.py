"""What a prompt file asks for, image by image, and which of it this machine sees to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Self

from sdapp.batches.items import Item
from sdapp.batches.seed_state import STATE_FILE, SeedState, begin_seeds
from sdapp.config import RunConfig, validate
from sdapp.errors import ConfigError, InputError
from sdapp.jobs import Job, plan
from sdapp.models.locate import Model
from sdapp.models.vae import locate_model
from sdapp.prompts.files import Entry, read_prompts
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.seeds import Seeds, seed_for
from sdapp.prompts.templates import choose
from sdapp.prompts.variants import checked_entries
from sdapp.settings.layers import Layer, merge, override

BATCH_DEFAULTS = {
    "output.name": "{prompt}-{seed}-{id}",
    "batch_size": "auto",
}  # with the id, no name depends on the others


@dataclass(frozen=True)
class PromptFile:
    """A prompt file (or the bytes of standard input), the settings below its lines, and how it was begun."""

    path: Path | bytes
    base: Sequence[Layer]
    config: RunConfig  # of the settings below the lines
    model: Model
    begun: SeedState

    @classmethod
    def open(cls, path: Path | bytes, layers: Sequence[Layer], seeds: Seeds | None = None) -> Self:
        """Look at the settings, the model and the folder; nothing is written, nor is the file read. Raises SdappError."""
        base = [*(override(key, value, "sdapp batch") for key, value in BATCH_DEFAULTS.items()), *layers]
        config = validate(merge(base))
        begun = begin_seeds(Path(config.output.dir), config.seed, seeds)
        return cls(path, base, config, locate_model(config.model, config.revision, config.vae), begun)

    @property
    def folder(self) -> Path:
        return self.path.parent if isinstance(self.path, Path) else Path()

    def keep(self) -> Self:
        """Keep in the folder of the images how the file was begun. Raises OutputError.

        Where another run began there meanwhile, it is begun as that one: then its images are others than before.
        """
        return replace(
            self,
            begun=begin_seeds(Path(self.config.output.dir), self.config.seed, self.begun.seeds, self.begun),
        )

    def is_begun(self) -> bool:
        """Whether the next run will draw the same seeds."""
        return self.config.seed is not None or (Path(self.config.output.dir) / STATE_FILE).exists()

    def _read(self) -> Iterator[Entry]:
        return (
            read_prompts(self.path) if isinstance(self.path, Path) else read_prompts(None, BytesIO(self.path))
        )

    def orders(self) -> Iterator[Item]:
        """The images in the order of the file; lines may ask for the same one.

        Raises PromptFileError with every error of the file, input files among them, after the images of its good lines.
        """
        errors, position = PromptFileError(), 0
        try:
            for entry in checked_entries(self._read(), self.base, self.folder):
                try:
                    for job, choices in self._jobs(entry, position):
                        yield Item(job, entry.line, position, choices)
                        position += 1
                except (ConfigError, InputError) as exc:
                    errors.add(entry.line, f"{entry.origin}: {exc}")
        except PromptFileError as exc:
            errors.absorb(exc)
        if errors.count:
            raise errors

    def _jobs(self, entry: Entry, position: int) -> Iterator[tuple[Job, Mapping[str, str]]]:
        config = validate(merge([*self.base, entry.layer]))
        for seed in self._seeds(entry, config, position):
            prompt, choices = choose(config.prompt or "", seed, self.folder)
            for job in plan(config.model_copy(update={"prompt": prompt}), self.model, [seed]):
                yield job, choices

    def _seeds(self, entry: Entry, config: RunConfig, position: int) -> Iterable[int]:
        if entry.seeds is not None:
            return entry.seeds
        if "seed" in entry.layer.values and config.seed is not None:
            return range(config.seed, config.seed + config.count)
        return (
            seed_for(self.begun.seeds, self.begun.base_seed, position + copy, entry.content, copy)
            for copy in range(config.count)
        )
