"""How long `sdapp --help` takes beside `diffusers-cli --help`: python benchmarks/help.py [RUNS]"""

import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

BIN = Path(sys.executable).parent
COMMANDS = {"sdapp --help": [str(BIN / "sdapp"), "--help"], "diffusers-cli --help": [str(BIN / "diffusers-cli"), "--help"]}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main(runs: int) -> None:
    for command in COMMANDS.values():
        seconds(command)  # warm the page cache
    # One after the other, in turn, so that a slow moment of the machine falls on both.
    taken = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    medians = [statistics.median(times) for times in taken.values()]
    for (name, times), median in zip(taken.items(), medians, strict=True):
        print(f"{name:<24}{median:7.2f} s   ({min(times):.2f} to {max(times):.2f})")
    print(f"{'ratio':<24}{medians[0] / medians[1]:7.2f}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, diffusers {version('diffusers')}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
