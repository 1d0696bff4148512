"""What all settings have in common: checked once, strictly, and never changed."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1


class Frozen(BaseModel):
    """Checked once, strictly, and never changed; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _writable(text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("half a character (a lone surrogate) cannot be written as UTF-8")
    return text


def _no_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot hold a NUL")
    return path


Text = Annotated[str, AfterValidator(_writable)]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(_writable), AfterValidator(_no_nul)]
