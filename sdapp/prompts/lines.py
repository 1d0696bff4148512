"""Read UTF-8 files line by line, and collect their errors in the order of the lines."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from typing import BinaryIO

from sdapp.errors import ConfigError, without_repeats

MAX_LINE = 1_000_000  # bytes
MAX_SHOWN = 100  # errors
MAX_KEPT = 10_000
BOM = b"\xef\xbb\xbf"
# Control characters except tab, halves of surrogate pairs, and the byte order marks inside joined files.
FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")
# What looks like a space or like nothing: spaces of all widths, zero-width ones, marks of the text direction.
SPACES = " \t\xa0\u1680\u180e\u202f\u205f\u2060\u3000" + "".join(map(chr, range(0x2000, 0x2010)))
Lines = Iterator[tuple[int, str]]  # numbers, from 1, and texts


class PromptFileError(ConfigError):
    """All errors of a prompt file in the order of its lines; the first 100 are shown, the others counted.

    `rows` has the number of the line and the message of each error, of the first 10,000.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, str]] = []
        self.count = 0
        self._known: set[str] = set()

    def add(self, line: int, message: str) -> None:
        """Add an error for each row of the message, except for rows that are there already."""
        for text in message.split("\n"):
            if text not in self._known:
                self.count += 1
                self._keep([(line, text)])

    def absorb(self, other: "PromptFileError", line: int = 0) -> None:
        """Add the errors of another reader of the same file; those without a line get `line`."""
        rows = [(number or line, text) for number, text in other.rows if text not in self._known]
        self.count += other.count - len(other.rows) + len(rows)
        self._keep(rows)

    def _keep(self, rows: Sequence[tuple[int, str]]) -> None:
        kept = rows[: MAX_KEPT - len(self.rows)]
        self._known |= {text for _, text in kept}
        is_sorted = all(one[0] <= next[0] for one, next in pairwise([*self.rows[-1:], *kept]))
        self.rows += kept
        if not is_sorted:
            self.rows.sort(key=lambda row: row[0])

    @contextmanager
    def collect(self, line: int = 0, place: str = "") -> Iterator[None]:
        """Add a ConfigError of the `with` block instead of raising it; `place` is written in front."""
        try:
            yield
        except PromptFileError as exc:
            self.absorb(exc, line)
        except ConfigError as exc:
            self.add(line, f"{place}: {exc}" if place else str(exc))

    def raise_if_any(self) -> None:
        """Raise this error if it has collected any."""
        if self.count:
            raise self

    def __str__(self) -> str:
        texts = [*without_repeats(text for _, text in self.rows[:MAX_SHOWN])]
        more = self.count - len(texts)
        return "\n".join(texts + ([f"and {more:,} more error{'s' if more > 1 else ''}"] if more else []))


def is_read(line: str) -> bool:
    """Whether a line of a text file is more than spaces and a comment."""
    return line.strip(SPACES)[:1] not in ("", "#")


def read_lines(stream: BinaryIO, name: str, errors: PromptFileError) -> Lines:
    """Yield the lines of a UTF-8 file with their numbers, split at \\n and \\r\\n only.

    Adds to `errors`, instead of yielding them, lines that are not UTF-8, have more than 1,000,000 bytes or
    have control characters. Only one line is in memory at a time.
    """
    offset = 0
    for number in count(1):
        # Room for a byte order mark and the line end; a line that is cut off here is too long anyway.
        raw = stream.readline(MAX_LINE + len(BOM) + len(b"\r\n"))
        if not raw:
            return
        start = len(BOM) if number == 1 and raw.startswith(BOM) else 0
        line = raw[start:].removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw[start:]
        text = None
        with errors.collect(number):
            text = _decode_line(line, offset + start, f"{name}:{number}")
        if text is not None:
            yield number, text
        offset += len(raw)
        while not raw.endswith(b"\n") and (raw := stream.readline(1 << 16)):
            offset += len(raw)


def _decode_line(line: bytes, offset: int, place: str) -> str:
    if len(line) > MAX_LINE:
        raise ConfigError(f"{place}: byte {offset}: a line has at most {MAX_LINE:,} bytes")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        byte = f"{place}: byte {offset + exc.start}"
        raise ConfigError(f"{byte}: not UTF-8 (0x{line[exc.start]:02x}); save the file as UTF-8") from exc
    if found := FORBIDDEN.search(text):
        byte = f"byte {offset + len(text[: found.start()].encode())}"
        raise ConfigError(f"{place}:{found.start() + 1}: {byte}: {explain_forbidden(found[0])}")
    return text


def explain_forbidden(letter: str) -> str:
    """The message for a forbidden character."""
    line_ends = "; lines end with \\n or \\r\\n" if letter in "\r\x0b\x0c\x85" else ""
    return f"U+{ord(letter):04X} is not allowed{line_ends}"
