"""Measure how two commands that compute at once slow each other down: python benchmarks/together.py

One `sdapp generate`, and two at once, on the CPU: with the time that OpenMP lets its threads wait busily for
each other (GOMP_SPINCOUNT 300000), and with that of sdapp.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from sides import flags, in_turns, report, rounds, settings, tell_machine

OPENMP, OURS = {"GOMP_SPINCOUNT": "300000"}, {}


def side(commands: int, environment: dict[str, str], arguments: list[str], where: Path) -> None:
    """Run so many commands at once, each in a folder of its own."""
    command = [sys.executable, "-m", "sdapp", "generate", "a red house on a beach", "--out", "."]
    running = []
    for number in range(commands):
        (folder := where / str(number)).mkdir()
        running.append(
            subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env=os.environ | environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    if any(process.wait() for process in running):
        sys.exit("a command failed")


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"steps": asked.steps}
    arguments = ["--count", str(asked.count), "--device", "cpu"]
    for key in ("model", "dtype", "steps"):
        arguments += [f"--{key}", str(both[key])]
    arguments += ["--size", f"{both['width']}x{both['height']}"]
    with tempfile.TemporaryDirectory() as temporary:
        sides = {
            f"{name}, {wait}": partial(side, commands, environment, arguments)
            for commands, name in ((1, "one"), (2, "two at once"))
            for wait, environment in (("OpenMP's wait", OPENMP), ("sdapp's wait", OURS))
        }
        report(in_turns(sides, asked.rounds, Path(temporary)))
    tell_machine(both)


if __name__ == "__main__":
    parser = flags(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=6)
    rounds(parser, default=2)
    main(parser.parse_args())
