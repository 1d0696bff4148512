"""Images inside pages: as data URIs while there is room, then as links to the files next to the page."""

from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from sdapp.errors import InputError
from sdapp.images import decode_file
from sdapp.pages.page import SYMBOLS
from sdapp.pages.sheet import NOT_PAINTED

MAX_INLINE = 20_000_000  # bytes of images inside a page; all others are links
SMALL = 128  # pixels; images up to this side are kept lossless, because they are looked at enlarged
PageEntry = dict[str, Any]  # what a page shows of one image, as text
MISSING = {"status": "missing", "message": NOT_PAINTED}


def to_data_uri(image: Image.Image, lossless: bool = False) -> str:
    """An image, RGB or RGBA, as WebP inside a page; small ones are lossless."""
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=90, method=3, lossless=lossless or max(image.size) <= SMALL)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()


@dataclass
class ImageSources:
    """Sources of the images of a folder: WebP inside the page while there is room, then links."""

    folder: Path
    room: int  # bytes
    known: dict[str, str] = field(default_factory=dict)

    def entry(self, file: str | None) -> PageEntry:
        """What a page needs to show an image, or why it cannot."""
        if file is None:
            return dict(MISSING)
        try:
            return {"status": "done", "src": self._source(file), "file": quote(file)}
        except InputError as exc:
            return {"status": "failed", "message": str(exc).translate(SYMBOLS)}

    def _source(self, file: str) -> str:
        if file not in self.known:
            if self.room <= 0 and not (self.folder / file).is_file():
                raise InputError(f"its image {file} does not exist any more")
            self.known[file] = self._inline(file) if self.room > 0 else quote(file)
        return self.known[file]

    def _inline(self, file: str) -> str:
        text = to_data_uri(decode_file(str(self.folder / file)).convert("RGB"))
        self.room -= len(text)
        return text


def without_images(view: PageEntry) -> PageEntry:
    """A view without the sources of its images, which the page already has as `<img>`."""

    def without(entry: PageEntry) -> PageEntry:
        return {key: value for key, value in entry.items() if key != "src"}

    reference = {"reference": without(view["reference"])} if "reference" in view else {}
    return view | reference | {"cells": [[*map(without, row)] for row in view["cells"]]}
