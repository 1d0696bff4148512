"""The gallery: the images of a folder in the order of their prompt file, with the settings inside them."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image, ImageOps

from sdapp.batches.ledger import LEDGER_FILE, Line, read_ledger
from sdapp.errors import MissingInputError, SdappError
from sdapp.images import IMAGE_SUFFIXES
from sdapp.metadata.read import read_foreign
from sdapp.metadata.record import parse_content, record_text, settings_in_words
from sdapp.outputs.files import disk_errors, overwrite, unfinished
from sdapp.pages.page import SYMBOLS, render_page
from sdapp.prompts.txt import write_line

PAGE, THUMBNAILS, INDEX = "gallery.html", "thumbnails", "index.jsonl"
SIDE = 320  # pixels; images up to this side need no thumbnail
THREADS = min(4, os.cpu_count() or 1)
OnImage = Callable[[int, int], None]  # how many images are read, of how many


@dataclass(frozen=True)
class Card:
    """What the page shows of one image, or of a line of the prompt file that has none."""

    file: str = ""
    thumbnail: str = ""
    status: str = "done"  # done, failed, invalid
    message: str = ""  # why there is no image
    prompt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    copy: str = ""  # the line of a prompt file that asks for the same image
    size: tuple[int, int] = (0, 0)
    seconds: float | None = None
    similarity: float | None = None  # of image and prompt, to CLIP
    created: str = ""
    line: int = 0

    def to_data(self) -> dict[str, Any]:
        """The entry as plain data for the page, without what is empty."""
        values = asdict(self) | {"file": quote(self.file), "thumbnail": quote(self.thumbnail)}
        values |= {key: values[key].translate(SYMBOLS) for key in ("prompt", "message")}
        return {key: value for key, value in values.items() if value and key != "created"}


@dataclass(frozen=True)
class Gallery:
    """A page that was written, and what it shows."""

    path: Path
    images: int
    failed: int  # images that failed and lines that were skipped
    unread: int  # images without settings, which the page leaves out


def is_gallery(folder: Path) -> bool:
    """Whether a folder has images, or the ledger of a batch. Raises MissingInputError if it is none."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: there is no such folder")
    return (folder / LEDGER_FILE).exists() or bool(_image_names(folder))


def build_gallery(folder: Path, on_image: OnImage = lambda _done, _of: None) -> Gallery:
    """Write gallery.html into a folder of images, and thumbnails beside it; what is there already is kept.

    A batch may be unfinished. Raises OutputError.
    """
    names = _image_names(folder)
    known = _read_index(folder)
    found: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for name, row in zip(
            names, pool.map(lambda name: _index_row(folder, name, known), names), strict=True
        ):
            found[name] = row
            on_image(len(found), len(names))
    overwrite(folder / THUMBNAILS / INDEX, (json.dumps(row).encode() + b"\n" for row in found.values()))
    _remove_old(folder, found)
    entries = _in_order({name: Card(**row["entry"]) for name, row in found.items() if row["entry"]}, folder)
    failed = sum(entry.status != "done" for entry in entries)
    read = len(entries) - failed
    page = render_page(
        Path(__file__).parent,
        "gallery",
        title=folder.resolve().name,
        facts=(f"{read:,} images", f"{failed:,} failed" if failed else ""),
        entries=_as_json(entries),
    )
    overwrite(folder / PAGE, page)
    return Gallery(folder / PAGE, read, failed, len(names) - read)


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as files:
        names = [each.name for each in files if each.name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(name for name in names if not name.startswith("."))


# --- images -----------------------------------------------------------------------------------------------


def _index_row(folder: Path, name: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A line of the index: an image, by its time and size, and its entry, None if it has no settings."""
    status = (folder / name).stat()
    stamp = [status.st_mtime_ns, status.st_size]
    if (row := known.get(name)) and row["stamp"] == stamp:
        thumbnail = row["entry"] and row["entry"]["thumbnail"]
        if not thumbnail or (folder / thumbnail).exists():
            return row
    entry = _read_card(folder, name)
    return {"name": name, "stamp": stamp, "entry": entry and asdict(entry)}


def _read_card(folder: Path, name: str) -> Card | None:
    """The entry of an image, and its thumbnail on the disk; None if it has no settings that can be read."""
    try:
        with Image.open(folder / name) as image:
            if record_text(image) is not None:
                content = parse_content(image, folder / name)
                entry = _of_record(name, content, image.size)
            elif (found := read_foreign(image.info)) is not None:
                entry = _of_job(name, found[1].values, image.size)
            else:
                return None
            thumbnail = f"{THUMBNAILS}/{name}.webp" if max(image.size) > SIDE else ""
            if thumbnail and not _is_newer(folder / thumbnail, folder / name):
                _write_thumbnail(image, folder / thumbnail)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    except (SdappError, LookupError, TypeError, AttributeError):  # its record is broken
        return None
    return Card(**asdict(entry) | {"thumbnail": thumbnail})


def _is_newer(thumbnail: Path, image: Path) -> bool:
    return thumbnail.exists() and thumbnail.stat().st_mtime_ns >= image.stat().st_mtime_ns


def _write_thumbnail(image: Image.Image, path: Path) -> None:
    image.draft("RGB", (SIDE, SIDE))  # decodes a JPEG at the size that is needed
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    small = ImageOps.exif_transpose(image.convert("RGBA" if has_alpha else "RGB"))
    small.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        temporary = unfinished(path.parent)  # so that no thumbnail is half written
        small.save(temporary, "WEBP", quality=82, method=2)
        temporary.replace(path)


def _of_record(name: str, content: Mapping[str, Any], size: tuple[int, int]) -> Card:
    record = content.get("record")
    record = record if isinstance(record, dict) else {}
    entry = _of_job(name, content["job"], size)
    more = {"labels": content.get("labels", {}), "seconds": record.get("seconds")}
    more["similarity"] = record.get("clip_similarity")
    return Card(**asdict(entry) | more | {"created": record.get("created", "")})


def _of_job(name: str, job: Mapping[str, Any], size: tuple[int, int]) -> Card:
    settings = settings_in_words(job)
    if negative := job.get("negative_prompt"):
        settings["negative_prompt"] = negative
    prompt = str(job.get("prompt") or "")
    return Card(name, prompt=prompt, settings=settings, copy=write_line(job), size=size)


# --- order and index --------------------------------------------------------------------------------------


def _in_order(images: Mapping[str, Card], folder: Path) -> list[Card]:
    """All entries in the order of the prompt file, then images of no prompt file in that of their time."""
    lines = [*read_ledger(folder)]
    of_file = {line.file: line for line in lines if line.file}
    placed = [(_sort_key(of_file.get(name), entry), entry) for name, entry in images.items()]
    for line in lines:
        if line.status != "done":
            placed.append((_sort_key(line, entry := _of_failure(line)), entry))
    return [
        Card(**asdict(entry) | {"line": place[2]})
        for place, entry in sorted(placed, key=lambda each: each[0])
    ]


def _sort_key(line: Line | None, entry: Card) -> tuple[bool, str, int, str, str]:
    if line is None or not line.prompt_line:
        return True, "", 0, entry.created, entry.file
    return False, line.prompt_files[0] if line.prompt_files else "", line.prompt_line, "", entry.file


def _of_failure(line: Line) -> Card:
    """What is known of an image that failed, or of a line that was skipped."""
    settings = {"seed": str(line.seed)} if line.seed is not None else {}
    return Card(
        status="invalid" if line.status == "invalid" else "failed",  # also what was flagged
        message=line.error or "the reason is unknown",
        prompt=line.prompt or "",
        settings=settings,
    )


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of the index by the names of the images; nothing if it is missing or broken."""
    try:
        rows = [json.loads(line) for line in (folder / THUMBNAILS / INDEX).read_bytes().splitlines()]
        rows = [row for row in rows if row["entry"] is None or Card(**row["entry"])]
        return {row["name"]: row for row in rows if row["stamp"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remove_old(folder: Path, found: Mapping[str, Any]) -> None:
    """Remove the thumbnails of images that are gone."""
    for path in (folder / THUMBNAILS).glob("*.webp"):
        if path.name.removesuffix(".webp") not in found:
            path.unlink(missing_ok=True)


def _as_json(entries: list[Card]) -> Iterator[Markup]:
    """The entries as the JSON of a script element, part by part."""
    yield Markup("[")
    for number, entry in enumerate(entries):
        text = json.dumps(entry.to_data(), separators=(",", ":")).replace("<", "\\u003c")
        yield Markup(f"{',' if number else ''}{text}\n")
    yield Markup("]")
