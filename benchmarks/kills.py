"""Kill a batch again and again, at every point of publishing: python benchmarks/kills.py [--kills 500]
[--together 2] [--upscale 1.25]

Each run is a fork that runs the real command and is killed by SIGKILL at a random point; the next run
continues. At the end the folder is compared with that of a run without kills.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

import sdapp.cli
import sdapp.diffusion.loading
from sdapp.batches.ledger import LEDGER_FILE
from sdapp.metadata.record import read_image

COLOURS = ("red", "blue", "white", "black", "green")
THINGS = ("cat", "house", "ship", "tree", "boat")
BEGUN = "begun"  # a dot for each image that a run began: the first call of the UNet for it
CELLS = 16  # the side of an image in latents before it is upscaled
Arguments = tuple[Any, ...]


def _on_audit(event: str, matches: Callable[[Arguments], bool]) -> Callable[[Callable[[], None]], None]:
    """Call back at the n-th event of the interpreter that matches."""

    def install(hit: Callable[[], None]) -> None:
        def hook(name: str, arguments: Arguments) -> None:
            if name == event and matches(arguments):
                hit()

        sys.addaudithook(hook)

    return install


def _around(name: str, after: bool, ending: str = "") -> Callable[[Callable[[], None]], None]:
    """Call back before or after a function of `os`, whose last path ends so."""

    def install(hit: Callable[[], None]) -> None:
        original = getattr(os, name)

        def wrapped(*arguments: Any) -> None:
            counts = str(arguments[-1]).endswith(ending)
            if counts and not after:
                hit()
            original(*arguments)
            if counts and after:
                hit()

        setattr(os, name, wrapped)

    return install


POINTS: dict[str, Callable[[Callable[[], None]], None]] = {
    "the lease is taken": _around("link", after=True, ending=".lease"),
    "before the temporary file": _on_audit(
        "open", lambda call: str(call[0]).endswith(".part") and call[1] == "x"
    ),
    "before fsync": _around("fsync", after=False),
    "after fsync": _around("fsync", after=True),
    "before the image has its name": _around("link", after=False, ending=".png"),
    "after the image has its name": _around("link", after=True, ending=".png"),
    "before the ledger": _on_audit(
        "open", lambda call: str(call[0]).endswith(LEDGER_FILE) and bool(call[2] & os.O_APPEND)
    ),
    "before the lease is given back": _on_audit("os.remove", lambda call: str(call[0]).endswith(".lease")),
}


def run(folder: Path, point: str | None, nth: int, more: list[str]) -> int:
    """Fork a run of `sdapp batch`; gives its process.

    It dies at the n-th passing of the point; after n × 10 ms at none.
    """
    if process := os.fork():
        return process
    torch.set_num_threads(1)  # or several runs wait for each other's threads most of the time
    os.chdir(folder)
    log = open_to_append("log")
    for stream in (1, 2):
        os.dup2(log, stream)
    note_begun_images()
    if point in POINTS:
        POINTS[point](killer(nth))
    elif point:
        threading.Timer(nth * 0.01, os.kill, (os.getpid(), signal.SIGKILL)).start()
    command = "batch prompts.txt --out night --seed 7 --set steps=1 --set batch_size=1"
    try:
        sdapp.cli.app([*command.split(), *more])
    except SystemExit as exc:
        os._exit(exc.code if isinstance(exc.code, int) else 1)
    finally:
        os._exit(70)


def open_to_append(name: str) -> int:
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note_begun_images() -> None:
    """Write a dot into the file BEGUN whenever the UNet is called for an image that is not upscaled yet."""
    begun = open_to_append(BEGUN)

    def count(module: object, arguments: Arguments) -> None:
        if isinstance(module, UNet2DConditionModel) and arguments[0].shape[-1] == CELLS:
            os.write(begun, b".")

    register_module_forward_pre_hook(count)


def killer(nth: int) -> Callable[[], None]:
    """A function that kills this process when it is called for the n-th time."""
    calls = itertools.count(1)

    def hit() -> None:
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return hit


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def begin(root: Path, name: str, jobs: int) -> Path:
    folder = root / name
    folder.mkdir()
    lines = [f"a {COLOURS[i % 5]} {THINGS[i // 5 % 5]} {i // 25}" for i in range(jobs)]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n")
    return folder


def check(folder: Path, calm: Path, kills: int) -> int:
    """See that a folder is what an undisturbed run left; gives how many images were begun more than once."""
    names, those = ({path.name for path in (place / "night").iterdir()} for place in (folder, calm))
    assert names == those, f"other files than those of an undisturbed run: {sorted(names ^ those)}"
    for path in (folder / "night").glob("*.png"):
        other = calm / "night" / path.name
        assert read_image(path)["job"] == read_image(other)["job"], f"{path.name}: another job"
        apart = np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(other))).max()
        assert apart <= 2, f"{path.name}: {apart} of 255 apart"
    ledgers = [
        [json.loads(line) for line in (place / "night" / LEDGER_FILE).read_text().splitlines()]
        for place in (folder, calm)
    ]
    facts = [[(row["id"], row["file"], row["status"]) for row in rows] for rows in ledgers]
    assert facts[0] == facts[1], "another ledger"
    again = (folder / BEGUN).stat().st_size - len(facts[1])
    assert 0 <= again <= kills, f"{again} images begun again after {kills} kills"
    return again


def main(kills: int, jobs: int, together: int, seed: int, upscale: float) -> None:
    again_larger = f"upscale={{scale: {upscale:g}, steps: 2, strength: 0.5}}"
    more = ["--set", again_larger] if upscale > 1 else []
    chance, died, again, started = random.Random(seed), Counter[str](), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = temporary  # nothing to learn here about this machine
        calm = begin(root, "calm", jobs)
        assert ended(run(calm, None, 0, more)) == 0
        rounds = 0
        while not rounds or died.total() < kills:
            rounds += 1
            folder, before = begin(root, f"round-{rounds}", jobs), died.total()
            while True:
                points = [
                    chance.choice([*POINTS, "at a random time"]) if died.total() < kills else None
                    for _ in range(together)
                ]
                runs = [
                    run(folder, point, chance.randint(1, 2 * jobs // max(1, min(kills, jobs))), more)
                    for point in points
                ]
                codes = [ended(process) for process in runs]
                assert set(codes) <= {0, -signal.SIGKILL}, (folder / "log").read_text()[-2000:]
                died.update(str(point) for point, code in zip(points, codes, strict=True) if code)
                for path in (folder / "night").glob("*.png") if (folder / "night").exists() else ():
                    read_image(path)  # under its name every image is whole
                if not any(codes):  # after one that died last, another clears up
                    break
            again += check(folder, calm, died.total() - before)
            shutil.rmtree(folder)
            print(f"round {rounds}: {died.total()} kills, {again} images begun again", flush=True)
    print(f"{died.total()} kills in {rounds} rounds of {jobs} images, {together} runs at a time")
    print("every image is there, none twice, none broken, all as in an undisturbed run")
    print(f"{again} images begun again, {time.perf_counter() - started:.0f} s")
    for point, count in died.most_common():
        print(f"  {count:4} {point}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, default in (("kills", 500), ("jobs", 200), ("together", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--upscale", type=float, default=1.0, help="enlarge each image so, in a second pass")
    main(**vars(parser.parse_args()))
