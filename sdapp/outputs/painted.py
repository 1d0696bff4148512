"""A painted image with its record, as the Python functions return it."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from PIL import Image

from sdapp.errors import ConfigError
from sdapp.metadata.record import SUFFIXES
from sdapp.outputs.encode import encode
from sdapp.outputs.files import publish
from sdapp.records import Record, Result
from sdapp.settings.output import Output


@dataclass(frozen=True, repr=False)
class Painted(Result):
    """A result that has an image. Notebooks show it."""

    record: Record
    image: Image.Image

    @classmethod
    def of(cls, result: Result) -> Self:
        """The same result; it must have an image."""
        return cls(**{field.name: getattr(result, field.name) for field in fields(result)})

    def __iter__(self) -> Iterator[Self]:
        """Deprecated: `generate` returns the result; `stream` is the iterator."""
        text = "sdapp.generate returns the result itself now; sdapp.stream is the iterator"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        yield self

    def save(self, path: str | Path) -> Path:
        """Write the image, with its settings inside, to a .png, .jpg or .webp file, and return its path.

        If the name is taken, the file is called `name-2`. Raises ConfigError, OutputError.
        """
        path = Path(path)
        formats = {suffix: name for name, suffix in SUFFIXES.items()} | {".jpeg": "jpeg"}
        if path.suffix.lower() not in formats:
            raise ConfigError(f"{path}: no format of images; allowed: {', '.join(formats)}")
        output = Output.model_validate({"dir": str(path.parent), "format": formats[path.suffix.lower()]})
        file = encode(self, output).file
        assert file is not None
        return publish(file, path.parent, path.stem, path.suffix)
