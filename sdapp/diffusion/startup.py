"""Starting and ending fast: what happens around the import of torch and diffusers, which is most of a short run."""

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sdapp.models.locate import WEIGHT_FOLDERS, Model

READ_AHEAD_BYTES = 1 << 21


@contextmanager
def importing(model: Model, ours: bool = False) -> Iterator[None]:
    """Around the import of torch and diffusers: read the model's weights ahead into the system's page cache.

    If the process is `ours` and not a script's, the garbage collector is off meanwhile, and leaves out afterwards
    what the first import has made: hundreds of thousands of objects that stay, each look at which is time lost.
    """
    threading.Thread(target=_read_ahead, args=[model], daemon=True).start()
    if not ours:
        yield
        return
    was_on, first = gc.isenabled(), "diffusers" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        if was_on:
            gc.enable()


def _read_ahead(model: Model) -> None:
    """Let the system read the weights into its page cache, from where they are mapped; it copies nothing to this process."""
    files = (
        [model.path]
        if model.is_file
        else [path for part in WEIGHT_FOLDERS for path in (model.path / part).glob("*.safetensors")]
    )
    for path in files if hasattr(os, "posix_fadvise") else []:
        with suppress(OSError), path.open("rb") as file:  # loading says what is wrong
            for place in range(
                0, os.fstat(file.fileno()).st_size, READ_AHEAD_BYTES
            ):  # Linux heeds only the first part of a long range
                os.posix_fadvise(file.fileno(), place, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def leave(code: int) -> None:
    """End the process without taking torch apart, which takes a second; returns where that cannot be done.

    For the command line alone, when everything is published. What is registered with atexit is called as ever.
    """
    with suppress(OSError):  # a closed pipe: the interpreter's own end says so
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        atexit._run_exitfuncs()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)
