"""What another project's reader finds in an image."""

from io import BytesIO
from pathlib import Path

from sd_parsers import ParserManager
from sd_parsers.data import Sampler
from sd_parsers.extractors import _jpeg_usercomment


def read_by_sd_parsers(image: Path | BytesIO) -> Sampler:
    """Return the settings that sd-parsers reads in an image file; fail if it reads none.

    It keeps the last comment under the `id` of its image object, which the next object may have:
    an image was sometimes read as the one before.
    """
    _jpeg_usercomment._image_id = None
    found = ParserManager().parse(image)
    assert found is not None
    [sampler] = found.samplers
    return sampler
