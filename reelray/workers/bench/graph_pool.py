"""What recordings of forwards keep of a device's memory."""

from functools import partial

import torch

from reelray.proto.graphs import GRAPH_TOKENS
from reelray.workers.bench.case import BenchModel, ParallelCase
from reelray.workers.bench.forwards import forward
from reelray.workers.bench.timing import gather
from reelray.workers.models.sharding import WholeWindow


@torch.no_grad()
def measure_graph_pool(case: ParallelCase, model: BenchModel) -> dict[str, float]:
    """Bytes by which the device's memory shrinks when the largest window that is recorded is; every rank calls it.

    Returns:
        ``tokens`` and ``bytes`` of the rank that keeps most; nothing where nothing is recorded.
    """
    frames = min(case.latent_frames, GRAPH_TOKENS // case.places)
    if model.device.type != "cuda" or frames < 1:
        return {}
    inputs = model.draw_inputs(frames, case.rows, case.columns, seed=case.seed)
    run = partial(forward, model, inputs, WholeWindow())
    run()  # the first of a kind is not recorded
    before = _reserved()
    run()
    return {"tokens": frames * case.places, "bytes": max(gather(float(_reserved() - before)))}


def _reserved() -> int:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()
