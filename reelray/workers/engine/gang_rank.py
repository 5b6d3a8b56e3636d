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
from reelray.workers.engine.gang_wire import Assignment, Hello, Invitation, Pulse, Ran, Ready, Refused, Run, Wire
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.regroup import make_regrouper
from reelray.workers.engine.station import make_stations
from reelray.workers.parallel.mesh import Mesh

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
    model, load_s = open_timed(assignment.load)
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


def _build(model: "VideoModel", invitation: Invitation, assignment: Assignment, heart: Heart, load_s: float) -> Rank:
    layouts, spare = assignment.layouts, assignment.decode_ranks
    mesh = Mesh.create(layouts, model.device, spare=spare, timeout_s=assignment.collective_s)
    return Rank(
        model,
        generation=invitation.generation,
        stations=make_stations(model, mesh, layouts),
        regrouper=make_regrouper(model, mesh),
        on_progress=heart.moved,
        load_s=load_s,
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
