"""What a leader and its ranks say to each other, over one authenticated connection per rank.

The connection is `multiprocessing.connection`: pickles between processes that share a secret drawn for this gang.
"""

import hashlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, TypeAlias

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import ReelrayError
from reelray.proto.layout import Layout
from reelray.proto.step_plan import StepPlan, StepReport
from reelray.workers.engine.frame_box import BoxAddress, Place
from reelray.workers.engine.seams import ModelLoader

PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """What a new rank process is told.

    Args:
        address: Host and port where the leader listens.
        secret: Shared by this gang alone.
        rank: Number of the rank.
        ticket: Number of this launch; the leader gives none twice.
        interface: Network interface of the collectives on CPUs; None lets gloo choose.
    """

    address: tuple[str, int]
    secret: bytes
    rank: int
    ticket: int
    interface: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """A rank has connected.

    Args:
        rank: Its number.
        ticket: Of its invitation.
        pid: Its process.
        code: Digest of its package's source.
    """

    rank: int
    ticket: int
    pid: int
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a rank is to be part of, in every generation.

    Args:
        ranks: Ranks in the gang.
        layouts: Layouts to make groups for; the first is the one to begin with.
        decode_ranks: Ranks behind those of the layout, which do nothing but decode.
        lent: Layout of all ranks while these help to denoise; None means never.
        load: Opens the checkpoint.
        threads: Threads of torch.
        collective_s: After how long a collective fails where the backend can tell.
        boxes: Where each rank puts its frames; None sends them with its report.
    """

    ranks: int
    layouts: Sequence[Layout]
    decode_ranks: int
    lent: Layout | None
    load: ModelLoader
    threads: int
    collective_s: float
    boxes: Sequence[BoxAddress | None] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The rank holds the checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meet:
    """Meet the other ranks; sent when all of them hold the checkpoint.

    Args:
        generation: Generation of the gang that they become.
        meeting: Where its process group meets, a URL of torch's `init_method`.
        within_s: Longest wait for the others.
    """

    generation: int
    meeting: str
    within_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The rank has met the others.

    Args:
        generation: Of the gang.
        description: What the rank runs.
    """

    generation: int
    description: EngineDescription


@dataclass(frozen=True, kw_only=True, slots=True)
class Leave:
    """A rank was lost: leave its gang and forget all requests, but keep the checkpoint.

    Args:
        generation: The one that is to come; nothing of an older one counts any more.
    """

    generation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """The rank has left its gang, and holds the checkpoint.

    Args:
        generation: Of the `Leave` that this answers.
    """

    generation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Carry out a plan."""

    plan: StepPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """A plan was carried out.

    Args:
        report: What came of it.
        boxed: Where each of its frames lies in the rank's box; empty where they are in the report.
    """

    report: StepReport
    boxed: tuple[Place, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The rank cannot go on.

    Args:
        error: Why.
        generation: In which it cannot; None before it has met anybody.
    """

    error: ReelrayError
    generation: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """The process runs.

    Args:
        progress: Grows whenever its work moves.
    """

    progress: int


Message: TypeAlias = Hello | Assignment | Loaded | Meet | Ready | Run | Ran | Leave | Left | Refused | Pulse


class Wire:
    """One end of a connection; several threads may send.

    Args:
        connection: To the other end.
    """

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self.connection = connection
        self._lock = threading.Lock()

    @classmethod
    def connect(cls, invitation: Invitation) -> "Wire":
        """Connect to the leader that sent an invitation."""
        connection = Client(invitation.address, authkey=invitation.secret)
        with socket.socket(fileno=connection.fileno()) as known:
            send_at_once(known)
            known.detach()
        return cls(connection)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: The other end is gone.
        """
        with self._lock:
            self.connection.send(message)

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            EOFError: The other end is gone.
            OSError: The other end is gone.
        """
        message: Message = self.connection.recv()
        return message

    def close(self) -> None:
        """Close this end."""
        self.connection.close()


def send_at_once(connection: socket.socket) -> None:
    """Let small messages leave while an earlier one is not acknowledged: the kernel would hold them for 40 ms.

    A pulse followed by a report is such a pair.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@cache
def digest_code() -> str:
    """Digest of this package's Python source: ranks with other code would hang in a collective, or worse, not."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
