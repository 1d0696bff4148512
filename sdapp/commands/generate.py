"""The commands `sdapp generate`, `img2img` and `inpaint`."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdapp.commands.estimates import History
from sdapp.commands.options import all_layers
from sdapp.commands.terminal import print_note, print_result
from sdapp.config import validate
from sdapp.errors import JobsFailedError
from sdapp.jobs import plan
from sdapp.models.vae import locate_model
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save_result, write_results
from sdapp.settings.layers import Layer, merge

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from sdapp.commands.notes import notes_before_painting
from sdapp.commands.running import Load, paint_loads


def paint(flags: dict[str, Any], own: list[Layer]) -> None:
    """Load settings, plan, load the model, paint, save, print. All input is checked before torch is imported."""
    merged = merge(all_layers(flags, own))
    for note in merged.notes:
        print_note(note)
    config = validate(merged)
    model = locate_model(config.model, config.revision, config.vae)
    jobs = plan(config, model)
    check_folder(Path(config.output.dir))
    for note in notes_before_painting(config, model, jobs[0]):
        print_note(note)
    failed, history = list[str](), History(config.device)
    with closing(paint_loads([Load(model, config, jobs)], flags["verbose"])) as results:
        output = config.output
        for result in write_results(
            results, lambda result: encode(result, output), lambda result: save_result(result, output)
        ):
            print_result(result, flags["json"])
            history.add(result)
            failed += [f"seed {result.job.seed}: {result.error}"] if result.error else []
    history.save()
    if failed:
        raise JobsFailedError(f"{len(failed)} of {len(jobs)} images failed:\n" + "\n".join(failed))
