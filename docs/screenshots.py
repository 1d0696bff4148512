"""Pictures of a report as a visitor first sees it: python docs/screenshots.py outputs/compare/report.html
docs
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SCREENS = {"desk": (1280, 800), "phone": (390, 844)}

report, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
    )
    for screen, (width, height) in SCREENS.items():
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                device_scale_factor=2,
                has_touch=screen == "phone",
            )
            page.goto(report.as_uri())
            page.screenshot(path=out / f"report-{screen}-{scheme}.png")
            page.locator("#grid .cell").first.click()
            page.keyboard.press("s")
            page.wait_for_timeout(300)
            page.screenshot(path=out / f"viewer-{screen}-{scheme}.png")
            page.close()
    browser.close()
