"""How much memory a script takes, in a process of its own."""

import subprocess
import sys
from pathlib import Path

LINUX = sys.platform == "linux"
TELL = """
import pathlib, re
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


def peak_memory(code: str, folder: Path) -> int:
    """The most memory in bytes that `code` has, run in `folder`. getrusage would count the tests' own, too."""
    run = subprocess.run(
        [sys.executable, "-c", code + TELL], cwd=folder, check=True, capture_output=True, text=True
    )
    return int(run.stdout.splitlines()[-1]) * 1024
