"""What all settings share: strict checking, and what each of them declares in its annotation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_SEED = 2**63 - 1


def to_whole(value: Any) -> Any:
    """Return `20` for `20.0`, which spreadsheets and pandas write; anything else as it is."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


class Frozen(BaseModel):
    """A group of settings: checked once and strictly, never changed; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _to_whole(cls, values: Any) -> Any:
        return {key: to_whole(value) for key, value in values.items()} if isinstance(values, dict) else values


@dataclass(frozen=True)
class Setting:
    """What a setting declares in its `Annotated[...]`, beyond what pydantic checks.

    In a prompt file a `text` or `file` is one value whatever it contains, and a `name` is never a number.
    Relative paths of a `file`, and of a `model` that is a path, are relative to the file that gives them.
    """

    kind: Literal["value", "name", "text", "file", "model"] = "value"
    list_of: tuple[type, ...] = ()  # a list of items of these types is one value, not variants
    in_grid: bool = False  # `compare` has a list of its own for it, so `compare.vary` refuses it
    expected: str = ""  # what is allowed, for error messages
    parse: Callable[[Any], Any] | None = None  # makes groups of texts that have paths inside


def declared(group: type[BaseModel]) -> dict[str, Setting]:
    """Return what each setting of a group declares, by its dotted key, such as `task.image`."""
    found: dict[str, Setting] = {}
    for name, field in group.model_fields.items():
        inner = list(alternatives(field.annotation))
        markers = [*field.metadata, *(each for part in inner for each in get_args(part)[1:])]
        found[name] = next((each for each in markers if isinstance(each, Setting)), Setting())
        lists = [part for part in inner if get_origin(part) is list]
        items = [each for part in lists for each in alternatives(get_args(part)[0])]
        for part in (*inner, *items):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= {f"{name}.{key}": setting for key, setting in declared(part).items()}
    return found


def alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, unions inside it included, with and without their `Annotated`."""
    if get_origin(annotation) is Annotated:
        yield annotation
        yield from alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from alternatives(member)
    else:
        yield annotation


def _writable(text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("half a character (a lone surrogate) cannot be written as UTF-8")
    return text


def _no_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    return path


Text = Annotated[str, AfterValidator(_writable), Setting("text")]
FilePath = Annotated[
    str, Field(min_length=1), AfterValidator(_writable), AfterValidator(_no_nul), Setting("file")
]
ModelReference = Annotated[str, Field(min_length=1), Setting("model")]
