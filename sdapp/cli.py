"""The command line: parse flags, call, print, exit code. The only room that knows Typer and prints."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sdapp import config as configs
from sdapp.config import RunConfig
from sdapp.console import announce, explain_scheduler, progress, scheduler_table, tell
from sdapp.errors import ConfigError, JobsFailedError, SdappError
from sdapp.flags import ConfigFiles, Overrides, Prompt, Strength, flag_layers, read_layers, with_flags
from sdapp.jobs import Job, plan
from sdapp.layers import Layer, merge, override, read_config_file
from sdapp.models import BUILT_IN, Model, locate, unknown_words
from sdapp.outputs import Result, check_folder, read_picture

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug · 2 settings or usage · 3 some pictures failed · 65 an input file cannot be used · "
    "66 an input file is missing · 69 model, device or package unavailable · 73 cannot write · 130 interrupted"
)


class Commands(TyperGroup):
    """Turns our errors into `error:` lines and an exit code, in this one place."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SdappError as exc:
            for line in str(exc).splitlines():
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(exc.exit_code) from exc


app = typer.Typer(cls=Commands, help="Stable Diffusion from the shell.", epilog=EXIT_CODES, no_args_is_help=True)
config_app = typer.Typer(cls=Commands, help="Show, check and describe configs.", no_args_is_help=True)
app.add_typer(config_app, name="config")


# --- painting ------------------------------------------------------------------------------------------------------


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sdapp {version('sdapp')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Stable Diffusion from the shell."""


@app.command()
@with_flags
def generate(prompt: Prompt = None, flags: dict[str, Any] = {}) -> None:  # noqa: B006 (with_flags always gives them)
    """Paint pictures from a prompt, or whatever a config or a picture (--config) asks for.

    Examples:

    sdapp generate "a red house on a beach at sunset" --seed 7

    sdapp generate --config outputs/a-red-house-7.png --steps 50
    """
    paint(flags, [override("prompt", prompt, "PROMPT")] if prompt is not None else [])


@app.command()
@with_flags
def img2img(
    image: Annotated[Path, typer.Argument(help="The picture to start from.", show_default=False)],
    prompt: Prompt = None,
    strength: Strength = None,
    flags: dict[str, Any] = {},  # noqa: B006
) -> None:
    """Paint a picture anew in the spirit of a prompt.

    Example:

    sdapp img2img house.png "a red house in the snow" --strength 0.6
    """
    paint(flags, _task_layers("img2img", prompt, strength, image=image))


@app.command()
@with_flags
def inpaint(
    image: Annotated[Path, typer.Argument(help="The picture to mend.", show_default=False)],
    mask: Annotated[Path, typer.Argument(help="White is painted anew, black stays.", show_default=False)],
    prompt: Prompt = None,
    strength: Strength = None,
    flags: dict[str, Any] = {},  # noqa: B006
) -> None:
    """Paint the white part of a mask anew; every other pixel stays as it is.

    Example:

    sdapp inpaint house.png mask.png "a black cat"
    """
    paint(flags, _task_layers("inpaint", prompt, strength, image=image, mask=mask))


def _task_layers(kind: str, prompt: str | None, strength: float | None, **files: Path) -> list[Layer]:
    found = [override("task.kind", kind, f"sdapp {kind}")]
    found += [override(f"task.{name}", str(path), name.upper()) for name, path in files.items()]
    found += [override("task.strength", strength, "--strength")] if strength is not None else []
    return found + ([override("prompt", prompt, "PROMPT")] if prompt is not None else [])


def paint(flags: dict[str, Any], own: list[Layer]) -> None:
    """Load settings, plan, load the model, paint, save, print. All input is checked before torch is imported."""
    config = configs.validate(merge([*read_layers(flags["config"], flags["set"]), *flag_layers(flags), *own]))
    model = locate(config.model, config.revision)
    jobs = plan(config, model)
    check_folder(Path(config.output.dir))
    say_first(config, model, jobs[0])
    failed: list[str] = []
    with progress(len(jobs), model.name) as on_step:
        for result in results(model, config, jobs, flags["verbose"], on_step):
            announce(result, config, flags["json"], failed)
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} pictures failed:\n" + "\n".join(failed))


def say_first(config: RunConfig, model: Model, job: Job) -> None:
    """What the user should know before the first picture."""
    if words := unknown_words(model, f"{job.prompt} {job.negative_prompt}"):
        tell(f"{BUILT_IN} does not know: {', '.join(words)}. It knows the words of its small world (see the README); for "
             "anything else use a real checkpoint: --model stable-diffusion-v1-5/stable-diffusion-v1-5")  # fmt: skip
    for note in config.scheduler.resolve().told:
        tell(note)
    if job.task.kind != "txt2img":
        tell(f"{job.steps_to_run} of {job.steps} steps run at strength {job.task.strength:g}")


def results(
    model: Model, config: RunConfig, jobs: list[Job], verbose: bool, on_step: Callable[[int, int, int, int], None]
) -> Iterator[Result]:
    """Load and paint; torch and diffusers are imported here and not before."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")  # read while it is imported
    if not verbose:
        warnings.simplefilter("ignore")  # upstream's own
    from sdapp.loading import load, quiet

    quiet(verbose)
    yield from load(model, config).paint(jobs, config.batch_size, on_step)


# --- everything else -----------------------------------------------------------------------------------------------


@app.command()
def schedulers(
    name: Annotated[str | None, typer.Argument(help="Any spelling; explains what it becomes.", show_default=False)] = None,
) -> None:
    """List the schedulers, or explain one name: class, options, UNet calls."""
    typer.echo(explain_scheduler(name) if name else scheduler_table())


@app.command()
def show(
    image: Annotated[Path, typer.Argument(help="A picture painted by sdapp.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of YAML.")] = False,
) -> None:
    """Print the job and the record inside a picture."""
    import yaml

    content = read_picture(image)
    text = json.dumps(content, ensure_ascii=False) if as_json else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    typer.echo(text.rstrip())


@app.command()
def doctor() -> None:
    """Say what is installed, which devices are there, what is wrong and how to mend it."""
    from sdapp.doctor import examine

    facts, problems = examine()
    for name, value in facts:
        typer.echo(f"{name:<24}{value}")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    typer.echo("nothing is wrong" if not problems else f"{len(problems)} to mend")


@config_app.command("show")
def config_show(config: ConfigFiles = None, overrides: Overrides = None) -> None:
    """Print the settings that a run would have, and where each comes from."""
    merged = merge(read_layers(config, overrides))
    typer.echo(configs.show(configs.validate(merged), merged))


@config_app.command("check")
def config_check(files: Annotated[list[Path], typer.Argument(help="YAML configs.", show_default=False)]) -> None:
    """Check configs; print every error with its place."""
    errors: list[ConfigError] = []
    for file in files:
        try:
            configs.validate(merge(read_config_file(file)))
            typer.echo(f"{file}: good")
        except ConfigError as exc:
            errors.append(exc)
    if errors:
        raise ConfigError("\n".join(map(str, errors)))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of a config."""
    typer.echo(configs.json_schema(), nl=False)


if __name__ == "__main__":
    app()
