"""Every method of choosing blocks, by its name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from reelray.proto.sparsity import SparseMethod, SparsityPolicy
from reelray.workers.acceleration.sparsity.antidiagonal import Antidiagonal
from reelray.workers.acceleration.sparsity.head_classes import HeadClasses
from reelray.workers.acceleration.sparsity.patterns import (
    BlockDiagonal,
    FixedRouter,
    FrameDiagonal,
    SlidingTile,
    Stripes,
)
from reelray.workers.acceleration.sparsity.pooled import BLOCK_MEAN, Chunks, Draft, Sparge, SubBlock
from reelray.workers.acceleration.sparsity.radial import Radial
from reelray.workers.acceleration.sparsity.router import Router
from reelray.workers.acceleration.sparsity.trained import Sla, Vsa


def _sliding_tile(policy: SparsityPolicy) -> Router:
    frames, rows, columns = (int(policy.option(f"window_{axis}")) for axis in ("frames", "rows", "columns"))
    return FixedRouter(SlidingTile(windows=((frames, rows, columns),)))


def _radial(policy: SparsityPolicy) -> Router:
    return FixedRouter(Radial(decay=policy.option("decay"), near_frames=int(policy.option("near_frames"))))


def _frame_diagonal(policy: SparsityPolicy) -> Router:
    reach, references = int(policy.option("reach")), int(policy.option("references"))
    return FixedRouter(FrameDiagonal(reach=reach, references=references))


def _stripes(policy: SparsityPolicy) -> Router:
    return FixedRouter(Stripes(reach=int(policy.option("reach")), every=int(policy.option("every"))))


ROUTERS: Mapping[SparseMethod, Callable[[SparsityPolicy], Router]] = MappingProxyType(
    {
        SparseMethod.RADIAL: _radial,
        SparseMethod.SLIDING_TILE: _sliding_tile,
        SparseMethod.FRAME_DIAGONAL: _frame_diagonal,
        SparseMethod.STRIPES: _stripes,
        SparseMethod.BLOCK_DIAGONAL: lambda policy: FixedRouter(BlockDiagonal(blocks=int(policy.option("blocks")))),
        SparseMethod.SUB_BLOCK: lambda policy: SubBlock(parts=int(policy.option("parts"))),
        SparseMethod.BLOCK_MEAN: lambda _: BLOCK_MEAN,
        SparseMethod.SPARGE: lambda policy: Sparge(similarity=policy.option("similarity")),
        SparseMethod.ANTIDIAGONAL: lambda policy: Antidiagonal(stride=int(policy.option("stride"))),
        SparseMethod.DRAFT: lambda _: Draft(),
        SparseMethod.CHUNKS: lambda _: Chunks(),
        SparseMethod.HEAD_CLASSES: lambda policy: HeadClasses(samples=int(policy.option("samples"))),
        SparseMethod.VSA: lambda _: Vsa(),
        SparseMethod.SLA: lambda _: Sla(),
    }
)


def make_router(policy: SparsityPolicy) -> Router:
    """Make what chooses blocks under a policy.

    Args:
        policy: Its method and its options.
    """
    return ROUTERS[policy.method](policy)
