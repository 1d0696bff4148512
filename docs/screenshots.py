"""Make the images of docs/compare.md from its comparison: python docs/screenshots.py comparison docs"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SCREENS = {"desk": (1280, 800), "phone": (390, 844)}

folder, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
Image.open(folder / "grid.png").crop((0, 0, 905, 1080)).save(out / "grid.png", optimize=True)
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
            page.goto((folder / "report.html").as_uri())
            page.screenshot(path=out / f"report-{screen}-{scheme}.png")
            if (screen, scheme) == ("desk", "light"):
                page.locator("#grid .cell").first.click()
                page.keyboard.press("s")
                page.wait_for_timeout(300)
                page.screenshot(path=out / f"viewer-{screen}-{scheme}.png")
            page.close()
    browser.close()
