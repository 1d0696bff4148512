"""Lines of UTF-8 files read strictly as a stream, and the errors of a file in the order of its lines."""

import re
from collections.abc import Iterator
from itertools import count
from typing import BinaryIO

from sdapp.errors import ConfigError

MAX_LINE = 1_000_000  # bytes
MAX_TOLD = 100
BOM = b"\xef\xbb\xbf"
# Control characters but the tab, half characters, and the mark that two files put together leave in the middle.
FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")
Lines = Iterator[tuple[int, str]]


class PromptFileError(ConfigError):
    """Every error of a prompt file in the order of its lines: the first 100 in words, the others counted."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, str]] = []
        self.count = 0

    def add(self, line: int, message: str) -> None:
        """One error a row of the message; what was told already, as of the settings below the lines, is not repeated."""
        for row in message.split("\n"):
            if not any(row == text for _, text in self.told):
                self.count += 1
                self.told += [(line, row)] if len(self.told) < MAX_TOLD else []

    def absorb(self, other: "PromptFileError") -> None:
        """Take over the errors of another reader of the same file."""
        self.told = sorted([*self.told, *other.told], key=lambda error: error[0])[:MAX_TOLD]
        self.count += other.count

    def __str__(self) -> str:
        rows = [text for _, text in self.told]
        more = self.count - len(rows)
        return "\n".join(rows + ([f"and {more:,} more error{'s' if more > 1 else ''}"] if more else []))


def read_lines(stream: BinaryIO, name: str, errors: PromptFileError) -> Lines:
    """The lines of a UTF-8 file with their numbers, split at \\n and \\r\\n alone; bad ones go to `errors` instead.

    Bad is a line of other bytes, over 1,000,000 bytes, or with control characters. Takes the memory of one line.
    """
    offset = 0
    for number in count(1):
        # Room for a byte order mark and the end of the line; what is cut off here is too long even so.
        raw = stream.readline(MAX_LINE + len(BOM) + len(b"\r\n"))
        if not raw:
            return
        start = len(BOM) if number == 1 and raw.startswith(BOM) else 0
        line = raw[start:].removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw[start:]
        try:
            text = _decode(line, offset + start, f"{name}:{number}")
        except ConfigError as exc:
            errors.add(number, str(exc))
        else:
            yield number, text
        offset += len(raw)
        while not raw.endswith(b"\n") and (raw := stream.readline(1 << 16)):
            offset += len(raw)


def _decode(line: bytes, offset: int, where: str) -> str:
    if len(line) > MAX_LINE:
        raise ConfigError(f"{where}: byte {offset}: a line of more than {MAX_LINE:,} bytes")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}: byte {offset + exc.start}: not UTF-8 (0x{line[exc.start]:02x}); "
                          "save the file as UTF-8") from exc  # fmt: skip
    if found := FORBIDDEN.search(text):
        byte = offset + len(text[: found.start()].encode())
        raise ConfigError(f"{where}:{found.start() + 1}: byte {byte}: {character_name(found[0])}")
    return text


def character_name(letter: str) -> str:
    """What to say of a forbidden character."""
    ends = "; lines end with \\n or \\r\\n" if letter in "\r\x0b\x0c\x85" else ""
    return f"U+{ord(letter):04X} is not allowed{ends}"
