"""The stage that continues images beyond their sides."""

from PIL import Image

from sdapp.diffusion.task_inputs import grown
from sdapp.settings.tasks import Inpaint
from sdapp.stages.loaded_model import LoadedModel
from sdapp.stages.painting import Painting, RecordFields
from sdapp.stages.passes import paint_over


def extend(model: LoadedModel, painting: Painting) -> RecordFields:
    """Continue the images beyond their sides, in rounds of inpainting."""
    job = painting.job
    if job.task.kind != "outpaint":
        return {}
    task = Inpaint(kind="inpaint", image="-", mask="-", strength=job.task.strength)
    corner = job.task.sides.left, job.task.sides.top  # of the images, on the whole canvas
    for left, top, right, bottom in job.rounds:
        place, size = (corner[0] - left, corner[1] - top), (right - left, bottom - top)
        inputs = [grown(image, place, size, overlap=2 * model.scale) for image in painting.images]
        assert isinstance(inputs[0].image, Image.Image)
        width, height = inputs[0].image.size
        change = {"task": task, "width": width, "height": height, "upscale": None}
        paint_over(model, painting, [each.model_copy(update=change) for each in painting.jobs], inputs)
        corner = left, top
    return {}
