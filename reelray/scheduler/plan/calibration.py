"""The numbers a prediction rests on: rates, times and bytes of one kind of GPU, measured or fitted to measurements."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from reelray.scheduler.plan.machine import Link

RATES = (
    "gemm_half_size",
    "cross_tflops",
    "memory_gb_s",
    "relayout_gb_s",
    "host_gb_s",
    "host_total_gb_s",
    "text_tflops",
    "decode_tflops",
)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points joined by straight lines between logarithms; beyond its ends a curve keeps the value of the end.

    Args:
        points: Pairs (x, y), all positive, x rising.

    Raises:
        ValueError: The points are none of that.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points or any(value <= 0 for point in self.points for value in point):
            raise ValueError(f"curve holds {self.points}; it needs points of positive numbers")
        if any(left[0] >= right[0] for left, right in pairwise(self.points)):
            raise ValueError(f"curve holds {self.points}; x must rise")

    def at(self, x: float) -> float:
        """The value at `x`."""
        first, last = self.points[0], self.points[-1]
        if x <= first[0]:
            return first[1]
        if x >= last[0]:
            return last[1]
        left, right = next(pair for pair in pairwise(self.points) if x <= pair[1][0])
        share = math.log(x / left[0]) / math.log(right[0] / left[0])
        return float(left[1] * (right[1] / left[1]) ** share)

    @property
    def end(self) -> tuple[float, float]:
        """The last point."""
        return self.points[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """One table. Units are in the names; TFLOP/s and GB/s are 1e12 and 1e9 per second.

    Args:
        name: Of the table.
        memory_bytes: Of one GPU of this kind.
        gemm_tflops: Matrix products of many tokens, by the width of the model.
        gemm_half_size: Tokens times width at which a product runs at half that rate.
        attention_tflops: Self-attention, by query tokens times heads on one rank.
        cross_tflops: Attention to the text.
        memory_gb_s: Device memory, for element-wise work.
        passes_dim: Reads and writes of a tensor of the model's width in one layer.
        passes_ffn: Reads and writes of a tensor of the feed-forward's width in one layer.
        relayout_gb_s: Copies that put tokens and heads in the order an exchange wants.
        launch_ms: Host time of one layer's kernels: no layer is faster.
        exchange_launch_ms: Host time of one exchange.
        exchange_ms: Time of an exchange by the bytes that a rank sends, for each kind of link.
        ulysses_ms: Time of one direction of the Ulysses exchange, copies and waiting included, by the bytes that a rank
            sends, for the links where it was measured; elsewhere it is put together of collectives and copies.
        exchange_overlap: Share of exchanges that hides behind compute.
        host_gb_s: Host memory to one device, for weights.
        host_total_gb_s: Host memory to all devices at once.
        copy_overlap: Share of a layer's compute behind which the next layer's weights can arrive.
        text_tflops: Text and image encoder.
        decode_tflops: Latent decoder on one GPU.
        decode_speedup: Of the decoder by GPUs that share it.
        context_bytes: What a process takes on a GPU before its first tensor, and what an allocator wastes.
        group_bytes: Buffers of one communication group.
        graph_pool_factor: Bytes that recorded forwards keep, over the activations of one layer of the largest of them.

    Raises:
        ValueError: A number is out of range.
    """

    name: str
    memory_bytes: int
    gemm_tflops: Curve
    gemm_half_size: float
    attention_tflops: Curve
    cross_tflops: float
    memory_gb_s: float
    passes_dim: float
    passes_ffn: float
    relayout_gb_s: float
    launch_ms: float
    exchange_launch_ms: float
    exchange_ms: Mapping[Link, Curve]
    ulysses_ms: Mapping[Link, Curve]
    exchange_overlap: float
    host_gb_s: float
    host_total_gb_s: float
    copy_overlap: float
    text_tflops: float
    decode_tflops: float
    decode_speedup: Curve
    context_bytes: int
    group_bytes: int
    graph_pool_factor: float

    def __post_init__(self) -> None:
        for name in RATES:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        if self.graph_pool_factor < 0:
            raise ValueError(f"graph_pool_factor is {self.graph_pool_factor}; it must be at least 0")
        for name in ("exchange_overlap", "copy_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0..1")
        missing = {Link.NVLINK, Link.PCIE} - set(self.exchange_ms)
        if missing:
            raise ValueError(f"exchange_ms has no curve for {', '.join(sorted(missing))}")

    def gemm_rate(self, tokens: int, dim: int) -> float:
        """TFLOP/s of the products of one layer: small ones leave processors idle."""
        size = tokens * dim
        return self.gemm_tflops.at(dim) * size / (size + self.gemm_half_size)

    def exchange_time(self, sent_bytes: float, link: Link) -> float:
        """Milliseconds of one exchange in which every rank sends `sent_bytes`."""
        return _time(self.exchange_ms[link], sent_bytes)

    def ulysses_time(self, sent_bytes: float, link: Link) -> float | None:
        """Milliseconds of one direction of the Ulysses exchange; None where it was not measured on such links."""
        return _time(self.ulysses_ms[link], sent_bytes) if link in self.ulysses_ms else None


def _time(curve: Curve, sent_bytes: float) -> float:
    """Beyond the end of its curve a transfer takes as long as its bytes."""
    return curve.at(sent_bytes) * max(1.0, sent_bytes / curve.end[0])
