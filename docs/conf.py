"""The site: `make docs` builds it into build/docs."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference  # noqa: E402 - beside this file

from sdapp import __version__  # noqa: E402

reference.write(HERE / "reference")

REPOSITORY = "https://github.com/sdapp/sdapp"
project, release = "sdapp", __version__
copyright = "the sdapp authors, Apache-2.0"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
smartquotes = False  # they make one dash of --config
html_title = f"sdapp {__version__}"
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}


def _link_to_repository(_app: Any, _page: str, source: list[str]) -> None:
    """Let links out of docs/ lead to the repository."""
    source[0] = re.sub(r"\]\(\.\./", f"]({REPOSITORY}/blob/main/", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", _link_to_repository)
