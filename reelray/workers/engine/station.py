"""What a rank does while its gang is grouped in one layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.request import RenderRequest
from reelray.workers.engine.role import Role
from reelray.workers.models.sharding import PictureSharing, Sharding, WholeWindow
from reelray.workers.parallel.attention_choice import load_choice
from reelray.workers.parallel.cfg import ParallelBranches
from reelray.workers.parallel.handover import BroadcastHandover
from reelray.workers.parallel.layer_pipeline import LayerPipeline, PipelinedBranches
from reelray.workers.parallel.mesh import AxisGroup, Lane, Mesh, add_up, find_least
from reelray.workers.parallel.patch_pipeline import PatchBranches
from reelray.workers.parallel.row_sharing import COLLECTOR, RowSharing
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.weight_gather import WeightGather
from reelray.workers.samplers.guidance import Branches, SequentialBranches

if TYPE_CHECKING:
    from reelray.workers.models.api import VideoModel


def keep(tensor: Tensor) -> Tensor:
    """What the only rank adds up."""
    return tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Station:
    """One rank in one layout. All stations of a rank are made at its start; taking another one is a lookup.

    Args:
        lane: Lane of the layout to which the rank belongs.
        role: What it does there.
        branches: How the two branches of guidance are evaluated.
        sharding: With whom it shares the tokens of a forward.
        pictures: With whom it decodes; None means alone.
        pipeline: Through which forwards go where the ranks of the lane split the layers.
        layout: The layout; None where there is no gang.
        remembers: Whether streams that remember may come here.
        heads_of: Which of how many equal shares of the heads this rank attends; a memory keeps those.
        least: Of a number that each rank of the lane gives, the least; all of them must call it.
        add_up: Of a tensor that each rank has which attends other heads of the same tokens, the sum; all of them must
            call it.
        decodes_beside: Whether it decodes while a window of the same step moves.
        patched: Makes the branches of a request that asks for patches; None where the lane has no place for them.
    """

    lane: int = 0
    role: Role = field(default_factory=Role)
    branches: Branches = field(default_factory=SequentialBranches)
    sharding: Sharding = field(default_factory=WholeWindow)
    pictures: PictureSharing | None = None
    pipeline: LayerPipeline | None = None
    layout: Layout | None = None
    remembers: bool = True
    heads_of: tuple[int, int] = (0, 1)
    least: Callable[[int], int] = int
    add_up: Callable[[Tensor], Tensor] = keep
    decodes_beside: bool = False
    patched: Callable[[Patching], Branches] | None = None

    def branches_for(self, request: RenderRequest) -> Branches:
        """How the branches of this request are evaluated.

        Raises:
            UnsupportedError: It asks for patches, and there is no place for them.
        """
        if request.patching is None or not self.role.denoises:
            return self.branches
        if self.patched is None:
            raise UnsupportedError("the ranks of this engine do not split the layers; patches need them to")
        return self.patched(request.patching)

    def take(self, model: "VideoModel") -> None:
        """Have the model work with the ranks of this station's lane from here on."""
        model.use_sharding(self.sharding)
        model.use_picture_sharing(self.pictures)


def make_stations(
    model: "VideoModel", mesh: Mesh, layouts: Sequence[Layout], lent: Layout | None = None
) -> Mapping[Layout, Station]:
    """Make this rank's station in every layout.

    Args:
        model: Asked what it can share; a layout with `pipe` makes it drop layers, so it must be the only one.
        mesh: The groups.
        layouts: Those of the mesh.
        lent: That of all ranks while those that only decode help to denoise.
    """
    stations = {layout: _make_station(model, mesh, layout) for layout in layouts}
    if lent is None:
        return stations
    return stations | {lent: _make_lent(model, mesh.lane(lent), stations[layouts[0]].role)}


def _make_station(model: "VideoModel", mesh: Mesh, layout: Layout) -> Station:
    decoding = mesh.decoding
    if decoding is not None:
        role, pictures = _share_pictures(model, mesh, decoding, denoises=False)
        return Station(role=role, pictures=pictures)
    lane = mesh.lane(layout)
    if lane.weights is not None:
        model.use_weight_gather(WeightGather(lane.weights))
    role, pictures = _share_pictures(model, mesh, lane.everyone, denoises=True)
    heads_of = (lane.ulysses.index, lane.ulysses.size)
    station = Station(lane=lane.replica, role=role, sharding=_share_tokens(lane), pictures=pictures, heads_of=heads_of)
    least = partial(find_least, lane.everyone, model.device)
    station = replace(station, layout=layout, least=least, add_up=partial(add_up, lane.ulysses))
    station = replace(station, decodes_beside=pictures is not None and _exchanges_by_memory(lane))
    return _share_branches(station, model, lane)


def _exchanges_by_memory(lane: Lane) -> bool:
    """Whether forwards of the lane wait for no collective: those of a decode beside them would be in their way."""
    by_memory = lane.ulysses.size == len(lane.ranks) and lane.ulysses.peer_memory is not None
    return by_memory and lane.weights is None  # shares of weights come by collectives


def _make_lent(model: "VideoModel", lane: Lane, own: Role) -> Station:
    """All ranks denoise, and nothing is decoded; who tells, and who gives clean latents later, stays the same.

    Args:
        model: Asked what it can share.
        lane: All ranks.
        own: What this rank does otherwise.
    """
    handover = own.handover if own.denoises else None
    role = Role(decodes=False, tells_denoise=own.tells_denoise, tells_decode=False, handover=handover)
    return _share_branches(Station(role=role, sharding=_share_tokens(lane), remembers=False), model, lane)


def _share_tokens(lane: Lane) -> Sharding:
    return SequenceSharding(lane, make_attention=load_choice(lane)) if lane.sequence.size > 1 else WholeWindow()


def _share_branches(station: Station, model: "VideoModel", lane: Lane) -> Station:
    branches: Branches = SequentialBranches()
    if lane.cfg.size > 1:
        branches = ParallelBranches(lane.cfg, model.device, in_step=lane.weights is not None)
    if lane.pipe.size == 1:
        return replace(station, branches=branches)
    pipeline = LayerPipeline(lane.pipe, model.facts.layers)
    model.use_stages(pipeline, pipeline.layers)

    def patch(patching: Patching) -> Branches:
        return PatchBranches(pipeline, patching, around=branches)

    return replace(
        station,
        branches=PipelinedBranches(pipeline, around=branches),
        pipeline=pipeline,
        patched=patch if lane.sequence.size == 1 else None,
    )


def _share_pictures(
    model: "VideoModel", mesh: Mesh, decoding: AxisGroup, *, denoises: bool
) -> tuple[Role, PictureSharing | None]:
    """What a rank does, and with whom it decodes.

    Args:
        model: Asked whether it can share pictures.
        mesh: Knows the ranks that do nothing but decode.
        decoding: The ranks that decode with this one, if it does.
        denoises: Whether this rank denoises.
    """
    handover = None if mesh.handover is None else BroadcastHandover(mesh.handover, model.device)
    first = decoding.index == COLLECTOR
    if mesh.has_spare and denoises:
        return Role(decodes=False, tells_denoise=first, tells_decode=False, handover=handover), None
    sharing = RowSharing(decoding, scale=model.facts.spatial_stride)
    # One rank alone decodes as if there were no gang: in tiles where memory is short, and with the same bytes.
    shares = decoding.size > 1 and model.use_picture_sharing(sharing)
    role = Role(
        denoises=denoises,
        decodes=first or shares or not denoises,
        tells_denoise=denoises and first,
        tells_decode=first,
        helps=not denoises and mesh.lent is not None,
        handover=handover,
    )
    return role, sharing if shares else None
