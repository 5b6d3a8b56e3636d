"""The mesh of a gang: every layout it may take, and the process groups of this rank in each.

All groups are made once, when the gang starts; taking another layout is a lookup.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from reelray.proto.errors import EngineError, InputError, UnsupportedError
from reelray.proto.layout import AXES, Layout
from reelray.proto.residency import WeightShare
from reelray.workers.parallel.group_pool import GroupPool, MemoryOpener, Ranks
from reelray.workers.parallel.peer_memory import PeerMemory, open_peer_memory

WEIGHTS = "weights"
"""Channel of the ranks that share their weights.

A communicator of NCCL runs its collectives one after the other. Blocks are gathered while others compute, so on the
groups of the axes each exchange of a layer would wait for the whole next block. Every rank begins both kinds in the
same order, and the kernels of both fit on a GPU together, so neither can hold the other up for ever; only
`CUDA_DEVICE_MAX_CONNECTIONS=1`, which puts all streams into one queue, would bring the waiting back.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisGroup:
    """The ranks with which this rank shares one mesh axis.

    Args:
        axis: Name of the axis.
        ranks: Numbers of these ranks in the world, in the order of the axis.
        index: Place of this rank among them.
        pool: Holds the process group.
        channel: Set where the group is not the one of everything else between these ranks.
    """

    axis: str
    ranks: Ranks
    index: int
    pool: GroupPool
    channel: str = ""

    @property
    def size(self) -> int:
        """Degree of the axis."""
        return len(self.ranks)

    @property
    def device(self) -> torch.device:
        """Where the tensors of its collectives lie."""
        return self.pool.device

    @property
    def process_group(self) -> dist.ProcessGroup:
        """What a collective over this axis is given.

        Raises:
            EngineError: The mesh was closed or aborted.
        """
        return self.pool.get(self.ranks, self.channel)

    @property
    def peer_memory(self) -> PeerMemory | None:
        """Memory that its ranks share, None where they share none."""
        return self.pool.peer_memory(self.ranks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """This rank's place in one layout.

    Args:
        layout: The layout.
        replica: Which lane of the layout this is.
        ranks: Ranks of the lane, which work on one video.
        cfg: Ranks with the other guidance branches.
        pipe: Ranks with the other layers.
        ring: Ranks with the other blocks of tokens.
        ulysses: Ranks with the other tokens of the block.
        sequence: Ring x ulysses, row by row: everyone who shares the tokens of a forward.
        everyone: All ranks of the lane, who share the pictures of a video.
        weights: Ranks with the same layers, which share their weights; None where each holds its own.
        device_mesh: The same groups as torch's mesh, with one dim per axis of `reelray.proto.layout.AXES`.
    """

    layout: Layout
    replica: int
    ranks: Ranks
    cfg: AxisGroup
    pipe: AxisGroup
    ring: AxisGroup
    ulysses: AxisGroup
    sequence: AxisGroup
    everyone: AxisGroup
    weights: AxisGroup | None
    device_mesh: DeviceMesh


class Mesh:
    """Every layout of a gang, seen from this rank; see `Mesh.create`."""

    def __init__(
        self, lanes: dict[Layout, Lane], pool: GroupPool, decoding: Ranks = (), *, lends: bool = False
    ) -> None:
        self._lanes = lanes
        self._pool = pool
        self._decoding = decoding
        self._lends = lends
        self._denoising = tuple(range(dist.get_world_size() - len(decoding)))

    @property
    def decoding(self) -> AxisGroup | None:
        """The spare ranks, of which this one is one; None on a rank that denoises."""
        return self._outside("decoding", self._decoding)

    @property
    def handover(self) -> AxisGroup | None:
        """The first rank that denoises and all spare ones; None on ranks that are neither, or without spare ones."""
        return self._outside("handover", (0, *self._decoding)) if self._decoding else None

    @property
    def everyone(self) -> AxisGroup | None:
        """All ranks that denoise, whatever the layout, of which this one is one; None on spare ranks."""
        return self._outside("everyone", self._denoising)

    @property
    def lent(self) -> AxisGroup | None:
        """All ranks of the gang, where spare ones may be lent to those that denoise; None where they are not."""
        return self._outside("lent", (*self._denoising, *self._decoding)) if self._lends else None

    @property
    def spare(self) -> Ranks:
        """Ranks that do nothing but decode, unless they are lent."""
        return self._decoding

    @property
    def has_spare(self) -> bool:
        """Whether there are ranks that do nothing but decode."""
        return bool(self._decoding)

    def _outside(self, axis: str, ranks: Ranks) -> AxisGroup | None:
        rank = dist.get_rank()
        if rank not in ranks:
            return None
        return AxisGroup(axis=axis, ranks=ranks, index=ranks.index(rank), pool=self._pool)

    @classmethod
    def create(
        cls,
        layouts: Sequence[Layout],
        device: torch.device | str,
        *,
        spare: int = 0,
        lent: Layout | None = None,
        shares_weights: bool = False,
        timeout_s: float | None = None,
        open_memory: MemoryOpener = open_peer_memory,
    ) -> "Mesh":
        """Make the groups of all layouts. Every rank of the world must call it with the same layouts.

        Args:
            layouts: What the gang may be switched to; each uses every rank, idle ones as further replicas.
            device: Where the tensors of this rank lie.
            spare: Ranks behind those of the layouts, which decode.
            lent: Layout of all ranks, spare ones included, for the time when these help to denoise.
            shares_weights: Make the groups of ranks that share their weights.
            timeout_s: After how long a collective fails; None takes torch's default.
            open_memory: Lets the ranks of a group share memory, or gives None.

        Raises:
            EngineError: The process has not joined a gang.
            InputError: A layout has more or fewer ranks than the gang.
        """
        if not dist.is_initialized():
            raise EngineError("a mesh needs a gang: join one with torch.distributed.init_process_group first")
        world = dist.get_world_size() - spare
        for layout in layouts:
            if layout.ranks != world:
                raise InputError(f"layout {layout} has {layout.ranks} ranks, the gang {world}; use them as replicas")
        decoding = tuple(range(world, world + spare))
        device = torch.device(device)
        pool = GroupPool(device, timeout_s=timeout_s, open_memory=open_memory)
        if lent is not None and lent.ranks != world + spare:
            raise InputError(f"layout {lent} of lent ranks has {lent.ranks}, the gang {world + spare}")
        for layout in (*layouts, lent) if lent is not None else layouts:
            _add_layout(pool, layout, shares_weights=shares_weights)
        pool.add(tuple(range(world)))
        for ranks in (decoding, (0, *decoding)) if spare else ():
            pool.add(ranks)
        denoises = dist.get_rank() < world
        lanes = {layout: _lane(layout, pool, device, shares_weights=shares_weights) for layout in layouts if denoises}
        if lent is not None:
            lanes[lent] = _lane(lent, pool, device, shares_weights=False)
        return cls(lanes, pool, decoding, lends=lent is not None)

    @property
    def groups(self) -> int:
        """Process groups made for all layouts together; it never grows."""
        return len(self._pool)

    def lane(self, layout: Layout) -> Lane:
        """Look up this rank's place in a layout.

        Raises:
            EngineError: The mesh was closed or aborted.
            UnsupportedError: The gang was started without this layout.
        """
        if layout not in self._lanes:
            known = "; ".join(map(str, self._lanes))
            raise UnsupportedError(f"the gang was started without layout {layout}; it has {known}")
        lane = self._lanes[layout]
        _ = lane.sequence.process_group
        return lane

    def close(self) -> None:
        """Destroy all groups; every rank must call it, after its last collective."""
        self._pool.close()

    def abort(self) -> None:
        """Give up the gang because a rank is lost; needs no other rank. This process may then join a new gang.

        On NCCL collectives in flight end, which they would never do by themselves. On gloo they end when their peer's
        process does, when it has aborted its mesh too and holds no group any more, or after `timeout_s`.
        """
        self._pool.abort()


def _add_layout(pool: GroupPool, layout: Layout, *, shares_weights: bool) -> None:
    for ranks in _all_groups(layout):
        pool.add(ranks)
    for ranks in _sharing_groups(layout) if shares_weights else ():
        pool.add(ranks, WEIGHTS)
    for ranks in _along(_grid(layout), AXES.index("ulysses")):
        pool.share_memory(ranks)


def _grid(layout: Layout) -> torch.Tensor:
    return torch.arange(layout.ranks).view([getattr(layout, axis) for axis in AXES])


def _along(grid: torch.Tensor, dim: int) -> Iterable[Ranks]:
    return (tuple(row.tolist()) for row in grid.movedim(dim, -1).reshape(-1, grid.shape[dim]))


def _all_groups(layout: Layout) -> Iterable[Ranks]:
    """Rank sets of every axis, of the flattened sequence and of every lane, the same sequence on every rank."""
    grid = _grid(layout)
    for dim in range(grid.ndim):
        yield from _along(grid, dim)
    yield from _along(grid.flatten(3), 3)
    yield from _along(grid.flatten(1), 1)


def _sharing_groups(layout: Layout) -> list[Ranks]:
    """Ranks of a lane that hold the same layers."""
    return list(_along(_grid(layout).movedim(AXES.index("pipe"), 1).flatten(2), 2))


def find_share(layout: Layout, rank: int) -> WeightShare:
    """What a rank keeps of sharded weights; one that only decodes has the place of the first, and no use for it."""
    groups = _sharing_groups(layout)
    mine = next((ranks for ranks in groups if rank in ranks), None)
    return WeightShare(index=0 if mine is None else mine.index(rank), ranks=len(groups[0]))


def _lane(layout: Layout, pool: GroupPool, device: torch.device, *, shares_weights: bool) -> Lane:
    rank, grid = dist.get_rank(), _grid(layout)

    def group(axis: str, grid: torch.Tensor, dim: int) -> AxisGroup:
        ranks = next(ranks for ranks in _along(grid, dim) if rank in ranks)
        return AxisGroup(axis=axis, ranks=ranks, index=ranks.index(rank), pool=pool)

    axes = {axis: group(axis, grid, dim) for dim, axis in enumerate(AXES)}
    lane_ranks = math.prod(grid.shape[1:])
    replica = rank // lane_ranks
    groups = [axes[axis].process_group for axis in AXES]
    return Lane(
        layout=layout,
        replica=replica,
        ranks=tuple(range(replica * lane_ranks, (replica + 1) * lane_ranks)),
        cfg=axes["cfg"],
        pipe=axes["pipe"],
        ring=axes["ring"],
        ulysses=axes["ulysses"],
        sequence=group("sequence", grid.flatten(3), 3),
        everyone=group("everyone", grid.flatten(1), 1),
        weights=_weights_group(layout, pool) if shares_weights else None,
        device_mesh=DeviceMesh.from_group(groups, device.type, grid, mesh_dim_names=AXES),
    )


def _weights_group(layout: Layout, pool: GroupPool) -> AxisGroup:
    rank = dist.get_rank()
    ranks = next(ranks for ranks in _sharing_groups(layout) if rank in ranks)
    return AxisGroup(axis=WEIGHTS, ranks=ranks, index=ranks.index(rank), pool=pool, channel=WEIGHTS)


def add_up(group: AxisGroup, tensor: Tensor) -> Tensor:
    """The sum of a tensor that each rank of a group has; the same bits on all of them, all of which must call this."""
    if group.size > 1:
        dist.all_reduce(tensor, group=group.process_group)
    return tensor


def find_least(group: AxisGroup, device: torch.device, number: int) -> int:
    """The least of the numbers that the ranks of a group give; all of them must call this."""
    if group.size == 1:
        return number
    least = torch.tensor([number], device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN, group=group.process_group)
    return int(least.item())
