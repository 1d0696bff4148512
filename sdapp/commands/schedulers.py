"""The command `sdapp schedulers`."""

from typing import Annotated

import typer

from sdapp.scheduler_table import TABLE
from sdapp.schedulers import FROM_MODEL, constructor_options, resolve

Name = Annotated[
    str | None, typer.Argument(help="Any spelling; explains what it becomes.", show_default=False)
]
LEGEND = """\
order: how fast the error falls with more steps; a higher one needs fewer steps on smooth tasks
calls: UNet calls for 20 steps, which take nearly all of the time
noise: stochastic ones add new noise in each step, so their images keep changing with more steps
needs: a Python package that must be installed
sigmas: noise levels that you can choose by adding -karras, -exponential, -beta or -lu to the name
A name can also end with -trailing: the run then begins at the last timestep. Some models of few steps (LCM,
Turbo, Lightning) are made for that. Without --scheduler, such a model uses the scheduler that its files name;
with --scheduler, sdapp adds -trailing, unless the name chooses something else."""


def schedulers(name: Name = None) -> None:
    """List the schedulers, or explain one name: class, options, UNet calls."""
    typer.echo(explain_scheduler(name) if name else scheduler_table())


def scheduler_table() -> str:
    """All schedulers as a table, one line each."""
    lines = [f"{'name':<18}{'order':>5}{'calls':>7}  {'noise':<15}{'needs':<10}class; sigmas; also known as"]
    for row in TABLE:
        noise = "stochastic" if row.stochastic else "deterministic"
        more = "; ".join(filter(None, (row.class_name, "/".join(row.sigmas), ", ".join(row.aliases))))
        calls = resolve(row.name).unet_calls(20)
        lines.append(f"{row.name:<18}{row.order:>5}{calls:>7}  {noise:<15}{row.needs or '':<10}{more}")
    return "\n".join([*lines, "", LEGEND])


def explain_scheduler(name: str) -> str:
    """What a name stands for, and every option that the scheduler is built with. Raises ConfigError."""
    resolved = resolve(name)
    row = resolved.scheduler
    noise = "stochastic" if row.stochastic else "deterministic"
    calls = f"{resolved.unet_calls(20)} UNet calls for 20 steps"
    lines = [f"{name} is {resolved.name}: {row.class_name}, order {row.order}, {noise}, {calls}"]
    for option, default in constructor_options(row.class_name).items():
        value = default
        if option in FROM_MODEL:
            value = "from the model"
        elif repr(resolved.options.get(option, default)) not in (default, repr(default)):
            value = f"{resolved.options[option]!r}, where the class has {default}"
        lines.append(f"  {option}: {value}")
    needs = f"Needs {row.needs}: pip install {row.needs}" if row.needs else ""
    return "\n".join([*lines, *filter(None, (row.note, needs, *resolved.notes))])
