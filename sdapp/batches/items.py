"""The images that a prompt file asks for, and which of them this machine paints."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from sdapp.errors import ConfigError
from sdapp.jobs import Job


@dataclass(frozen=True)
class Item:
    """One image that a prompt file asks for: its job, line, place among all, and the choices in its prompt."""

    job: Job
    line: int
    index: int
    choices: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """Which of `of` machines this is, from 1 on; a job belongs to one by its id."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """`2/3`, the second of three. Raises ConfigError."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard: write it as NUMBER/OF, from 1/3 to 3/3, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, job: str) -> bool:
        return int(job, 16) % self.of == self.number - 1


WHOLE_FILE = Shard()


def unique_items(orders: Iterable[Item]) -> Iterator[Item]:
    """Each image once, at the first line that asks for it."""
    seen: set[int] = set()
    return (order for order in orders if is_new(order, seen))


def is_new(order: Item, seen: set[int]) -> bool:
    """Whether its image was not asked for before; `seen` is kept by the caller."""
    number = int(order.job.id, 16)  # a third of the memory of the text
    known = number in seen
    seen.add(number)
    return not known
