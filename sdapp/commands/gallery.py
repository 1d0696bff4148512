"""The gallery of `sdapp report`: the images of a folder as one page."""

import json
import webbrowser
from dataclasses import asdict
from pathlib import Path

from sdapp.commands.terminal import bar, count, print_line, print_note
from sdapp.errors import InputError


def report_gallery(folder: Path, as_json: bool) -> Path:
    """Write the gallery of a folder of images, and print its path. Raises InputError for another folder."""
    from sdapp.gallery.gallery import build_gallery, is_gallery

    if not is_gallery(folder):
        raise InputError(
            f"{folder}: has no images, no ledger.jsonl of a batch and no comparison.json; "
            "give the folder of a batch, of a comparison, or of images"
        )
    made = build_gallery(folder, lambda done, of: bar.show("reading images", done, of, f"{done}/{of}"))
    if made.unread:
        print_note(f"{count(made.unread, 'image')} without settings inside left out")
    facts = asdict(made) | {"path": str(made.path)}
    print_line(json.dumps(facts, ensure_ascii=False) if as_json else made.path)
    return made.path


def open_page(path: Path) -> None:
    """Open a page in the browser, or say that there is none."""
    if not webbrowser.open(path.resolve().as_uri()):
        print_note(f"no browser could be started; open {path} in one")
