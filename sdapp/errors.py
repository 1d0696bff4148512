"""The errors that a user can meet, each with the exit code that a script sees, and how they suggest words."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any


class SdappError(Exception):
    """The base of all. Its text is the whole message: what is wrong, where, and how to fix it."""

    exit_code = 1


class ConfigError(SdappError):
    """A setting, an option, or a combination of them that cannot be used."""

    exit_code = 2


class JobsFailedError(SdappError):
    """Some images failed; the others were painted. From `sdapp.generate`, `results` has all of them."""

    exit_code = 3

    def __init__(self, message: str, results: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.results = results


class UpstreamError(SdappError):
    """An error that diffusers, transformers or torch raised while an image was painted."""


class InputError(SdappError):
    """An input file that exists but cannot be used (EX_DATAERR)."""

    exit_code = 65


class MissingInputError(InputError):
    """An input file that cannot be opened (EX_NOINPUT)."""

    exit_code = 66


class UnavailableError(SdappError):
    """A model, a device or an optional package that is not available (EX_UNAVAILABLE)."""

    exit_code = 69


class InterruptedRunError(SdappError):
    """A signal stopped the run between two steps. The exit code is 128 plus the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class OutputError(SdappError):
    """A folder or a file that cannot be written to (EX_CANTCREAT)."""

    exit_code = 73


class DiskFullError(OutputError):
    """The disk is full; no file is half-written (EX_IOERR)."""

    exit_code = 74


def gathered(errors: Sequence[SdappError]) -> SdappError:
    """Return one error with all messages, one a line.

    Its class is theirs. If they differ, it is InputError if all of them are InputErrors, else ConfigError.
    """
    kinds = {type(error) for error in errors}
    mixed = InputError if all(issubclass(kind, InputError) for kind in kinds) else ConfigError
    return (kinds.pop() if len(kinds) == 1 else mixed)("\n".join(dict.fromkeys(map(str, errors))))


def without_repeats(messages: Iterable[str]) -> Iterator[str]:
    """Leave out a list of what is allowed (`; allowed…`) where a message before has the same one."""
    seen: set[str] = set()
    for message in messages:
        head, _, allowed = message.partition("; allowed")
        yield head if allowed in seen else message
        seen |= {allowed} - {""}


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return the closest of the known words for an error message, or nothing.

    Words of the same letters come first: `ddmi` is closer to `ddim` than to `ddpm`.
    """
    close = get_close_matches(word, list(known), n=5)
    return sorted(close, key=lambda each: sorted(each) != sorted(word))[:1]


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return `, did you mean 'ddim'?`, or `otherwise` if none of the known words is close."""
    near = nearest(word, known)
    return f", did you mean {near[0]!r}?" if near else otherwise
