"""The command `sdapp schedulers`."""

from sdapp import schedulers
from sdapp.scheduler_table import TABLE


def scheduler_table() -> str:
    """What is known of every scheduler, as lines of text."""
    lines = [f"{'name':<18}{'order':>5}{'calls':>7}  {'noise':<15}{'needs':<10}class; sigmas; also known as"]
    for row in TABLE:
        noise = "stochastic" if row.stochastic else "deterministic"
        more = "; ".join(filter(None, (row.class_name, "/".join(row.sigmas), ", ".join(row.aliases))))
        calls = schedulers.resolve(row.name).unet_calls(20)
        lines.append(f"{row.name:<18}{row.order:>5}{calls:>7}  {noise:<15}{row.needs or '':<10}{more}")
    return "\n".join(
        [
            *lines,
            "",
            "calls: UNet calls for 20 steps. Add -karras, -exponential, -beta or -lu for sigmas that it has.",
        ]
    )


def explain_scheduler(name: str) -> str:
    """How a name is resolved, and every option that the scheduler will be built with."""
    resolved = schedulers.resolve(name)
    row = resolved.scheduler
    noise = "stochastic" if row.stochastic else "deterministic"
    calls = f"{resolved.unet_calls(20)} UNet calls for 20 steps"
    lines = [f"{name} is {resolved.name}: {row.class_name}, order {row.order}, {noise}, {calls}"]
    for option, default in schedulers.constructor_options(row.class_name).items():
        if option in schedulers.FROM_MODEL:
            said = "from the model"
        elif repr(resolved.options.get(option, default)) in (default, repr(default)):
            said = default
        else:
            said = f"{resolved.options[option]!r}, where the class has {default}"
        lines.append(f"  {option}: {said}")
    needs = f"Needs {row.needs}: pip install {row.needs}" if row.needs else ""
    return "\n".join([*lines, *filter(None, (row.note, needs, *resolved.notes))])
