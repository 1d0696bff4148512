"""Start and end fast: the import of torch and diffusers takes most of the time of a short run."""

import atexit
import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sdapp.models.model import Model

READ_AHEAD_BYTES = 1 << 21
# diffusers and transformers cannot load in two threads at once: the second load fails, and all after it.
LOADING = threading.RLock()


@contextmanager
def importing(model: Model, ours: bool = False) -> Iterator[None]:
    """Around the import of torch and diffusers: read the model's weights ahead, one thread at a time.

    If the process is `ours` and not a script's, garbage collection pauses, and later skips what the import
    made: hundreds of thousands of objects that stay.
    """
    with LOADING:
        threading.Thread(target=_read_ahead, args=[model], daemon=True).start()
        if not ours:
            yield
            return
        was_enabled, is_first = gc.isenabled(), "diffusers" not in sys.modules
        gc.disable()
        try:
            yield
        finally:
            if is_first:
                gc.freeze()
            if was_enabled:
                gc.enable()


@contextmanager
def without_advice() -> Iterator[None]:
    """Drop the advice to install torchvision, which transformers gives when a pipeline is imported."""
    logger = logging.getLogger("transformers.utils.import_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "requires torchvision" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _read_ahead(model: Model) -> None:
    """Let the system read the weights into its page cache, from where they are mapped."""
    files = [*model.weight_files, *(model.base.weight_files if model.base else ())]
    for path in files if hasattr(os, "posix_fadvise") else []:
        with suppress(OSError), path.open("rb") as file:  # loading says what is wrong
            # In pieces: Linux reads only the first part of a long range.
            for start in range(0, os.fstat(file.fileno()).st_size, READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def leave(code: int) -> None:
    """End the process without taking torch apart, which takes a second; returns where that is not possible.

    For the command line only, when everything is written. Functions registered with atexit are called.
    """
    with suppress(OSError):  # a closed pipe: the normal end of the interpreter reports it
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        atexit._run_exitfuncs()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)
