"""What a prompt file asks for, image by image."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import Self

from sdapp.batches.items import Item
from sdapp.batches.seed_state import STATE_FILE, SeedState, begin_seeds, keep_for_the_run
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.jobs import Job, LoadKey
from sdapp.models.model import Model
from sdapp.models.vae import locate_model
from sdapp.planning import plan
from sdapp.prompts.files import Entry, read_prompts
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.seeds import Seeds, seed_for
from sdapp.prompts.templates import choose
from sdapp.prompts.variants import checked_entries
from sdapp.settings.layers import Layer, merge, override
from sdapp.validation import validate

# Names sort like the file, and the number in them is of one image alone.
LINE_DIGITS = 4  # at least, in file names
BATCH_DEFAULTS = {"output.name": "{line}-{prompt}-{seed}", "batch_size": "auto"}


@dataclass
class PromptFile:
    """A prompt file, or the bytes of standard input, and the settings that are below its lines."""

    path: Path | bytes
    base: Sequence[Layer]
    config: RunConfig  # of `base`
    model: Model
    begun: SeedState
    first_index: int = 0  # of its images, where it is part of a stream
    skip_invalid: bool = False
    skipped: PromptFileError = field(default_factory=PromptFileError)  # by the last pass of `items`

    @classmethod
    def open(
        cls,
        path: Path | bytes,
        layers: Sequence[Layer],
        seeds: Seeds | None = None,
        skip_invalid: bool = False,
    ) -> Self:
        """Check the settings below the lines, find the model, and read the base seed of the images' folder.

        The file itself is read by `items`. Raises SdappError.
        """
        base = [*(override(key, value, "sdapp batch") for key, value in BATCH_DEFAULTS.items()), *layers]
        config = validate(merge(base))
        begun = begin_seeds(Path(config.output.dir), config.seed, seeds)
        model = locate_model(config.model, config.revision, config.vae, config.base)
        return cls(path, base, config, model, begun, skip_invalid=skip_invalid)

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

    def keep_dry_run(self) -> None:
        """Let the next run on a new folder draw the same seeds. Raises OutputError."""
        if not self.is_begun():
            keep_for_the_run(self.images_folder, self.begun)

    def is_begun(self) -> bool:
        """Whether the base seed is known without a draw."""
        return self.config.seed is not None or (self.images_folder / STATE_FILE).exists()

    def items(self) -> Iterator[Item]:
        """The images in the order of the file; several lines may ask for the same one.

        Raises PromptFileError with every error, after the images of the good lines; with `skip_invalid` only
        if no line is good or there are too many errors to keep, else the errors are in `skipped`.
        """
        errors, index, first = PromptFileError(), self.first_index, (0, 0)
        path, stdin = (self.path, None) if isinstance(self.path, Path) else (None, BytesIO(self.path))
        try:
            entries = read_prompts(path, stdin, self.config.folders)
            for entry, config in checked_entries(entries, self.base, self.folder):
                first = first if entry.line == first[0] else (entry.line, index)
                try:
                    for job, choices, images in self._jobs(entry, config, index):
                        number = self._number(entry, index - first[1], images)
                        yield Item(job, entry.line, index, choices, None, number, entry.labels, entry.notes)
                        index += 1
                except (ConfigError, InputError) as exc:
                    for text in str(exc).splitlines():
                        errors.add(entry.line, f"{entry.place}: {text}")
        except PromptFileError as exc:
            errors.absorb(exc)
        self.skipped = errors
        if errors.count and not (self.skip_invalid and index and len(errors.rows) == errors.count):
            raise errors

    @cached_property
    def _digits(self) -> int:
        """How many digits the number of the last line has."""
        if not isinstance(self.path, Path):
            return max(LINE_DIGITS, len(str(self.path.count(b"\n") + 1)))
        with self.path.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        return max(LINE_DIGITS, len(str(lines + 1)))

    def _number(self, entry: Entry, copy: int, images: int) -> str:
        """The number of a line as text that sorts, and which of its images this is, if it has several."""
        text = f"{entry.line:0{self._digits}}"
        return f"{text}-{copy + 1:0{len(str(images))}}" if images > 1 else text

    def _jobs(
        self, entry: Entry, config: RunConfig, index: int
    ) -> Iterator[tuple[Job, Mapping[str, str], int]]:
        """The jobs of an entry with its settings, their choices, and the number of images of its line."""
        self._check_made_with(entry)
        seeds = self._seeds(entry, config, index)
        images = entry.variants * (len(entry.seeds) if entry.seeds else config.count)
        for seed in seeds:
            prompt, choices = choose(config.prompt or "", seed, self.folder)
            negative, more = choose(config.negative_prompt, seed, self.folder, "negative_prompt: ")
            chosen = config.model_copy(update={"prompt": prompt, "negative_prompt": negative})
            for job in plan(chosen, self.model, [seed]):
                yield job, choices | more, images

    def _check_made_with(self, entry: Entry) -> None:
        """Refuse a line with the settings of an image that was made with another model."""
        for key in entry.made_with.keys() & {"model", "revision", "vae", "dtype"}:
            here, there = getattr(self.load, key), entry.made_with[key]
            if there is not None and here != there and not _is_same_path(here, there):
                way = f"give --set {key}={there}, or use sdapp replay, which takes images of several models"
                raise ConfigError(f"the image was made with {key} {there}, but this batch has {here}; {way}")

    def _seeds(self, entry: Entry, config: RunConfig, index: int) -> Iterable[int]:
        if "seed" in entry.values and config.seed is not None:
            return range(config.seed, config.seed + config.count)
        given = entry.seeds or repeat(-1, config.count)
        seeds, base = self.begun.seeds, self.begun.base_seed
        return (
            seed_for(seeds, base, index + copy, entry.content, copy) if seed == -1 else seed
            for copy, seed in enumerate(given)
        )


def _is_same_path(one: str | None, other: str) -> bool:
    return one is not None and Path(one).exists() and Path(one).resolve() == Path(other).resolve()
