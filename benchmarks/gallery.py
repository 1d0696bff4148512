"""Measure the gallery of many images in Chromium: python benchmarks/gallery.py [--images 10000] [--side 512]

Makes a folder of images with real records, builds the page twice, and prints how long that took, when the
page could be used, and how long the frames took while the list was scrolled.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from made_batches import make_batch
from sdapp.gallery.gallery import build_gallery

SCROLL = """
    async () => {
        const main = document.querySelector("main"), times = [], empty = [];
        let last = performance.now();
        for (let frame = 0; frame < 240; frame++) {
            main.scrollTop += frame < 120 ? 60 : main.scrollHeight / 150;  // slowly, then in jumps
            await new Promise(requestAnimationFrame);
            const now = performance.now();
            times.push(now - last);
            last = now;
            empty.push(document.querySelectorAll(".tile").length);
        }
        times.sort((a, b) => a - b);
        return {median: times[120], p95: times[228], worst: times[239], tiles: Math.max(...empty)};
    }
"""


def write_prompts(path: Path, images: int) -> None:
    chance = random.Random(0)
    things = ("house", "cat", "ship", "tree", "castle", "hot-air balloon")
    colours = ("red", "blue", "white", "black", "green", "orange")
    places = ("on a beach at sunset", "in a meadow by day", "on the ocean", "in the mountains at night")
    lines = (
        f"a {chance.choice(colours)} {chance.choice(things)} {chance.choice(places)} --seed {number} "
        f"--steps {chance.choice((10, 20, 30))} --cfg_scale {chance.choice((3, 5, 7.5))}"
        for number in range(images)
    )
    path.write_text("\n".join(lines) + "\n")


def timed(folder: Path, title: str) -> None:
    begun = time.perf_counter()
    build_gallery(folder)
    print(f"{title}: {time.perf_counter() - begun:.1f} s", flush=True)


def main(images: int, side: int) -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        root = Path(temporary)
        write_prompts(root / "prompts.txt", images)
        make_batch(root / "prompts.txt", root / "night", side, failing=range(50, images, 100))
        timed(root / "night", f"the first page of {images:,} images of {side} × {side}")
        timed(root / "night", "the second page")
        size = (root / "night" / "gallery.html").stat().st_size
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        begun = time.perf_counter()
        page.goto((root / "night" / "gallery.html").as_uri())
        page.wait_for_function("[...document.querySelectorAll('.tile img[src]')].some((one) => one.complete)")
        print(f"page of {size / 1e6:.1f} MB: images on the screen after {time.perf_counter() - begun:.2f} s")
        frames = page.evaluate(SCROLL)
        print(
            f"frames while scrolling: median {frames['median']:.0f} ms, 95 % below {frames['p95']:.0f} ms, "
            f"worst {frames['worst']:.0f} ms; at most {frames['tiles']} tiles in the page"
        )
        begun = time.perf_counter()
        page.locator("#words").fill("blue castle night")
        page.evaluate("() => new Promise(requestAnimationFrame)")
        print(f"a filter: {time.perf_counter() - begun:.2f} s; {page.locator('#count').inner_text()}")
        browser.close()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, default in (("images", 10_000), ("side", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
