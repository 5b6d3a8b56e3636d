"""Refuses a render that cannot fit, before anything is loaded.

The estimate is a lower bound: the transformer's weights and the activations of one of its blocks, in bfloat16. What
passes may still be too large for the engine, which then says so itself; what is refused here had no hope.
"""

from reelray.cluster.machine import list_gpus, memory_bytes
from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.errors import ResourceError
from reelray.proto.request import RenderRequest

WEIGHT_BYTES = 2
ACTIVATION_BYTES_PER_CHANNEL = 12
"""Residual, query, key, value, attention output and one feed-forward slice, two bytes each; fused kernels do not go
lower."""
SMALL_BYTES = 4 * 2**30
"""Every GPU that runs these models has as much: asking the driver would cost more than it tells."""


def estimate_bytes(request: RenderRequest, model: ModelEntry) -> int:
    """Bytes that any way of running this request needs at once."""
    facts = model.facts
    latent_frames = facts.latent_frames(request.frames)
    window = min(latent_frames, request.recipe.chunking.latent_frames or latent_frames)
    tokens = facts.tokens(window, request.width, request.height)
    return facts.parameters * WEIGHT_BYTES + tokens * facts.dim * ACTIVATION_BYTES_PER_CHANNEL


def available_bytes(device: str, needed: int) -> int:
    """Memory of the device the render would use: the largest GPU's, or this machine's."""
    asks_gpu = device != "cpu" and needed > SMALL_BYTES
    gpus = list_gpus() if asks_gpu else []
    return max((gpu.memory_bytes for gpu in gpus), default=0) or memory_bytes()


def check_memory(request: RenderRequest, model: ModelEntry, *, device: str) -> None:
    """Refuse what cannot fit.

    Raises:
        ResourceError: The lower bound exceeds the memory of the device.
    """
    needed = estimate_bytes(request, model)
    available = available_bytes(device, needed)
    if needed > available:
        raise ResourceError(
            f"{request.frames} frames of {request.width}x{request.height} with model '{model.name}' need at least "
            f"{needed / 1e9:.1f} GB of memory and there are {available / 1e9:.1f} GB; "
            "ask for fewer frames or a smaller size"
        )
