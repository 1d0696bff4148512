"""Read lists of numbers with ranges, such as 5,10,20-50:10, and parts of a run, such as 0.1..0.8."""

import re
import reprlib

MAX_NUMBERS = 10_000
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
RANGE = re.compile(rf"({NUMBER})\s*-\s*({NUMBER})(?:\s*:\s*({NUMBER})|\s*\[\s*([0-9]+)\s*\])?")


def numbers(text: str) -> list[int | float]:
    """Return the numbers of a list separated by commas; its parts are numbers and ranges of numbers.

    `1-5` is 1 2 3 4 5; `5-20:5` (with a step) is 5 10 15 20; `1-10[4]` (with a count) is 1 4 7 10. Raises
    ValueError for anything else and for more than 10,000 numbers.
    """
    found = [number for part in text.split(",") for number in _part(part.strip())]
    if len(found) > MAX_NUMBERS:
        raise ValueError(f"{text!r} is {len(found):,} numbers; at most {MAX_NUMBERS:,}")
    return found


def interval(value: object) -> list[float]:
    """Return where a part of a run begins and ends, as fractions of it, from `0.1..0.8` or `[0.1, 0.8]`.

    Raises ValueError unless 0 ≤ begin < end ≤ 1.
    """
    ends: object = value
    if isinstance(value, str) and (found := re.fullmatch(rf"({NUMBER})\s*\.\.\s*({NUMBER})", value)):
        ends = [float(end) for end in found.groups()]
    match ends:
        case [int() | float() as begin, int() | float() as end] if 0 <= begin < end <= 1:
            if bool not in (type(begin), type(end)):
                return [float(begin), float(end)]
    allowed = "two fractions of the run from 0 to 1, the first below the second, such as 0..0.5 or [0, 0.5]"
    raise ValueError(f"{allowed}, not {reprlib.repr(value)}")


def pair(value: object) -> list[int] | None:
    """Return two whole numbers of pixels, such as a size, from `1024x768`, `1024,768` or `[1024, 768]`.

    None stays None. Raises ValueError for anything else.
    """
    sides: object = value
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,5}) ?[xX×,] ?([0-9]{1,5})", value)):
        sides = [int(side) for side in found.groups()]
    match sides:
        case None:
            return None
        case [int() as first, int() as second] if bool not in (type(first), type(second)):
            return [first, second]
    raise ValueError(
        f"two whole numbers of pixels, such as 1024x768 or [1024, 768], not {reprlib.repr(value)}"
    )


def _part(text: str) -> list[int | float]:
    if re.fullmatch(NUMBER, text):
        return [_to_number(text)]
    match = RANGE.fullmatch(text)
    if match is None:
        ways = "write 20, 5-50:5 (every fifth) or 1-10[4] (four)"
        raise ValueError(f"{text!r} is no number and no range; {ways}")
    first, last = _to_number(match[1]), _to_number(match[2])
    if last <= first:
        raise ValueError(f"{text!r} counts downwards; put the smaller number first")
    if match[4]:
        count = int(match[4])
        if not 2 <= count <= MAX_NUMBERS:
            raise ValueError(f"{text!r}: give a count from 2 to {MAX_NUMBERS:,} in the brackets")
        return [_tidy(first + (last - first) * i / (count - 1)) for i in range(count)]
    step = _to_number(match[3] or "1")
    if not step or (last - first) / step > MAX_NUMBERS:
        raise ValueError(f"{text!r} is more than {MAX_NUMBERS:,} numbers")
    return [_tidy(first + step * i) for i in range(int((last - first) / step + 1e-9) + 1)]


def _to_number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _tidy(number: int | float) -> int | float:
    """Remove binary rounding errors; return an int if the number is whole."""
    rounded = round(number, 9)
    return int(rounded) if rounded == int(rounded) else rounded


def multiple_of_8(pixels: int) -> int:
    """Return pixels as they are. Raises ValueError, with the nearest numbers, if it is no multiple of 8."""
    if pixels % 8:
        below = pixels // 8 * 8
        raise ValueError(f"must be a multiple of 8; the nearest are {below} and {below + 8}")
    return pixels
