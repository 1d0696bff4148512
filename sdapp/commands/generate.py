"""The commands `sdapp generate`, `img2img` and `inpaint`."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdapp.commands.estimates import History
from sdapp.commands.options import all_layers
from sdapp.commands.terminal import announce, tell
from sdapp.config import validate
from sdapp.errors import JobsFailedError
from sdapp.jobs import plan
from sdapp.models.vae import located
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import published, saved
from sdapp.settings.layers import Layer, merge

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from sdapp.commands.notes import worth_knowing
from sdapp.commands.running import Load, paint_loads


def paint(flags: dict[str, Any], own: list[Layer]) -> None:
    """Load settings, plan, load the model, paint, save, print. All input is checked before torch is imported."""
    merged = merge(all_layers(flags, own))
    for note in merged.notes:
        tell(note)
    config = validate(merged)
    model = located(config)
    jobs = plan(config, model)
    check_folder(Path(config.output.dir))
    for note in worth_knowing(config, model, jobs[0]):
        tell(note)
    failed, history = list[str](), History(config.device)
    with closing(paint_loads([Load(model, config, jobs)], flags["verbose"])) as results:
        output = config.output
        for result in published(results, lambda result: encode(result, output), lambda result: saved(result, output)):
            announce(result, flags["json"])
            history.add(result)
            failed += [f"seed {result.job.seed}: {result.error}"] if result.error else []
    history.save()
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} pictures failed:\n" + "\n".join(failed))
