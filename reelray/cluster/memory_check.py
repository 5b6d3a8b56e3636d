"""Refuses a render that cannot fit, before anything is loaded.

The estimate is a lower bound: the transformer's weights, as far as they have to be there at once, and the activations
of one of its blocks, in bfloat16. What passes may still be too large for the engine, which then says so itself; what
is refused here had no hope.
"""

from reelray.cluster.machine import Gpu, list_gpus, memory_bytes
from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.errors import ResourceError
from reelray.proto.request import RenderRequest
from reelray.proto.residency import Blocks
from reelray.scheduler.plan.residency import BLOCKS_IN_FLIGHT

WEIGHT_BYTES = 2
ACTIVATION_BYTES_PER_CHANNEL = 12
"""Residual, query, key, value, attention output and one feed-forward slice, two bytes each; fused kernels do not go
lower."""
SMALL_BYTES = 4 * 2**30
"""Every GPU that runs these models has as much: asking the driver would cost more than it tells."""


def estimate_bytes(request: RenderRequest, model: ModelEntry, *, share: float = 1.0) -> int:
    """Bytes that running this request needs at once.

    Args:
        request: The request.
        model: Its model.
        share: Of the weights that have to be there; the blocks in flight always have to.
    """
    facts = model.facts
    latent_frames = facts.latent_frames(request.frames, endless=request.recipe.is_endless)
    window = min(latent_frames, request.recipe.in_flight * (request.recipe.chunking.latent_frames or latent_frames))
    tokens = facts.tokens(window, request.width, request.height)
    in_flight = 0.0 if share == 1.0 else BLOCKS_IN_FLIGHT / facts.layers
    weights = facts.parameters * WEIGHT_BYTES * min(1.0, share + in_flight)
    return int(weights) + tokens * facts.dim * ACTIVATION_BYTES_PER_CHANNEL


def check_memory(request: RenderRequest, model: ModelEntry, *, device: str, blocks: Blocks | None = None) -> None:
    """Refuse what cannot fit.

    Args:
        request: The request.
        model: Its model.
        device: ``auto``, ``cpu`` or ``cuda``.
        blocks: Where the weights shall be; None leaves it to the plan, which may move them off a GPU.

    Raises:
        ResourceError: The lower bound exceeds the memory of the device; the message says what would help.
    """
    needed = estimate_bytes(request, model)
    gpus = list_gpus() if device != "cpu" and needed > SMALL_BYTES else []
    on_gpu = max((gpu.memory_bytes for gpu in gpus), default=0)
    available = on_gpu or memory_bytes()
    if needed <= available:
        return
    least = estimate_bytes(request, model, share=0.0)
    if on_gpu and blocks is not Blocks.RESIDENT:
        needed = least  # whichever way they are held, no less than that is there
    if needed <= available:
        return
    advice = "ask for fewer frames or a smaller size"
    if on_gpu and least <= available:
        advice = _advise(request, model, gpus, available)
    raise ResourceError(
        f"{request.frames} frames of {request.width}x{request.height} with model '{model.name}' need at least "
        f"{needed / 1e9:.1f} GB of memory and there are {available / 1e9:.1f} GB; {advice}"
    )


def _advise(request: RenderRequest, model: ModelEntry, gpus: list[Gpu], available: int) -> str:
    offloaded = estimate_bytes(request, model, share=0.0)
    ways = [f"--weights offloaded needs {offloaded / 1e9:.1f} GB there and the rest in host memory"]
    for ranks in range(2, len(gpus) + 1):
        if estimate_bytes(request, model, share=1 / ranks) <= available:
            ways.append(f"--weights sharded fits on {ranks} GPUs (--gpus {ranks})")
            break
    return ", ".join(ways)
