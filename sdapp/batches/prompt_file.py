"""What a prompt file asks for, image by image."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import Self

from sdapp.batches.items import Item
from sdapp.batches.seed_state import STATE_FILE, SeedState, begin_seeds
from sdapp.config import RunConfig, validate
from sdapp.errors import ConfigError, InputError
from sdapp.jobs import Job, LoadKey, plan
from sdapp.models.locate import Model
from sdapp.models.vae import locate_model
from sdapp.prompts.files import Entry, read_prompts
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.seeds import Seeds, seed_for
from sdapp.prompts.templates import choose
from sdapp.prompts.variants import checked_entries
from sdapp.settings.layers import Layer, merge, override

# The id in the name makes names independent of each other.
BATCH_DEFAULTS = {"output.name": "{prompt}-{seed}-{id}", "batch_size": "auto"}


@dataclass
class PromptFile:
    """A prompt file, or the bytes of standard input, and the settings that are below its lines."""

    path: Path | bytes
    base: Sequence[Layer]
    config: RunConfig  # of `base`
    model: Model
    begun: SeedState
    first_index: int = 0  # of its images, where it is part of a stream

    @classmethod
    def open(cls, path: Path | bytes, layers: Sequence[Layer], seeds: Seeds | None = None) -> Self:
        """Check the settings below the lines, find the model, and read the base seed of the images' folder.

        The file itself is read by `items`. Raises SdappError.
        """
        base = [*(override(key, value, "sdapp batch") for key, value in BATCH_DEFAULTS.items()), *layers]
        config = validate(merge(base))
        begun = begin_seeds(Path(config.output.dir), config.seed, seeds)
        model = locate_model(config.model, config.revision, config.vae, config.base)
        return cls(path, base, config, model, begun)

    @property
    def folder(self) -> Path:
        """The folder that input files are relative to."""
        return self.path.parent if isinstance(self.path, Path) else Path()

    @property
    def images_folder(self) -> Path:
        return Path(self.config.output.dir)

    @property
    def name(self) -> str:
        """The path of the file, relative to the folder of the images; `-` for standard input."""
        if not isinstance(self.path, Path):
            return "-"
        try:
            return Path(os.path.relpath(self.path.resolve(), self.images_folder.resolve())).as_posix()
        except ValueError:  # another drive of a Windows machine
            return self.path.resolve().as_posix()

    @property
    def load(self) -> LoadKey:
        return LoadKey.of(self.config, self.model)

    def keep_seeds(self) -> bool:
        """Write the base seed to the folder of the images, for later runs. Raises OutputError.

        Returns True if another run was quicker: its base seed is used, so `items` gives other images.
        """
        before = self.begun
        self.begun = begin_seeds(self.images_folder, self.config.seed, before.seeds, before)
        return self.begun != before

    def is_begun(self) -> bool:
        """Whether the next run will draw the same seeds."""
        return self.config.seed is not None or (self.images_folder / STATE_FILE).exists()

    def items(self) -> Iterator[Item]:
        """The images in the order of the file; several lines may ask for the same one.

        Raises PromptFileError with every error, after the images of the good lines.
        """
        errors, index = PromptFileError(), self.first_index
        source = (self.path,) if isinstance(self.path, Path) else (None, BytesIO(self.path))
        try:
            for entry in checked_entries(read_prompts(*source), self.base, self.folder):
                try:
                    for job, choices in self._jobs(entry, index):
                        yield Item(job, entry.line, index, choices)
                        index += 1
                except (ConfigError, InputError) as exc:
                    errors.add(entry.line, f"{entry.place}: {exc}")
        except PromptFileError as exc:
            errors.absorb(exc)
        if errors.count:
            raise errors

    def _jobs(self, entry: Entry, index: int) -> Iterator[tuple[Job, Mapping[str, str]]]:
        config = validate(merge([*self.base, entry.layer]))
        for seed in self._seeds(entry, config, index):
            prompt, choices = choose(config.prompt or "", seed, self.folder)
            negative, more = choose(config.negative_prompt, seed, self.folder, "negative_prompt: ")
            chosen = config.model_copy(update={"prompt": prompt, "negative_prompt": negative})
            for job in plan(chosen, self.model, [seed]):
                yield job, choices | more

    def _seeds(self, entry: Entry, config: RunConfig, index: int) -> Iterable[int]:
        if "seed" in entry.values and config.seed is not None:
            return range(config.seed, config.seed + config.count)
        given = entry.seeds or repeat(-1, config.count)
        seeds, base = self.begun.seeds, self.begun.base_seed
        return (
            seed_for(seeds, base, index + copy, entry.content, copy) if seed == -1 else seed
            for copy, seed in enumerate(given)
        )
