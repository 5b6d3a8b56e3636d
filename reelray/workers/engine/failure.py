"""Turns whatever a model raises into an error of our tree, in one line."""

import logging

import torch

from reelray.proto.errors import ReelrayError, ResourceError
from reelray.proto.request import RenderRequest

_LOG = logging.getLogger(__name__)


def as_reelray_error(error: Exception, request: RenderRequest) -> ReelrayError:
    """The error to show for `error`; keeps no reference to its traceback, whose frames hold tensors."""
    ids = {"request": str(request.request_id)}
    if isinstance(error, ReelrayError):
        return type(error)(error.message, ids={**ids, **error.ids})
    if is_out_of_memory(error):
        return ResourceError(
            f"out of memory at {request.width}x{request.height} with {request.frames} frames; "
            "ask for fewer frames or a smaller picture",
            ids=ids,
        )
    _LOG.error("request %s failed", request.request_id, exc_info=error)
    first_line = (str(error).strip().splitlines() or [""])[0]
    return ReelrayError(f"the model failed with {type(error).__name__}: {first_line}", ids=ids)


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that memory, of the device or of the machine, ran out."""
    # torch has no error class for a failed allocation on the CPU, only this text
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
