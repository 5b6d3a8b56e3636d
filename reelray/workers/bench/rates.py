"""What a calibration table is made of, at the shapes of one model: rates and times, measured on all ranks at once.

Shape suffixes: B batch, S tokens, N heads, D head width, K, M matrix sides.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from reelray.kernels.attention.api import attend
from reelray.proto.layout import Layout
from reelray.workers.bench.case import BenchModel, ParallelCase
from reelray.workers.bench.forwards import forward
from reelray.workers.bench.graph_pool import measure_graph_pool
from reelray.workers.bench.timing import gather, time_short
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.parallel.exchange import plan_heads
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.peer_exchange import open_exchange
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.token_split import TokenSplit

MIB = 2**20
EXCHANGED_BYTES = {"cuda": (MIB, 12 * MIB, 64 * MIB, 256 * MIB), "cpu": (MIB // 16, MIB)}
"""Of which a rank keeps its own share."""
COPIED_BYTES = {"cuda": 1024 * MIB, "cpu": 8 * MIB}
HOST_BYTES = 512 * MIB
FEW_TOKENS = 1560
SMALLEST = (1, 8, 8)
"""Latent frames, rows and columns of a window that takes as long as the host needs to start its kernels."""
ULYSSES_EXCHANGES = 4
PER_TERA, PER_GIGA = 1e9, 1e6
"""Operations or bytes in a millisecond, at 1e12 or 1e9 per second."""


@torch.no_grad()
def measure_rates(case: ParallelCase, model: BenchModel, mesh: Mesh) -> dict[str, Any]:
    """Measure everything; every rank calls it.

    Returns:
        Plain numbers by the names of `Calibration`, and for curves the points; what this device cannot tell is absent.
    """
    device, dtype = model.device, model.dtype
    pool = measure_graph_pool(case, model)
    found: dict[str, Any] = {
        "gemm": [measure_products(case, tokens, device, dtype) for tokens in token_counts(case)],
        "attention": [measure_attention(case, degree, device, dtype) for degree in degrees(case)],
        "cross_tflops": measure_cross(case, device, dtype),
        "memory_gb_s": measure_memory(device, dtype),
        "relayout_gb_s": measure_relayout(case, device, dtype),
        "exchange": [measure_exchange(size, device) for size in EXCHANGED_BYTES[device.type]],
    }
    found |= measure_launch(case, model, mesh) | ({"graph_pool": pool} if pool else {})
    if widest_ulysses(case.layouts) is not None:
        found["ulysses"] = measure_ulysses(case, model, mesh)
    if device.type == "cuda":
        found |= measure_host_copies(device)
        found["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return found


def degrees(case: ParallelCase) -> list[int]:
    """Ranks that share a forward, over all layouts, one first."""
    return sorted({1, *(layout.sequence for layout in case.layouts)})


def token_counts(case: ParallelCase) -> list[int]:
    """Tokens of one rank in these layouts, and few of them; most first."""
    return sorted({*(math.ceil(case.tokens / degree) for degree in degrees(case)), min(FEW_TOKENS, case.tokens)})[::-1]


def measure_products(case: ParallelCase, tokens: int, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Rate of the products of one layer, each as often as it stands there."""
    dim, ffn = case.source.facts.dim, case.source.sizes.ffn_dim
    spent_ms = operations = 0.0
    for entering, leaving, count in ((dim, 3 * dim, 1), (dim, dim, 3), (dim, ffn, 1), (ffn, dim, 1)):
        x_SK = torch.randn(tokens, entering, device=device, dtype=dtype)
        weight_MK = torch.randn(leaving, entering, device=device, dtype=dtype) * entering**-0.5
        spent_ms += count * slowest(time_short(partial(F.linear, x_SK, weight_MK), device))
        operations += count * 2 * tokens * entering * leaving
    return {"tokens": tokens, "dim": dim, "tflops": operations / spent_ms / PER_TERA}


def measure_attention(case: ParallelCase, degree: int, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Rate of self-attention of the whole window with the heads that one of `degree` ranks has."""
    heads = math.ceil(case.source.sizes.heads / degree)
    parts = [draw_heads(case, case.tokens, heads, device, dtype) for _ in range(3)]
    spent_ms = slowest(time_short(partial(attend, *parts), device, samples=5))
    width = parts[0].shape[-1]
    operations = 4 * case.tokens**2 * heads * width
    return {"queries_heads": case.tokens * heads, "tflops": operations / spent_ms / PER_TERA}


def measure_cross(case: ParallelCase, device: torch.device, dtype: torch.dtype) -> float:
    """Rate of attention to the text, TFLOP/s."""
    heads, context = case.source.sizes.heads, case.source.facts.text_tokens
    q_BSND = draw_heads(case, case.tokens, heads, device, dtype)
    k_BKND, v_BKND = (draw_heads(case, context, heads, device, dtype) for _ in range(2))
    spent_ms = slowest(time_short(partial(attend, q_BSND, k_BKND, v_BKND), device))
    return 4 * case.tokens * context * case.source.facts.dim / spent_ms / PER_TERA


def draw_heads(case: ParallelCase, tokens: int, heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random [B, S, N, D]."""
    width = case.source.facts.dim // case.source.sizes.heads
    return torch.randn(1, tokens, heads, width, device=device, dtype=dtype)


def measure_memory(device: torch.device, dtype: torch.dtype) -> float:
    """GB/s of element-wise work, read and write."""
    x = torch.randn(COPIED_BYTES[device.type] // dtype.itemsize, device=device, dtype=dtype)
    out = torch.empty_like(x)
    return 2 * x.nbytes / slowest(time_short(lambda: torch.mul(x, 2.0, out=out), device)) / PER_GIGA


def measure_relayout(case: ParallelCase, device: torch.device, dtype: torch.dtype) -> float:
    """GB/s, read and write, of the copy that puts heads of each peer together before an exchange."""
    ranks = dist.get_world_size()
    tokens, width = math.ceil(case.tokens / ranks), math.ceil(case.source.facts.dim / ranks)
    x = torch.randn(tokens, ranks, width, device=device, dtype=dtype)
    out = torch.empty(ranks, tokens, width, device=device, dtype=dtype)
    return 2 * x.nbytes / slowest(time_short(lambda: out.copy_(x.transpose(0, 1)), device)) / PER_GIGA


def measure_exchange(size: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of an all-to-all of `size` bytes per rank, by the bytes that a rank really sends."""
    ranks = dist.get_world_size()
    packed = torch.empty(size // ranks * ranks, dtype=torch.uint8, device=device)
    landed = torch.empty_like(packed)
    spent_ms = slowest(time_short(lambda: dist.all_to_all_single(landed, packed), device, samples=9))
    return {"sent_bytes": packed.nbytes * (ranks - 1) / ranks, "ms": spent_ms}


def measure_launch(case: ParallelCase, model: BenchModel, mesh: Mesh) -> dict[str, float]:
    """Host time of a layer, and of one exchange of Ulysses in it, from a window too small to be anything else."""
    inputs = model.draw_inputs(*SMALLEST, seed=case.seed)
    layers = case.source.facts.layers
    run = partial(time_short, device=model.device, samples=9)
    alone_ms = slowest(run(partial(forward, model, inputs, WholeWindow())))
    found = {"launch_ms": alone_ms / layers}
    widest = widest_ulysses(case.layouts)
    if widest is not None:
        sharding = SequenceSharding(mesh.lane(widest))
        together_ms = slowest(run(partial(forward, model, inputs, sharding)))
        if together_ms > alone_ms:
            found["exchange_launch_ms"] = (together_ms - alone_ms) / layers / ULYSSES_EXCHANGES
    return found


def measure_ulysses(case: ParallelCase, model: BenchModel, mesh: Mesh) -> list[dict[str, float]]:
    """Milliseconds of each direction of the exchange of heads, by the bytes that a rank sends.

    Attention is left out: what exchanges a window of one latent frame, and one of all, is timed with nothing between.
    """
    layout = widest_ulysses(case.layouts)
    assert layout is not None
    lane, heads = mesh.lane(layout), case.source.sizes.heads
    found = []
    for frames in sorted({1, case.latent_frames}):
        split = TokenSplit(frames=frames, places=case.places, ulysses=layout.ulysses, index=lane.sequence.index)
        tokens = frames * len(split.shares[split.index])
        own = [draw_heads(case, tokens, heads, model.device, model.dtype) for _ in range(ULYSSES_EXCHANGES - 1)]
        exchange = open_exchange(lane.ulysses, split, plan_heads(heads, layout.ulysses, 1)[0])
        theirs = exchange.to_heads(own)[0].clone()
        sent = own[0].nbytes * (layout.ulysses - 1) / layout.ulysses
        for parts, run in ((len(own), partial(exchange.to_heads, own)), (1, partial(exchange.to_tokens, theirs))):
            spent_ms = slowest(time_short(run, model.device, samples=9))
            found.append({"sent_bytes": parts * sent, "ms": spent_ms})
    return found


def widest_ulysses(layouts: Sequence[Layout]) -> Layout | None:
    """The layout of most ulysses ranks without a ring; None when there is none."""
    found = [layout for layout in layouts if layout.ulysses > 1 and layout.ring == 1]
    return max(found, key=lambda layout: layout.ulysses, default=None)


def measure_host_copies(device: torch.device) -> dict[str, float]:
    """GB/s from pinned host memory: to one device while the others wait, and to all at once."""
    source = torch.empty(HOST_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(HOST_BYTES, dtype=torch.uint8, device=device)
    first = dist.get_rank() == 0
    one = time_short(lambda: target.copy_(source, non_blocking=True) if first else None, device)
    every = time_short(lambda: target.copy_(source, non_blocking=True), device)
    return {
        "host_gb_s": HOST_BYTES / gather(one)[0] / PER_GIGA,
        "host_total_gb_s": sum(HOST_BYTES / ms / PER_GIGA for ms in gather(every)),
    }


def slowest(own_ms: float) -> float:
    """The time of the slowest rank; every rank calls it."""
    return float(max(gather(own_ms)))
