"""The command `sdapp schedulers`."""

import json
import textwrap
from typing import Annotated, Any

import typer

from sdapp.commands import completion
from sdapp.scheduler_table import TABLE
from sdapp.schedulers import FROM_MODEL, Resolved, constructor_options, resolve

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Any spelling; explains what it becomes.",
        show_default=False,
        autocompletion=completion.offer(completion.SCHEDULERS),
    ),
]
AsJsonLines = Annotated[bool, typer.Option("--json", help="One JSON object for each scheduler.")]
WIDTH = 80
USES = {  # each use: what to say of it, and the schedulers that come first for it
    "For nearly everything: start with dpm++2m-karras and 20 to 30 steps": (
        "dpm++2m",
        "unipc",
        "deis",
        "dpm",
        "dpm++2s",
    ),
    "Images that keep changing with more steps; start with euler-a or dpm++2m-sde-karras": (
        "euler-a",
        "dpm++2m-sde",
        "dpm++2m-sde-heun",
        "dpm++3m-sde",
        "sa-solver",
    ),
    "For models of 1 to 8 steps (LCM, TCD, Turbo, Lightning): start with what the model's card names": (
        "lcm",
        "tcd",
    ),
    "The classics, to repeat older images": ("ddim", "pndm", "lms", "euler", "ddpm"),
    "Two UNet calls a step: exact, but slow": ("heun", "dpm2", "dpm2-a", "dpm++sde"),
}
LEGEND = """\
order: how fast the error falls with more steps; a higher one needs fewer steps
calls: UNet calls for 20 steps, which take nearly all of the time
noise: "new" ones add new noise in each step, so their images keep changing
sigmas: noise levels that you can choose by adding -karras, -exp, -beta or
  -lu to the name
A name can also end with -trailing: the run then begins at the last timestep.
Some models of few steps (LCM, Turbo, Lightning) are made for that. Without
--scheduler, such a model uses the scheduler that its files name; with it, sdapp
adds -trailing, unless the name chooses something else.

`sdapp schedulers NAME` explains one, by any name that other programs have.
`sdapp compare` measures which one suits your model."""


def schedulers(name: Name = None, as_json: AsJsonLines = False) -> None:
    """List the schedulers by use, or explain one: class, options, UNet calls."""
    rows = [resolve(name)] if name else [resolve(row.name) for row in TABLE]
    if as_json:
        for resolved in rows:
            typer.echo(json.dumps(_row_facts(resolved), ensure_ascii=False))
    else:
        typer.echo(explain_scheduler(name) if name else scheduler_table())


def scheduler_table() -> str:
    """All schedulers by use, one line each, at most 80 columns wide."""
    rows = {row.name: row for row in TABLE}
    lines = [f"  {'name':<18}{'order':>5}{'calls':>7}  {'noise':<7}{'sigmas'}"]
    for use, names in USES.items():
        lines += textwrap.wrap(use, WIDTH)
        for row in (rows[name] for name in names):
            noise = "new" if row.stochastic else "once"
            needs = f"  (pip install {row.needs})" if row.needs == "torchsde" else ""
            calls = resolve(row.name).unet_calls(20)
            sigmas = " ".join(row.sigmas).replace("exponential", "exp")
            lines.append(f"  {row.name:<18}{row.order:>5}{calls:>7}  {noise:<7}{sigmas}{needs}".rstrip())
        lines.append("")
    return "\n".join([*lines, LEGEND])


def _row_facts(resolved: Resolved) -> dict[str, Any]:
    row = resolved.scheduler
    label, *aliases = _other_names(resolved)
    return {
        "name": resolved.name,
        "class": row.class_name,
        "order": row.order,
        "unet_calls": resolved.unet_calls(20),
        "stochastic": row.stochastic,
        "sigmas": list(row.sigmas),
        "needs": row.needs,
        "label": label,
        "aliases": aliases,
        "options": resolved.options,
        "note": row.note or None,
    }


def _other_names(resolved: Resolved) -> list[str]:
    """How A1111 and others call it: the names of its row, with `Karras` or what else the name ends with."""
    row = resolved.scheduler
    ending = resolved.name.removeprefix(row.name).replace("-", " ").title()
    return [f"{name}{ending}" for name in (row.label, *row.aliases)]


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
    names = f"Also called {', '.join(_other_names(resolved))}; capitals and spaces make no difference"
    needs = f"Needs {row.needs}: pip install {row.needs}" if row.needs else ""
    return "\n".join([*lines, *filter(None, (names, row.note, needs, *resolved.notes))])
