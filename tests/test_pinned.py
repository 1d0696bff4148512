"""Commands and what they made before the package was laid out anew: names, ids, infotext and pixels stay.

`pinned/commands.json` and `pinned/tiles.webp` (one image of each command) were written on 2026-11-24. The tile
of the inpainting with padding was written again on 2026-11-27: since then each latent cell that the mask touches
is painted, and the edges of that mask cut some.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from typer.testing import CliRunner

from sdapp.metadata.record import SUFFIXES, read_header

PINNED = Path(__file__).parent / "pinned"
COMMANDS: list[dict[str, Any]] = json.loads((PINNED / "commands.json").read_text(encoding="utf-8"))
TOLERANCE = 2  # of 255: other processors round otherwise; on the machine that wrote the file it is 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All commands run in one folder, in their order: some take images of those before."""
    from sdapp.cli import app

    folder = tmp_path_factory.mktemp("pinned")
    for file in PINNED.iterdir():
        shutil.copy(file, folder)
    (folder / "tiles.webp").unlink()
    before = Path.cwd()
    os.chdir(folder)
    try:
        for pinned in COMMANDS:
            done = CliRunner().invoke(app, pinned["command"], catch_exceptions=False)
            assert done.exit_code == 0, done.output
        yield folder
    finally:
        os.chdir(before)


def test_nothing_more_and_nothing_less_is_painted(folder: Path) -> None:
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.glob("*/**/*")
        if path.suffix in SUFFIXES.values()
    }
    sheets = {file for file in found if Path(file).name.startswith("grid")}
    assert found - sheets == {file for pinned in COMMANDS for file in pinned["made"]}


@pytest.mark.parametrize("pinned", COMMANDS, ids=lambda pinned: " ".join(pinned["command"])[:60])
def test_ids_infotext_and_pixels_are_those_of_before(pinned: dict[str, Any], folder: Path) -> None:
    for file, before in pinned["made"].items():
        with Image.open(folder / file) as image:
            assert image.info.get("parameters") == before["infotext"]
        assert read_header(folder / file)["record"]["job_id"] == before["id"]
    tile = pinned["tile"]
    (left, top), (width, height) = tile["corner"], tile["size"]
    with Image.open(PINNED / "tiles.webp") as tiles, Image.open(folder / tile["file"]) as image:
        was = tiles.convert("RGB").crop((left, top, left + width, top + height))
        far = max(high for _, high in ImageChops.difference(was, image.convert("RGB")).getextrema())
    assert far <= TOLERANCE
