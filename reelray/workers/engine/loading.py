"""Opens a checkpoint for an engine."""

import time

from reelray.proto.errors import ResourceError
from reelray.workers.engine.failure import is_out_of_memory
from reelray.workers.engine.seams import ModelLoader
from reelray.workers.models.api import VideoModel


def open_timed(load: ModelLoader) -> tuple[VideoModel, float]:
    """Open a checkpoint.

    Returns:
        The model and the seconds it took.

    Raises:
        CheckpointError: It is not usable.
        ResourceError: It does not fit into memory.
    """
    started = time.perf_counter()
    try:
        model = load()
    except Exception as error:
        if is_out_of_memory(error):
            raise ResourceError("out of memory while the checkpoint was opened; use a smaller model") from None
        raise
    return model, time.perf_counter() - started
