"""What can go wrong by the user's hand or the world's, with the exit code that a script sees."""

from collections.abc import Sequence


class SdappError(Exception):
    """Its text is the whole message: what is wrong, where, and how to mend it."""

    exit_code = 1


class ConfigError(SdappError):
    """A key, a flag or a combination of them that cannot be honoured."""

    exit_code = 2


class JobsFailedError(SdappError):
    """Some images were painted and some were not."""

    exit_code = 3


class UpstreamError(SdappError):
    """An error that diffusers, transformers or torch raised while an image was painted."""


class InputError(SdappError):
    """An input file that is there but cannot be used (EX_DATAERR)."""

    exit_code = 65


class MissingInputError(InputError):
    """An input file that cannot be opened (EX_NOINPUT)."""

    exit_code = 66


class UnavailableError(SdappError):
    """A model, a device or an optional package that is not to be had here (EX_UNAVAILABLE)."""

    exit_code = 69


class InterruptedRunError(SdappError):
    """A signal ended the run between two steps: 128 + its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class OutputError(SdappError):
    """A folder or a file that cannot be written (EX_CANTCREAT)."""

    exit_code = 73


class DiskFullError(OutputError):
    """No room left; nothing is half-written (EX_IOERR)."""

    exit_code = 74


def gathered(errors: Sequence[SdappError]) -> SdappError:
    """One error with the messages of all: of their kind where they have one, else bad input or bad settings."""
    kinds = {type(error) for error in errors}
    mixed = InputError if all(issubclass(kind, InputError) for kind in kinds) else ConfigError
    return (kinds.pop() if len(kinds) == 1 else mixed)("\n".join(dict.fromkeys(map(str, errors))))
