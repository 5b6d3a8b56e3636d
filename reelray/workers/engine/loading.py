"""Opens a checkpoint for an engine."""

import time
from dataclasses import replace

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import ResourceError
from reelray.workers.engine.device_memory import device_name
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


def describe(model: VideoModel, *, load_s: float, decodes_beside: bool = False) -> EngineDescription:
    """What an engine says of a model that it has opened in so many seconds; for the rest see `ModelFacts`."""
    return EngineDescription(
        facts=replace(model.facts, decodes_beside=decodes_beside),
        digest=model.digest,
        device=device_name(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        load_s=load_s,
        residency=model.residency,
    )
