"""A real browser for the pages: opened from the disk, with the network cut off, and checked by axe-core.

Needs Chromium and playwright; axe-core is looked for in node_modules (npm install axe-core) or at SDAPP_AXE.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NOTE_VIOLATIONS = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
Open = Callable[..., Any]
SCREENS: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None  # type: ignore[assignment]
    if not chromium or not sync_playwright:
        lacking = (
            "Chromium (apt-get install chromium)"
            if sync_playwright
            else "playwright (pip install playwright)"
        )
        assert "SDAPP_REQUIRE_BROWSER" not in os.environ, (
            f"SDAPP_REQUIRE_BROWSER is set, and there is no {lacking}"
        )
        pytest.skip(f"there is no {lacking}")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a report; at the end nothing may have asked for the network, complained, or broken the policy."""
    complaints: list[str] = []
    pages = []

    def refuse(route: Any) -> None:
        complaints.append(f"asked for {route.request.url}")
        route.abort()

    def go(path: Path, quiet: bool = True, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_offline(True)
        context.route(lambda url: url.startswith(("http:", "https:", "ws:", "wss:")), refuse)
        context.add_init_script(NOTE_VIOLATIONS)
        page = context.new_page()
        if quiet:
            page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        pages.append(page)
        page.goto(path.as_uri())
        return page

    yield go
    for page in pages:
        complaints += page.evaluate("window.violations ?? []")
        page.context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core, which is not part of this project."""
    root = Path(__file__).parent.parent
    path = Path(os.environ.get("SDAPP_AXE", root / "node_modules" / "axe-core" / "axe.min.js"))
    if not path.is_file():
        pytest.skip(f"there is no {path}: npm install axe-core")
    return path.read_text(encoding="utf-8")


def findings(page: Any, axe: str) -> list[str]:
    """What axe-core finds on a page; it must have looked at something."""
    page.evaluate(axe)
    result = page.evaluate("axe.run(document)")
    assert len(result["passes"]) > 10
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in result["violations"]]
