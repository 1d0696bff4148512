"""HTML pages that work from the disk without a network: templates, style, script and policy."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

SHARED = Path(__file__).parent
# Control characters are invisible; these symbols stand for them.
SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


@dataclass(frozen=True)
class Inline:
    """The style and the script inside a page, and their hashes for its content security policy."""

    style: Markup  # from this package, without any text of the user
    script: Markup

    @property
    def style_hash(self) -> str:
        return _hash(self.style)

    @property
    def script_hash(self) -> str:
        return _hash(self.script)


def render_page(
    folder: Path, name: str, shared: tuple[str, ...] = ("page",), **values: Any
) -> Iterator[bytes]:
    """Yield the parts of a page: `name`.html.jinja in a folder, with `name`.css and `name`.js beside it.

    They come after the `shared` styles and scripts of this folder.
    """
    loader = FileSystemLoader([folder, SHARED])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = lambda text: str(text).translate(SYMBOLS)
    style, script = (
        Markup(
            "".join(
                path.read_text(encoding="utf-8")
                for path in (*(SHARED / f"{each}.{kind}" for each in shared), folder / f"{name}.{kind}")
            )
        )
        for kind in ("css", "js")
    )
    parts = environment.get_template(f"{name}.html.jinja").generate(inline=Inline(style, script), **values)
    return (part.encode() for part in parts)


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
