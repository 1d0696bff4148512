"""Stable Diffusion for shells and scripts: a thin layer over diffusers."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdapp.outputs import Result


def paint(**settings: Any) -> Iterator["Result"]:
    """Paint with the settings of a config: `for result in paint(prompt="a red house", seed=7): result.picture.show()`.

    Checks the settings and loads the model before it returns; then each turn of the loop paints. Raises SdappError.
    """
    from sdapp.config import validate
    from sdapp.jobs import plan
    from sdapp.layers import Layer
    from sdapp.models import locate

    config = validate(Layer(settings))
    model = locate(config.model, config.revision)
    jobs = plan(config, model)

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read while it is imported
    from sdapp.loading import load, quiet  # only now torch and diffusers

    quiet(verbose=False)
    return load(model, config).paint(jobs, config.batch_size)
