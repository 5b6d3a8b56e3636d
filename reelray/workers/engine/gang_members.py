"""The ranks of a gang, as their leader sees them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import wait
from typing import Protocol

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import RankLostError
from reelray.workers.engine.gang_wire import Hello, Invitation, Message, Wire

TICK_S = 0.1
FAREWELL_S = 5.0
"""How long what a rank said last may be on its way when its process is known to have ended."""
LAST_WORDS_S = 0.5
"""How long the leader waits for the death that explains a rank's complaint."""


class RankProcess(Protocol):
    """A started rank, seen from its launcher."""

    def is_alive(self) -> bool:
        """Whether the process runs."""
        ...

    def kill(self) -> None:
        """End it, and wait until it is gone."""
        ...

    def last_words(self) -> str:
        """What is known of its end: exit code, end of its error output."""
        ...


class RankLauncher(Protocol):
    """Starts rank processes: here, or through Ray."""

    host: str
    interface: str | None

    def launch(self, invitation: Invitation) -> RankProcess:
        """Start one rank.

        Raises:
            EngineError: There is no place for it.
        """
        ...


class Stage(StrEnum):
    """How far a rank is, in words that follow its number."""

    STARTS = "is starting"
    LOADS = "loads the checkpoint"
    LEAVES = "leaves the gang that lost a rank"
    HOLDS = "holds the checkpoint"
    MEETS = "meets the other ranks"
    READY = "is ready"


@dataclass(kw_only=True, slots=True, eq=False)
class Member:
    """One rank.

    Args:
        rank: Its number.
        ticket: Of its invitation.
        process: Where it runs.
        wire: To it, once it has connected.
        hello: What it said then.
        stage: How far it is.
        description: What it runs, once it has been ready; it then survives the loss of others.
        seen_at: When it was last heard.
        progress: Its last count.
        lost: Whether it is known to be dead or frozen.
        ended_at: When its process was first found to have ended.
    """

    rank: int
    ticket: int
    process: RankProcess
    wire: Wire | None = None
    hello: Hello | None = None
    stage: Stage = Stage.STARTS
    description: EngineDescription | None = None
    seen_at: float = 0.0
    progress: int = 0
    lost: bool = False
    ended_at: float | None = None

    def send(self, message: Message) -> bool:
        """Send it a message; returns whether it is there."""
        assert self.wire is not None
        try:
            self.wire.send(message)
        except OSError:
            return False
        return True

    def is_gone(self, now: float) -> bool:
        """Whether its process has ended, and all that it said before is read.

        A connection that ends says so, behind all that was said. One that does not may still bring something: launchers
        hear of an end by another way, which may be faster.

        Args:
            now: Monotonic seconds.
        """
        if self.process.is_alive():
            return False
        if self.wire is None:
            return True
        self.ended_at = now if self.ended_at is None else self.ended_at
        return now - self.ended_at > FAREWELL_S and not self.wire.connection.poll()

    def end(self) -> None:
        """End its process."""
        if self.wire is not None:
            self.wire.close()
        self.process.kill()


def hear(
    members: Sequence[Member], clock: Callable[[], float], timeout_s: float
) -> list[tuple[Member, Message | None]]:
    """One message of each member that has sent some, waiting for the first; None if its connection has ended."""
    by_connection = {m.wire.connection: m for m in members if m.wire is not None and not m.lost}
    found: list[tuple[Member, Message | None]] = []
    for connection in wait(list(by_connection), timeout=timeout_s):
        member = by_connection[connection]  # type: ignore[index]
        assert member.wire is not None
        try:
            found.append((member, member.wire.receive()))
        except (EOFError, OSError):
            found.append((member, None))
        else:
            member.seen_at = clock()
    return found


def find_dead(members: Sequence[Member], complainer: Member, clock: Callable[[], float]) -> Member:
    """Who ended the work of a rank that cannot go on: a peer that has just died, or the rank itself."""
    until = clock() + LAST_WORDS_S
    while clock() < until:
        for other in members:
            if other is not complainer and not other.process.is_alive():
                return other
        time.sleep(TICK_S / 4)
    return complainer


def lose(member: Member, why: str, *, ranks: int, generation: int) -> RankLostError:
    """Note that a rank is lost; returns the error to raise."""
    member.lost = True
    ids = {"rank": str(member.rank), "generation": str(generation)}
    return RankLostError(f"rank {member.rank} of {ranks} was lost: {why}", ids=ids)
