"""Brings the ranks of a gang together under a generation, at its start and after a loss.

Survivors leave the generation before, with the checkpoint they hold; lost ranks, and survivors that do not come back
in time, are started anew and load. Only when every rank holds the checkpoint are all told to meet: until then they
wait on their connection, where a further loss costs no more than the rank that is lost.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from reelray.proto.errors import EngineError, RankLostError
from reelray.workers.engine.gang_door import Door
from reelray.workers.engine.gang_members import TICK_S, Member, RankLauncher, Stage, find_dead, hear, lose
from reelray.workers.engine.gang_wire import (
    Assignment,
    Leave,
    Left,
    Loaded,
    Meet,
    Message,
    Ready,
    Refused,
    digest_code,
)

if TYPE_CHECKING:
    from reelray.workers.engine.gang import GangSpec

_LOG = logging.getLogger(__name__)
FENCED = (Stage.LEAVES, Stage.HOLDS, Stage.MEETS)
"""Stages in which a rank does nothing that would keep it from sending its pulse; loading may."""


class Muster:
    """Forms one generation.

    Args:
        members: The ranks of the generation before, none at the first start; changed in place.
        generation: The one to form.
        spec: What the gang is.
        launcher: Starts ranks.
        door: Where they arrive.
        clock: Monotonic seconds.
        on_loss: Told why a rank was lost that had just been started; raises when it happens too often.
    """

    def __init__(
        self,
        members: list[Member],
        *,
        generation: int,
        spec: "GangSpec",
        launcher: RankLauncher,
        door: Door,
        clock: Callable[[], float],
        on_loss: Callable[[RankLostError], None],
    ) -> None:
        self._members = members
        self._generation = generation
        self._spec = spec
        self._launcher = launcher
        self._door = door
        self._clock = clock
        self._on_loss = on_loss
        self._deadline = clock() + spec.start_s
        self._back_by = self._deadline

    def gather(self, assignment: Assignment) -> None:
        """Wait until every rank holds the checkpoint.

        Raises:
            EngineError: They do not in time; the message says what is missing.
            ReelrayError: The checkpoint cannot be opened, as the rank said it.
        """
        for rank in range(len(self._members), self._spec.ranks):
            self._members.append(self._launch(rank))
        lost = [member for member in self._members if member.lost or not member.process.is_alive()]
        for member in self._members:
            if member.wire is not None and member not in lost:
                member.stage, member.seen_at = Stage.LEAVES, self._clock()
                member.send(Leave(generation=self._generation))  # if it is gone, its connection says so
        for member in lost:
            self._replace(member)
        self._back_by = self._clock() + self._spec.rejoin_s
        while any(member.stage is not Stage.HOLDS for member in self._members):
            self._admit(assignment)
            self._listen()
            self._check()

    def meet(self, meeting: str) -> None:
        """Have the ranks meet.

        Raises:
            RankLostError: One of them was lost, and the others may be stuck: this generation cannot be saved.
            EngineError: They are not ready in time, or one cannot go on.
        """
        for member in self._members:
            member.stage = Stage.MEETS
            member.send(Meet(generation=self._generation, meeting=meeting, within_s=self._spec.rejoin_s))
        while any(member.stage is not Stage.READY for member in self._members):
            self._listen()
            self._check()

    def _launch(self, rank: int) -> Member:
        invitation = self._door.invite(rank)
        process = self._launcher.launch(invitation)
        return Member(rank=rank, ticket=invitation.ticket, process=process, seen_at=self._clock())

    def _replace(self, member: Member) -> None:
        member.end()
        self._members[member.rank] = self._launch(member.rank)

    def _admit(self, assignment: Assignment) -> None:
        for hello, wire in self._door.arrivals():
            member = self._members[hello.rank]
            if hello.ticket != member.ticket:
                wire.close()  # of a process that was given up
                continue
            if hello.code != digest_code():
                raise EngineError(
                    f"rank {hello.rank} runs other code ({hello.code}) than the leader ({digest_code()}); "
                    "install the same version of reelray on all machines"
                )
            member.hello, member.wire, member.stage = hello, wire, Stage.LOADS
            member.seen_at = self._clock()
            member.send(assignment)

    def _listen(self) -> None:
        for member, message in hear(self._members, self._clock, TICK_S):
            if member is not self._members[member.rank]:
                continue  # replaced a moment ago
            if message is None:
                self._lose(member, member.process.last_words())
            elif isinstance(message, Loaded) or self._is_current(message, Left):
                member.stage = Stage.HOLDS
            elif isinstance(message, Ready) and self._is_current(message, Ready):
                member.description, member.stage = message.description, Stage.READY
            elif isinstance(message, Refused):
                self._take_refusal(member, message)

    def _is_current(self, message: Message, kind: type[Left | Ready | Refused]) -> bool:
        # What is left over from an older generation is not worth a word.
        return isinstance(message, kind) and message.generation == self._generation

    def _take_refusal(self, member: Member, refused: Refused) -> None:
        if refused.generation is None:
            raise refused.error
        if not self._is_current(refused, Refused):
            return
        if member.stage is Stage.LEAVES:
            self._lose(member, refused.error.message)
            return
        now, silence_s = self._clock(), self._spec.silence_s
        frozen = next((m for m in self._members if now - m.seen_at > silence_s), None)
        if frozen is not None:
            self._lose(frozen, f"silent for {now - frozen.seen_at:.1f} s")
            return
        dead = find_dead(self._members, member, self._clock)
        if dead is member and self._generation == 0:
            raise refused.error
        self._lose(dead, refused.error.message if dead is member else dead.process.last_words())

    def _check(self) -> None:
        now, spec = self._clock(), self._spec
        for member in list(self._members):
            silent_s = now - member.seen_at
            if member is not self._members[member.rank]:
                continue
            if member.is_gone(now):
                self._lose(member, member.process.last_words())
            elif member.stage is Stage.LEAVES and now > self._back_by:
                self._lose(member, f"it did not leave the lost gang within {spec.rejoin_s:g} s")
            elif member.stage in FENCED and silent_s > max(
                spec.silence_s, spec.rejoin_s if member.stage is Stage.MEETS else 0.0
            ):
                self._lose(member, f"silent for {silent_s:.1f} s")
        if now > self._deadline:
            late = [f"rank {m.rank} {m.stage}" for m in self._members if m.stage is not Stage.READY]
            raise EngineError(
                f"{len(late)} of {len(self._members)} ranks are not ready after {spec.start_s:g} s: " + ", ".join(late)
            )

    def _lose(self, member: Member, why: str) -> None:
        """Start a lost rank anew, unless others may wait for it in a collective already."""
        lost = lose(member, why, ranks=len(self._members), generation=self._generation)
        if member.stage in {Stage.MEETS, Stage.READY}:
            raise lost
        if member.description is None:
            self._on_loss(lost)
        _LOG.warning("%s; it is started anew", lost.message)
        self._replace(member)
