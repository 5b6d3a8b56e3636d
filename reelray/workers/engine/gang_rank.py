"""The process of one rank of a gang: joins, loads, carries out plans until its leader is gone.

`python -m reelray.workers.engine.gang_rank` reads its invitation from standard input.
"""

import gc
import logging
import os
import pickle
import queue
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import distributed as dist

from reelray.proto.errors import EngineError, ReelrayError
from reelray.proto.residency import Blocks, Networks
from reelray.workers.engine.chunk_sharer import make_sharer
from reelray.workers.engine.device_memory import check_device
from reelray.workers.engine.frame_box import FrameSlot
from reelray.workers.engine.gang_wire import (
    Assignment,
    Hello,
    Invitation,
    Leave,
    Left,
    Loaded,
    Meet,
    Message,
    Pulse,
    Ran,
    Ready,
    Refused,
    Run,
    Wire,
)
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.regroup import make_regrouper
from reelray.workers.engine.seams import ModelLoader, PartLoader, SharingLoader
from reelray.workers.engine.station import make_stations
from reelray.workers.parallel.group_pool import abort_groups
from reelray.workers.parallel.mesh import Mesh, find_share

if TYPE_CHECKING:
    from reelray.workers.models.api import VideoModel

_LOG = logging.getLogger(__name__)
PULSE_S = 0.2
ABORT_S = 20.0
"""How long a rank waits for its own abort before it says that it cannot leave."""
Order: TypeAlias = Run | Meet | Leave


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


class Ear:
    """Reads what the leader says in a thread of its own: who waits in a collective must hear that it is to leave.

    Args:
        wire: To the leader.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._inbox: queue.SimpleQueue[Order | Exception | None] = queue.SimpleQueue()
        self._since = -1
        self._mesh: Mesh | None = None
        self._quiet = threading.Event()
        self._quiet.set()
        threading.Thread(target=self._read, name="reelray-ear", daemon=True).start()

    def next(self) -> Order | None:
        """Wait for the next message; None when the leader is gone.

        Raises:
            Exception: It could not be read.
        """
        message = self._inbox.get()
        if isinstance(message, Exception):
            raise message
        return message

    def is_over(self, generation: int) -> bool:
        """Whether the leader has given up this generation."""
        return generation < self._since

    def guard(self, mesh: Mesh, generation: int) -> None:
        """Abort this mesh as soon as its generation is over."""
        self._mesh = mesh
        if self.is_over(generation):
            self._abort()

    def _read(self) -> None:
        while True:
            try:
                message = self._wire.receive()
            except (EOFError, OSError):
                self._inbox.put(None)
                return
            except Exception as error:  # noqa: BLE001  for the main thread
                self._inbox.put(error)
                return
            if not isinstance(message, Order):
                self._inbox.put(EngineError(f"the leader sent a {type(message).__name__}, which is no order"))
                return
            if not isinstance(message, Leave):
                self._inbox.put(message)
                continue
            self._since = message.generation
            self._quiet.clear()
            # Told first: NCCL's abort waits until the main thread has let go of CUDA graphs with its collectives.
            self._inbox.put(message)
            self._abort()
            self._quiet.set()

    def wait_aborted(self, within_s: float) -> None:
        """Wait until the groups that a message to leave has ended are gone.

        Raises:
            EngineError: They are still there after `within_s`.
        """
        if not self._quiet.wait(within_s):
            raise EngineError(f"the groups of the gang were not aborted within {within_s:g} s")

    def _abort(self) -> None:
        try:
            mesh, self._mesh = self._mesh, None  # whoever holds it holds its groups
            if mesh is not None:
                mesh.abort()
            abort_groups()  # those of a mesh in the making
        except Exception as error:  # noqa: BLE001  the main thread may be changing them; it looks after what is left
            _LOG.warning("the groups of the gang were not aborted: %s", error)


def serve(invitation: Invitation) -> None:
    """Be a rank until the leader closes the connection."""
    wire = Wire.connect(invitation)
    wire.send(Hello(rank=invitation.rank, ticket=invitation.ticket, pid=os.getpid(), code=digest_here()))
    assignment = wire.receive()
    assert isinstance(assignment, Assignment)
    heart, ear = Heart(wire), Ear(wire)
    try:
        try:
            model, load_s = load(invitation, assignment)
        except Exception as error:  # noqa: BLE001  the process boundary
            wire.send(Refused(error=_in_words(error)))
            return
        heart.moved()
        wire.send(Loaded())
        Seat(invitation.rank, assignment, model, load_s=load_s, ear=ear, heart=heart).follow(wire)
    except OSError:
        return  # the leader is gone


def load(invitation: Invitation, assignment: Assignment) -> "tuple[VideoModel, float]":
    """Make this process ready and load the checkpoint.

    Returns:
        The model and the seconds it took.

    Raises:
        ReelrayError: The checkpoint cannot be opened.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(invitation.rank % torch.cuda.device_count())
    torch.set_num_threads(assignment.threads)  # on a GPU too: the ranks share the cores of their machine
    if invitation.interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = invitation.interface
    # Else torch ends a process whose peer is lost; here the leader decides, and survivors keep their weights.
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    return open_timed(_own_loader(assignment, invitation.rank))


def _own_loader(assignment: Assignment, rank: int) -> ModelLoader:
    load = assignment.load
    if isinstance(load, SharingLoader):
        load = load.for_share(find_share(assignment.layouts[0], rank))
    networks = _own_networks(assignment, rank)
    return load.for_networks(networks) if isinstance(load, PartLoader) else load


def _own_networks(assignment: Assignment, rank: int) -> Networks:
    """What a rank has use for; one that only decodes and is lent needs everything."""
    if not assignment.decode_ranks:
        return Networks.ALL
    if rank < assignment.ranks - assignment.decode_ranks:
        return Networks.DENOISING
    return Networks.DECODING if assignment.lent is None else Networks.ALL


class Seat:
    """What a rank process holds: its checkpoint for as long as it lives, its place in a gang for one generation.

    Args:
        rank: Number of this rank.
        assignment: What the rank is part of.
        model: The loaded checkpoint.
        load_s: Seconds that took.
        ear: What the leader says.
        heart: Told about progress.
    """

    def __init__(
        self, rank: int, assignment: Assignment, model: "VideoModel", *, load_s: float, ear: Ear, heart: Heart
    ) -> None:
        self._rank = rank
        self._assignment = assignment
        self._model = model
        self._load_s = load_s
        self._ear = ear
        self._heart = heart
        self._place: Rank | None = None
        self._slot = FrameSlot(assignment.boxes[rank] if assignment.boxes else None)
        model.use_landing(self._slot.room)

    def follow(self, wire: Wire) -> None:
        """Do what the leader says until it is gone.

        Raises:
            OSError: It is gone.
        """
        while (message := self._ear.next()) is not None:
            generation = message.plan.generation if isinstance(message, Run) else message.generation
            if self._ear.is_over(generation):
                continue  # of a gang that was given up
            try:
                answer = self._obey(message)
            except Exception as error:  # noqa: BLE001  the process boundary
                answer = Refused(generation=generation, error=_in_words(error))
            if not self._ear.is_over(generation):
                wire.send(answer)

    def _obey(self, message: Order) -> Message:
        if isinstance(message, Leave):
            self._leave()
            return Left(generation=message.generation)
        if isinstance(message, Meet):
            self._place = self._join(message)
            return Ready(generation=message.generation, description=self._place.describe())
        assert self._place is not None
        report, boxed = self._slot.put(self._place.execute(message.plan))
        return Ran(report=report, boxed=boxed)

    def _join(self, meet: Meet) -> Rank:
        """Meet the other ranks."""
        model, assignment = self._model, self._assignment
        dist.init_process_group(
            "nccl" if model.device.type == "cuda" else "gloo",
            init_method=meet.meeting,
            rank=self._rank,
            world_size=assignment.ranks,
            timeout=timedelta(seconds=meet.within_s),
        )
        self._heart.moved()
        mesh = Mesh.create(
            assignment.layouts,
            model.device,
            spare=assignment.decode_ranks,
            lent=assignment.lent,
            shares_weights=model.residency.blocks is Blocks.SHARDED,
            timeout_s=assignment.collective_s,
        )
        self._ear.guard(mesh, meet.generation)
        return _build(model, mesh, assignment, self._heart, load_s=self._load_s, generation=meet.generation)

    def _leave(self) -> None:
        """Forget the gang and all requests; the ear has aborted the groups.

        Raises:
            RuntimeError: The device is in a state of error; on CUDA it lasts until the process ends.
        """
        if self._place is not None:
            self._place.close()
        self._place = None
        self._model.work_alone()
        self._ear.wait_aborted(ABORT_S)
        abort_groups()  # in case this thread was making them while the ear aborted
        gc.collect()  # peers may wait until nobody holds a group of gloo any more
        check_device(self._model.device)


def _in_words(error: Exception) -> ReelrayError:
    """The error to send; without its traceback, whose frames hold groups of the gang."""
    if isinstance(error, ReelrayError):
        return type(error)(error.message, ids=error.ids)
    return EngineError(f"{type(error).__name__}: {error}".splitlines()[0])


def _build(
    model: "VideoModel", mesh: Mesh, assignment: Assignment, heart: Heart, *, load_s: float, generation: int
) -> Rank:
    return Rank(
        model,
        generation=generation,
        stations=make_stations(model, mesh, assignment.layouts, assignment.lent),
        sharer=make_sharer(model, mesh),
        regrouper=make_regrouper(model, mesh),
        on_progress=heart.moved,
        load_s=load_s,
        frames_land=True,
    )


def digest_here() -> str:
    """See `gang_wire.digest_code`; a test gives a rank other code through this."""
    from reelray.workers.engine.gang_wire import digest_code  # noqa: PLC0415

    return digest_code()


if __name__ == "__main__":
    serve(pickle.loads(sys.stdin.buffer.read()))  # noqa: S301  from the leader that started this process
