"""Record the terminal of the README, a real run of sdapp on a pty: python docs/record.py docs/terminal.svg

Waits are shortened, nothing else. Needs Linux or macOS, and the `dev` packages.
"""

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

COLUMNS, LINES = 96, 20
CELL, LINE, MARGIN = 8.4, 19, 14  # pixels
SHORTEST, LONGEST, LAST = 0.08, 0.2, 5.0  # seconds that a frame is shown
COMMANDS = (  # and after how many lines of output each is interrupted
    ('sdapp generate "a red house on a beach at sunset" --seed 7', None),
    ("sdapp batch prompts.txt --out night --seed 1", 4),
    ("sdapp batch prompts.txt --out night --seed 1", None),
)
PROMPTS = """\
a red house on a beach at sunset
a {white|black} cat in a meadow by day --count 3
{all:a castle|a tree} in the mountains at night --scheduler "euler a"
"""
COLORS = {"green": "#2e8b57", "red": "#d0473e", "blue": "#3f7fd0", "cyan": "#2a8f9d", "magenta": "#b0569e"}
STYLE = """\
.page { fill: #f6f8fa; stroke: #d0d7de } text { fill: #1f2328; white-space: pre }
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
.b { font-weight: bold }
@media (prefers-color-scheme: dark) { .page { fill: #161b22; stroke: #3d444d } text { fill: #e6edf3 } }
@media (prefers-reduced-motion: reduce) { .film { animation: none !important } }
"""
Frame = tuple[float, tuple[str, ...]]  # the time at which it comes, and its lines as SVG


def main(out: Path) -> None:
    """Run the commands in an empty folder and write their recording."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
        frames: list[Frame] = []
        for data in played(Path(folder)):
            stream.feed(data)
            lines = drawn(screen)
            if not frames or frames[-1][1] != lines:
                frames.append((time.monotonic(), lines))
    out.write_text(svg(frames), encoding="utf-8")


def played(folder: Path) -> Iterator[bytes]:
    """What the terminal gets: the commands as they are typed, and their output."""
    for command, until in COMMANDS:
        yield b"\x1b[1m$\x1b[0m "
        for letter in command:
            time.sleep(0.02)
            yield letter.encode()
        yield b"\r\n"
        yield from output(command, folder, until)
    yield b"\x1b[1m$\x1b[0m "


def output(command: str, folder: Path, until: int | None) -> Iterator[bytes]:
    """Run a command on a pty; press Ctrl-C after `until` lines that name an image."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )  # fmt: skip
    os.close(slave)
    images, pressed = 0, False
    while True:
        ready, _, _ = select.select([master], [], [], 0.1)
        try:
            data = os.read(master, 65536) if ready else b""
        except OSError:  # of Linux, when the last program closes the terminal
            break
        if ready and not data:
            break
        images += data.count(b".png")
        if data:
            yield data
        if until is not None and images >= until and not pressed:
            pressed = True
            os.killpg(process.pid, signal.SIGINT)
            yield b"^C"
    process.wait()
    os.close(master)


def drawn(screen: pyte.Screen) -> tuple[str, ...]:
    """Each line of the screen as SVG text, one element for each run of equal style."""
    lines = []
    for row in range(LINES):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        if row == screen.cursor.y and not screen.cursor.hidden and screen.cursor.x < COLUMNS:
            cells[screen.cursor.x] = cells[screen.cursor.x]._replace(data="▌")
        parts, column = [], 0
        for (color, bold), run in groupby(cells, lambda cell: (cell.fg, cell.bold)):
            text = "".join(cell.data for cell in run)
            if text.strip():
                fill = COLORS.get(color, f"#{color}" if len(color) == 6 and color != "yellow" else "")
                style = (' class="b"' if bold else "") + (f' style="fill:{fill}"' if fill else "")
                place = f'x="{column * CELL:.1f}" textLength="{len(text) * CELL:.1f}"'
                parts.append(f"<text {place}{style}>{escape(text)}</text>")
            column += len(text)
        lines.append("".join(parts))
    return tuple(lines)


def svg(frames: list[Frame]) -> str:
    """An SVG that shows the frames one after the other, for ever; the last one where motion is not wanted."""
    ends = [time_of for time_of, _ in frames[1:]]
    shown = [min(LONGEST, end - begin) for (begin, _), end in zip(frames, ends, strict=False)] + [LAST]
    kept: list[Frame] = []  # none shorter than the eye sees
    clock, since = 0.0, 0.0
    for (_, lines), seconds in zip(frames, shown, strict=True):
        since += seconds
        if since >= SHORTEST:
            kept.append((clock, lines))
            clock, since = clock + since, 0.0
    height = LINES * LINE + 2 * MARGIN
    rows = {
        line: number for number, line in enumerate(dict.fromkeys(line for _, lines in kept for line in lines))
    }
    symbols = "\n".join(f'<g id="r{number}">{line}</g>' for line, number in rows.items() if line)
    film, steps = [], []
    for number, (begin, lines) in enumerate(kept):
        places = ((number * height + MARGIN + (row + 0.75) * LINE, line) for row, line in enumerate(lines))
        film += [f'<use href="#r{rows[line]}" y="{place:.1f}"/>' for place, line in places if line]
        steps.append(f"{begin / clock:.3%} {{ transform: translateY({-number * height}px) }}")
    last = f"translateY({-(len(kept) - 1) * height}px)"
    motion = (
        f".film {{ transform: {last}; animation: film {clock:.1f}s step-end infinite }}\n"
        f"@keyframes film {{ {' '.join(steps)} }}"
    )
    width = COLUMNS * CELL + 2 * MARGIN
    box = f'width="{width:.0f}" height="{height}"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width:.0f} {height}" role="img">
<title>sdapp makes an image; a batch is interrupted, and continued by the same command</title>
<style>{STYLE}{motion}</style>
<defs>
{symbols}
</defs>
<rect class="page" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1}" rx="8"/>
<svg x="{MARGIN}" {box} overflow="hidden"><g class="film">
{chr(10).join(film)}
</g></svg>
</svg>
"""


if __name__ == "__main__":
    assert shutil.which("sdapp"), "sdapp is not in PATH"
    main(Path(sys.argv[1]))
