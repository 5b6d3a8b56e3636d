"""The process of one rank of a gang: joins, loads, carries out plans until its leader is gone.

`python -m reelray.workers.engine.gang_rank` reads its invitation from standard input.
"""

import os
import pickle
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed as dist

from reelray.proto.errors import EngineError, ReelrayError
from reelray.proto.residency import Blocks
from reelray.workers.engine.gang_wire import Assignment, Hello, Invitation, Pulse, Ran, Ready, Refused, Run, Wire
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.role import Role
from reelray.workers.engine.seams import ModelLoader, SharingLoader
from reelray.workers.parallel.attention_choice import load_choice
from reelray.workers.parallel.cfg import ParallelBranches
from reelray.workers.parallel.handover import BroadcastHandover
from reelray.workers.parallel.layer_pipeline import LayerPipeline, PipelinedBranches
from reelray.workers.parallel.mesh import AxisGroup, Lane, Mesh, find_share
from reelray.workers.parallel.row_sharing import COLLECTOR, RowSharing
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.weight_gather import WeightGather
from reelray.workers.samplers.guidance import Branches

if TYPE_CHECKING:
    from reelray.workers.models.api import VideoModel

PULSE_S = 0.2


class Heart:
    """Tells the leader that this process runs, from a thread of its own, and ends it when nobody listens.

    Args:
        wire: To the leader.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._progress = 0
        threading.Thread(target=self._beat, name="reelray-pulse", daemon=True).start()

    def moved(self) -> None:
        """Note that work has moved."""
        self._progress += 1

    def _beat(self) -> None:
        pause = threading.Event()
        while True:
            try:
                self._wire.send(Pulse(progress=self._progress))
            except OSError:
                os._exit(1)  # the leader is gone, and the main thread may wait in a collective for ever
            pause.wait(PULSE_S)


def serve(invitation: Invitation) -> None:
    """Be a rank until the leader closes the connection."""
    wire = Wire.connect(invitation)
    wire.send(Hello(rank=invitation.rank, generation=invitation.generation, pid=os.getpid(), code=digest_here()))
    assignment = wire.receive()
    assert isinstance(assignment, Assignment)
    heart = Heart(wire)
    try:
        rank = join(invitation, assignment, heart)
        wire.send(Ready(description=rank.describe()))
        _work(wire, rank)
    except ReelrayError as error:
        wire.send(Refused(error=error))
    except (EOFError, OSError):
        return  # the leader is gone
    except Exception as error:  # noqa: BLE001  the process boundary
        wire.send(Refused(error=EngineError(f"{type(error).__name__}: {error}".splitlines()[0])))


def join(invitation: Invitation, assignment: Assignment, heart: Heart) -> Rank:
    """Load the checkpoint and meet the other ranks.

    Raises:
        ReelrayError: The checkpoint cannot be opened, or the layout does not fit.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(invitation.rank % torch.cuda.device_count())
    torch.set_num_threads(assignment.threads)  # on a GPU too: the ranks share the cores of their machine
    if invitation.interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = invitation.interface
    model, load_s = open_timed(_own_loader(assignment, invitation.rank))
    heart.moved()
    dist.init_process_group(
        "nccl" if model.device.type == "cuda" else "gloo",
        init_method=assignment.meeting,
        rank=invitation.rank,
        world_size=assignment.ranks,
        timeout=timedelta(seconds=assignment.collective_s),
    )
    heart.moved()
    return _build(model, invitation, assignment, heart, load_s)


def _own_loader(assignment: Assignment, rank: int) -> ModelLoader:
    load = assignment.load
    return load.for_share(find_share(assignment.layout, rank)) if isinstance(load, SharingLoader) else load


def _build(model: "VideoModel", invitation: Invitation, assignment: Assignment, heart: Heart, load_s: float) -> Rank:
    layout, spare = assignment.layout, assignment.decode_ranks
    mesh = Mesh.create(
        assignment.layouts,
        model.device,
        spare=spare,
        shares_weights=model.residency.blocks is Blocks.SHARDED,
        timeout_s=assignment.collective_s,
    )
    branches, decoding = None, mesh.decoding
    if decoding is None:
        lane = mesh.lane(layout)
        decoding, branches = lane.everyone, _share_forwards(model, lane)
    return Rank(
        model,
        generation=invitation.generation,
        branches=branches,
        role=_choose_role(model, mesh, decoding, denoises=invitation.rank < layout.ranks),
        on_progress=heart.moved,
        load_s=load_s,
    )


def _share_forwards(model: "VideoModel", lane: Lane) -> Branches | None:
    """Have the model evaluate together with the ranks of a lane; returns how the branches of guidance are evaluated."""
    branches: Branches | None = None
    if lane.weights is not None:
        model.use_weight_gather(WeightGather(lane.weights))
    if lane.sequence.size > 1:
        model.use_sharding(SequenceSharding(lane, make_attention=load_choice(lane)))
    if lane.pipe.size > 1:
        pipeline = LayerPipeline(lane.pipe, model.facts.layers)
        model.use_stages(pipeline, pipeline.layers)
        branches = PipelinedBranches(pipeline)
    if lane.cfg.size > 1:
        branches = ParallelBranches(lane.cfg, model.device, in_step=lane.weights is not None)
    return branches


def _choose_role(model: "VideoModel", mesh: Mesh, decoding: AxisGroup, *, denoises: bool) -> Role:
    """What a rank does.

    Args:
        model: Told to share its pictures with the ranks that decode.
        mesh: Knows the ranks that do nothing but decode.
        decoding: The ranks that decode with this one, if it does.
        denoises: Whether this rank denoises.
    """
    handover = None if mesh.handover is None else BroadcastHandover(mesh.handover, model.device)
    first = decoding.index == COLLECTOR
    if mesh.has_spare and denoises:
        return Role(decodes=False, tells_denoise=first, tells_decode=False, handover=handover)
    shares = model.use_picture_sharing(RowSharing(decoding, scale=model.facts.spatial_stride))
    return Role(
        denoises=denoises,
        decodes=first or shares or not denoises,
        tells_denoise=denoises and first,
        tells_decode=first,
        handover=handover,
    )


def _work(wire: Wire, rank: Rank) -> None:
    while True:
        message = wire.receive()
        assert isinstance(message, Run)
        wire.send(Ran(report=rank.execute(message.plan)))


def digest_here() -> str:
    """See `gang_wire.digest_code`; a test gives a rank other code through this."""
    from reelray.workers.engine.gang_wire import digest_code  # noqa: PLC0415

    return digest_code()


if __name__ == "__main__":
    serve(pickle.loads(sys.stdin.buffer.read()))  # noqa: S301  from the leader that started this process
