"""The stage that finds details, such as faces, in finished images and repaints each at the full size."""

from PIL import Image

from sdapp.diffusion.decode import Decoded
from sdapp.diffusion.masks import places
from sdapp.diffusion.task_inputs import part_of
from sdapp.jobs import Job
from sdapp.prompts.seeds import derived_seed
from sdapp.stages.loaded_model import LoadedModel
from sdapp.stages.painting import CALLS, Painting, RecordFields
from sdapp.stages.passes import encode_prompts, repeat_pass


def repaint_details(model: LoadedModel, painting: Painting) -> RecordFields:
    """Find the places of each detail in the images, repaint them at the full size, and put them back."""
    for number in range(len(painting.job.detail)):
        painting.reworked = _with_detail(model, painting, number)
    return {}


def _with_detail(model: LoadedModel, painting: Painting, number: int) -> list[Image.Image]:
    """The images with one detail repainted, in each the first place, then the second, and so on."""
    images, detail = [*painting.images], painting.job.detail[number]
    masks = [model.find(image, detail) for image in images]
    found = [places(mask) if mask else [] for mask in masks]
    for own, each in zip(painting.own, found, strict=True):
        own["found"] += ({"mask_prompt": detail.mask_prompt, "boxes": [box for box, _ in each]},)
    most = max(map(len, found))
    if painting.reporter:
        painting.reporter.count_places(most, painting.job.repainted(number).unet_calls)
    for place in range(most):
        given = {row: (images[row], each[place][1]) for row, each in enumerate(found) if len(each) > place}
        repainted = _repaint(model, painting, given, number, place)
        for row, image in zip(given, repainted, strict=True):
            images[row] = image
    return images


def _repaint(
    model: LoadedModel,
    painting: Painting,
    given: dict[int, tuple[Image.Image, Image.Image]],
    number: int,
    place: int,
) -> list[Image.Image]:
    """Repaint one place in some images of a batch: `given` has those with their masks, by their row."""
    side = model.denoiser.unet.config.sample_size * model.scale
    jobs = tuple(_job_of_place(painting.jobs[row], number, place, side) for row in given)
    part = Painting(jobs, painting.index, painting.preview, None, painting.reporter)
    size, detail = (jobs[0].width, jobs[0].height), painting.job.detail[number]
    part.inputs = [part_of(*each, detail.padding, detail.mask_blur, size) for each in given.values()]
    encode_prompts(model, part, at_end=True)
    fields = repeat_pass(model, part)
    assert part.decoded is not None
    before = painting.decoded or Decoded.nothing(len(painting.jobs))
    painting.decoded = before.with_parts([*given], part.decoded)
    for key in ("scheduler_class", "scheduler_config", "eta", "optimizations"):
        painting.shared.setdefault(key, fields[key])
    for row in given:
        for key in CALLS:
            painting.own[row][key] += fields[key]
    return part.images


def _job_of_place(job: Job, number: int, place: int, side: int) -> Job:
    """The job that repaints one place: at the size of the image if that was painted, else of the model."""
    is_painted = job.task.kind not in ("outpaint", "upscale")
    size = {} if is_painted else {"width": side, "height": side}
    seed = derived_seed(job.seed, f"detail {number}", place)
    return job.repainted(number).model_copy(update=size | {"seed": seed})
