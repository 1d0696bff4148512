"""The scheduler of a run, with its options."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sdapp import schedulers
from sdapp.errors import ConfigError
from sdapp.scheduler_table import Option
from sdapp.settings.types import Frozen, Setting


class SchedulerChoice(Frozen):
    """A scheduler by any of its names, and options of its class."""

    name: Annotated[str, Field(min_length=1), Setting("name")] = "dpm++2m-karras"
    options: dict[str, Annotated[Option, Setting(expected="text, a number, true, false or null")]] = {}
    exact: Annotated[
        bool,
        Field(exclude=True, description="Keep its timesteps, even if the model was made for others."),
    ] = False

    def resolve(self) -> schedulers.Resolved:
        """Find the scheduler and every option that it is built with. Raises ConfigError."""
        return schedulers.resolve(self.name, self.options)

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            self.resolve()
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
        return self


def name_alone(value: object) -> object:
    """Read a name alone as the settings of a SchedulerChoice."""
    return {"name": value} if isinstance(value, str) else value
