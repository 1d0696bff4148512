"""The images that a prompt file asks for, and which of them this machine paints."""

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from sdapp.errors import ConfigError
from sdapp.jobs import Job, LoadKey
from sdapp.records import Result


@dataclass(frozen=True)
class Item:
    """One image that a prompt file asks for."""

    job: Job
    line: int
    index: int  # among all images of the file
    choices: Mapping[str, str]  # of `{a|b}` and `__words__` in its prompts
    load: LoadKey | None = None  # if it needs another load of a model than the rest of its batch
    number: str = ""  # in file names: its line, and which image of that line it is, such as `0007-2`
    labels: Mapping[str, str] = field(default_factory=dict)  # what the line has beside settings
    notes: tuple[str, ...] = ()  # on the image that its line begins with

    def label(self, result: Result) -> Result:
        """Return the result of its job with what this item says."""
        result = replace(result, index=self.index, choices=self.choices, line=self.line)
        return replace(result, number=self.number, labels=self.labels)


@dataclass(frozen=True)
class Shard:
    """What machine `number` of `of` (from 1) paints; the id of a job decides which machine that is."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2/3`, the second of three. Raises ConfigError."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None:
            raise ConfigError(f"--shard: write it as PART/PARTS, such as 2/3, not {text!r}")
        number, of = map(int, match.groups())
        if not 1 <= number <= of:
            raise ConfigError(
                f"--shard: there is no part {number} of {of}; the parts are 1/{of} to {of}/{of}"
            )
        return cls(number, of)

    def __contains__(self, job_id: str) -> bool:
        return int(job_id, 16) % self.of == self.number - 1


WHOLE_FILE = Shard()


class Asked:
    """The jobs that are asked for, each once, in their order; it has room for long prompt files."""

    def __init__(self) -> None:
        self.lines = array("I")  # of the prompt file: of each job the first that asks for it
        self._places: dict[int, int] = {}  # of the ids as numbers, which take a third of the memory

    def add(self, job_id: str, line: int) -> bool:
        """Add a job; return whether it is new."""
        end = len(self.lines)
        is_new = self._places.setdefault(int(job_id, 16), end) == end
        if is_new:
            self.lines.append(line)
        return is_new

    def place(self, job_id: str) -> int | None:
        """The place of a job in the order, from 0; None if it is not asked for."""
        try:
            return self._places.get(int(job_id, 16))
        except ValueError:  # the id of a line that asks for no job
            return None

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[str]:
        """The ids in their order."""
        return (f"{number:012x}" for number in self._places)


def unique_items(items: Iterable[Item]) -> Iterator[Item]:
    """Each image once, at the first line that asks for it."""
    seen: set[int] = set()
    return (item for item in items if is_new(item, seen))


def is_new(item: Item, seen: set[int]) -> bool:
    """Whether an image was not asked for before; adds it to `seen`."""
    number = int(item.job.id, 16)  # a third of the memory of the text
    known = number in seen
    seen.add(number)
    return not known
