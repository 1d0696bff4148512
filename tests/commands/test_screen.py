"""What a terminal shows at the end, with stdout and stderr on it, as pyte renders it."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import pyte
import pytest

ROWS = 12  # so that the screen scrolls
# One process for several commands: most of the time of each goes into the import of torch.
ALL = """
import sys
from sdapp.cli import app
for line in sys.argv[1:]:
    try:
        app(line.split("|"))
    except SystemExit as end:
        print("exit code", end.code)
"""
KNOWS = (
    "It knows the words of its small world (in its MODEL_CARD.md); for anything else use a real checkpoint"
)
FOUND = "* an image; the slowest, of line 2, took * s; images and ledger.jsonl are in night"
SIZE = "time and disk unknown: nothing like it was painted on this machine before"
STOPPING = "note: stopping after this step; press Ctrl-C again to stop now"
AGAIN = "run the same command again to continue"
COMPARED = """\
comparison/report.html
comparison/grid.png
comparison/results.csv
at 1 UNet calls, by median solver error:
     scheduler                solver error      seconds
  1  ddim                     *            *
     dpm++3m-sde-exponential  stochastic        *
Smallest error: ddim at 1 UNet calls; *judge it by eye.
exit code 0
"""
NAME = "a-cyberpunk-cat-on-a-red-beach-at-sunset-by-a-tree-in-the-snow"
# Each command, and the lines that it prints.
COMMANDS = {
    f"generate|{NAME.replace('-', ' ')}|--seed|7|--count|2|--steps|2": f"""\
note: postcards does not know: cyberpunk. {KNOWS}: --model stable-diffusion-v1-5/stable-diffusion-v1-5
outputs/{NAME}-7.png
outputs/{NAME}-8.png
exit code 0
""",
    "img2img|house.png|a cat|--seed|7|--steps|4|--strength|0.5": """\
note: 2 of 4 steps run at strength 0.5
outputs/a-cat-7.png
exit code 0
""",
    "inpaint|house.png|mask.png|a cat|--seed|8|--steps|2": """\
outputs/a-cat-8.png
exit code 0
""",
    "batch|prompts.txt|--seed|7|--steps|2|--out|night|--set|output.name={prompt}": f"""\
note: 3 images: 0 done, 0 failed before, 3 to paint with 7 UNet calls; a few seconds, * free
night/a-cat.png
night/a-red-ship.png
note: 2 done, 1 failed in * s, {FOUND}
error: 1 of 3 images failed; night/ledger.jsonl says why; --retry-failed tries them again
exit code 3
""",
    "replay|outputs/a-cat-8.png|none.png|--out|again": """\
note: left out: image: cannot read none.png: No such file or directory
again/a-cat-8.png
error: 1 of 2 images could not be read:
error: image: cannot read none.png: No such file or directory
exit code 3
""",
    "replay|--verify|outputs/a-cat-8.png": """\
outputs/a-cat-8.png: largest difference 0 of 255
exit code 0
""",
    "compare|{LONG}|--schedulers|ddim,dpm++3m-sde-exponential|--steps|1|--seeds|1|--set|"
    "compare.references=[dpm++2m@4,heun@2]|--set|prompt_syntax=plain": f"""\
note: 2 cells and 2 reference images: 4 images, 0 done, 4 to paint with 9 UNet calls; {SIZE}; contact sheet of ???x???
note: prompt: the text encoder reads 77 tokens; not read: '*'
{COMPARED}""",
    "report|comparison": COMPARED,
    "generate|a cat|--steps|0": """\
error: --steps: must be 1 or more, not 0
exit code 2
""",
}


class Terminal(pyte.HistoryScreen):
    """A screen with the rows that have scrolled off it; it can show sixels, as it says when it is asked."""

    def report_device_attributes(self, mode: int = 0, **_: object) -> None:
        self.write_process_input("\x1b[?62;4c" if not mode else "")

    def rows(self) -> list[str]:
        """All rows, as wide as the screen, without the empty ones at the end."""
        gone = ["".join(row[i].data for i in range(self.columns)) for row in self.history.top]
        return [row + "\n" for row in "\n".join([*gone, *self.display]).rstrip().split("\n")]


class PlainTerminal(Terminal):
    """A screen that can show no images."""

    def report_device_attributes(self, mode: int = 0, **_: object) -> None:
        self.write_process_input("\x1b[?62c" if not mode else "")


def assert_lines(screen: Terminal, lines: list[str]) -> None:
    """Each line begins a row, and goes on in the rows below it if it is wider; `*` is any text."""
    rows = [row[:-1] for row in screen.rows()]
    for line in lines:
        taken = next(
            (k for k in range(1, 20) if fnmatchcase("".join(rows[:k]).rstrip(), line.replace("[", "[[]"))),
            None,
        )
        assert taken, "\n".join([f"expected: {line}", "shown:", *rows])
        del rows[:taken]
    assert not rows


def read_soon(terminal: int, run: subprocess.Popen[bytes]) -> bytes:
    """Read what is written next; stop a command that writes nothing for two minutes."""
    if not select.select([terminal], [], [], 120)[0]:
        run.kill()
    return os.read(terminal, 4096)


def show(
    folder: Path,
    *command: str,
    columns: int,
    typed: tuple[str | tuple[str, str | Callable[[], str]], ...] = (),
    kind: type[Terminal] = Terminal,
) -> tuple[Terminal, str, int]:
    """Run a command on a terminal; when each text of `typed` is on it, press Ctrl-C, or the keys beside the text.

    Returns the screen, all that was written to it, and the exit code.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    without_size = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    environment = without_size | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
        "TERM": "xterm-256color",
    }
    screen, written = kind(columns, ROWS, history=1000), b""
    unseen = b""
    waiting = [each if isinstance(each, tuple) else (each, "\x03") for each in typed]
    screen.write_process_input = lambda data: os.write(ours, data.encode())
    stream = pyte.ByteStream(screen)
    run = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C is a signal to it
    )
    os.close(theirs)
    with suppress(OSError):  # a terminal ends so when its last writer is gone
        while chunk := read_soon(ours, run):
            written += chunk
            unseen += chunk
            # pyte takes sixels for text.
            *seen, unseen = re.split(rb"\x1bP.*?\x1b\\", unseen, flags=re.DOTALL)
            if b"\x1bP" not in unseen:
                seen, unseen = [*seen, unseen], b""
            stream.feed(b"".join(seen))
            if waiting and waiting[0][0] in "\n".join(screen.display):
                keys = waiting.pop(0)[1]
                os.write(ours, (keys() if callable(keys) else keys).encode())
    os.close(ours)
    code = run.wait()
    assert (waiting, screen.cursor.hidden, screen.cursor.x) == ([], False, 0)
    return screen, written.decode(), code


@pytest.mark.parametrize("columns", [80, 40])
def test_each_path_note_and_error_is_a_line_of_its_own(columns: int, house: Path, mask: Path) -> None:
    (house.parent / "prompts.txt").write_text(
        "a cat\na red ship --steps 3\na cat --scheduler unipc --set scheduler.options.solver_type=other\n"
    )
    commands = [line.replace("{LONG}", "a red cat " + "and a blue ship " * 30) for line in COMMANDS]
    screen, written, _ = show(house.parent, "-c", ALL, *commands, columns=columns)
    assert_lines(screen, "".join(COMMANDS.values()).splitlines())
    for text in ("loading postcards", "image 1 of 1", "step 2/2"):
        assert text in written


@pytest.mark.parametrize(
    ("command", "columns", "typed", "lines"),
    [
        ("generate|a cat|--steps|900", 80, ("step",), [STOPPING, "stopped: 0 done, 1 left"]),
        (
            "batch|cats.txt|--steps|900|--size|320x320|--out|night",
            40,
            ("step ", "to stop"),
            [
                "note: line 1: 320x320 * smaller",
                f"note: 1 image: * {SIZE}",
                STOPPING,
                f"stopped: 0 done, 1 left; {AGAIN}",
            ],
        ),
        ("generate|a cat|--count|2", 40, ("loading",), ["stopped: 0 done, 2 left"]),
        (
            "batch|-",
            80,
            ("Ctrl-D",),
            [
                "note: reading prompts from the terminal; Ctrl-D ends them",
                f"stopped: 0 done, 0 left; {AGAIN}",
            ],
        ),
    ],
    ids=["once", "twice", "loading", "before"],
)
def test_ctrl_c_leaves_a_clean_screen(
    command: str, columns: int, typed: tuple[str, ...], lines: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cats.txt").write_text("a cat\n")
    screen, _, code = show(tmp_path, "-m", "sdapp.cli", *command.split("|"), columns=columns, typed=typed)
    assert_lines(screen, lines)
    assert code == 130


def test_the_shell_paints_shows_and_survives_ctrl_c(tmp_path: Path) -> None:
    typed = (
        ("is loaded", "a red house --seed 7 --steps 2\r"),
        ("a-red-house-7.png", "/set steps=900\r"),
        ("/set steps=900", "a ship\r"),
        ("/900 ", "\x03"),
        ("stopped: 0 done, 1 left", "/set steps=0\r"),
        ("error: /set steps=0: must be 1 or more", "/set steps 3\r"),
        ("such as /set steps=30", "/set model=nofile\r"),
        ("no folder or file nofile", "/unset steps\r"),
        ("/unset steps", "/compare ddim, unipc\r"),
        ("a-red-house-7-unipc.png", "a cat --stepz 3\r"),
        ("column 7: --stepz: unknown option", "exit\r"),
    )
    screen, written, code = show(tmp_path, "-m", "sdapp.cli", "shell", columns=100, typed=typed)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == [
        "a-red-house-7-ddim.png", "a-red-house-7-unipc.png", "a-red-house-7.png",
    ]  # fmt: skip
    assert written.count("\x1bP") == 3  # each image is shown, as sixels
    assert "+a red house --seed 7 --steps 2" in (tmp_path / "state" / "sdapp" / "shell_history").read_text()
    assert not screen.cursor.hidden


def test_a_terminal_that_shows_no_images_is_told_of_the_file(tmp_path: Path) -> None:
    typed = (
        ("is loaded", "a red house --seed 7 --steps 2\r"),
        ("a-red-house-7.png", "/show\r"),
        ("this terminal shows no images; the file is outputs/a-red-house-7.png", "exit\r"),
    )
    *_, code = show(tmp_path, "-m", "sdapp.cli", "shell", columns=100, typed=typed, kind=PlainTerminal)
    assert code == 0


def test_lines_are_painted_as_they_are_typed_and_errors_are_told_at_once(tmp_path: Path) -> None:
    typed = (
        ("Ctrl-D ends them", "a cat --seed 1\r"),
        ("night/a-cat-1.png", "a ship --stepz 3\r"),
        ("<stdin>:2:8: --stepz: unknown option", "a tree --seed 2\ra cat --seed 1\r"),
        ("night/a-tree-2.png", "\x04"),
    )
    command = ["batch", "-", "--steps", "2", "--out", "night", "--set", "output.name={prompt}-{seed}"]
    _, written, code = show(tmp_path, "-m", "sdapp.cli", *command, columns=100, typed=typed)
    assert code == 3
    assert "1 image done before" in written
    assert "error: 1 error in lines, which were left out" in written
    ledger = [json.loads(line) for line in (tmp_path / "night" / "ledger.jsonl").read_text().splitlines()]
    assert [(line["prompt_line"], line["status"]) for line in ledger] == [(1, "done"), (3, "done")]


def test_a_watched_file_is_painted_each_time_it_is_saved(tmp_path: Path) -> None:
    file = tmp_path / "ideas.txt"
    file.write_text("a cat --seed 1\n")

    def save(text: str) -> str:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(file)  # as editors do
        return ""

    typed = (
        ("waiting until ideas.txt is saved", lambda: save("a cat --seed 1\na ship --seed 1 --steps 0\n")),
        ("ideas.txt:2:17: steps: must be 1 or more", lambda: save("a tree --seed 1\na cat --seed 1\n")),
        ("night/a-tree-1.png", "\x03"),
    )
    command = [
        "batch",
        "ideas.txt",
        "--watch",
        "--steps",
        "2",
        "--out",
        "night",
        "--set",
        "output.name={prompt}-{seed}",
    ]
    _, written, code = show(tmp_path, "-m", "sdapp.cli", *command, columns=100, typed=typed)
    assert code == 130
    assert "loading" not in written.partition("night/a-cat-1.png")[2]
    assert sorted(path.name for path in (tmp_path / "night").glob("*.png")) == ["a-cat-1.png", "a-tree-1.png"]
