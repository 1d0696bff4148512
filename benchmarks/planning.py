"""Time the dry run of a prompt file, which plans each line: python benchmarks/planning.py [--lines 100000]"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sides import prompt_file, settings, tell_machine


def main(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = prompt_file(Path(folder) / "prompts.txt", asked.lines)
        command = [sys.executable, "-m", "sdapp", "batch", str(file), "--out", folder, "--dry-run"]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.perf_counter() - started
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    each = f"{1000 * spent / asked.lines:.2f} ms of processor time each"
    print(f"{asked.lines:,} lines with a prompt and a seed in {wall:.1f} s, {each}")
    tell_machine(settings(argparse.Namespace(model="postcards", device="cpu", dtype="float32", size=64)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    main(parser.parse_args())
