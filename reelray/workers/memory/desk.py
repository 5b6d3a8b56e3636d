"""Workspaces on an arena, some for each kind of videos, and whose memory each of them shows."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reelray.workers.memory.arena import Arena, Run
from reelray.workers.memory.entries import Entry
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.regions import Regions
from reelray.workers.memory.video_memory import VideoMemory
from reelray.workers.memory.workspace import Staging, Workspace
from reelray.workers.models.attention_op import View

if TYPE_CHECKING:
    from weakref import ref

MOST_LEFT = 8
"""Desks that everybody has left, of kinds apart; the one left longest ago is forgotten first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Videos that may use one workspace.

    Args:
        remembered: Most tokens that a window attends besides its own.
        window: Most tokens of a window, those that are remembered anew included.
        places: Tokens of a latent frame.
        branch: Of guidance.
        seats: Most desks of this kind: as many as windows of it share a forward.
    """

    remembered: int
    window: int
    places: int
    branch: int
    seats: int = 1

    @classmethod
    def of(cls, regions: Regions, *, places: int, branch: int, seats: int = 1) -> "Kind":
        """The kind of a video.

        Args:
            regions: Its own.
            places: Tokens of a latent frame.
            branch: Of guidance.
            seats: See the class.
        """
        remembered, window = regions.most_attended * places, regions.widest * places
        return cls(remembered=remembered, window=window, places=places, branch=branch, seats=seats)

    def desk_bytes(self, shape: KeyShape) -> int:
        """Bytes of one workspace, and of what waits beside it to be remembered."""
        return (self.remembered + 2 * self.window) * shape.token_bytes


@dataclass(kw_only=True, eq=False)
class Desk:
    """A workspace and whose memory it shows.

    Args:
        number: Among those of its kind.
        run: Where it lies.
        workspace: What windows attend.
        staging: What they leave.
        views: Handed out, by remembered tokens and whether they record.
        owner: Whose memory lies here.
        version: Of that memory.
        attended: What of it, and where that stands.
        tokens: How many tokens of it.
    """

    number: int
    run: Run
    workspace: Workspace
    staging: Staging
    views: dict[tuple[int, bool], View]
    owner: "ref[VideoMemory] | None" = None
    version: int = -1
    attended: tuple[tuple[Entry, ...], tuple[int, ...]] = ((), ())
    tokens: int = 0

    @property
    def is_free(self) -> bool:
        """Whether no memory that is in use lies here."""
        return self.owner is None or self.owner() is None

    def is_of(self, memory: VideoMemory) -> bool:
        """Whether it was last laid with this memory."""
        return self.owner is not None and self.owner() is memory

    def shows(self, memory: VideoMemory, attended: tuple[tuple[Entry, ...], tuple[int, ...]]) -> bool:
        """Whether this part of this memory lies here, as it is now."""
        return self.is_of(memory) and self.version == memory.version and self.attended == attended

    def view(self, *, records: bool) -> View:
        """What a window has to do with what lies here."""
        kind = (self.tokens, records)
        if kind not in self.views:
            past = self.workspace.past(self.tokens) if self.tokens else None
            self.views[kind] = View(past=past, recorder=self.staging if records else None)
        return self.views[kind]


@dataclass(kw_only=True, slots=True)
class _Bench:
    """Desks of one kind, the one used longest ago first; as many as there are videos, up to the seats of the kind."""

    desks: list[Desk] = field(default_factory=list)
    users: int = 0


class Desks:
    """The workspaces of a room.

    A desk that nobody needs any more gives its pages back. Until others need them it can be had again at the same
    address, and with it everything that was recorded of forwards at it: the next stream of a kind begins warm.

    Args:
        shape: What a token leaves.
        arena: Where they lie.
        first_head: Number of the first of these heads in the model.
    """

    def __init__(self, shape: KeyShape, arena: Arena, first_head: int) -> None:
        self._shape, self._arena, self._first_head = shape, arena, first_head
        self._benches: dict[Kind, _Bench] = {}
        self._left: OrderedDict[tuple[Kind, int], Desk] = OrderedDict()  # may be taken again as they were

    def find(self, kind: Kind, memory: VideoMemory) -> Desk:
        """The desk of a memory, or that of another one of its kind which was not asked for as long.

        So as many memories as there are seats each find their own as long as no other one asks.
        """
        desks = self._benches[kind].desks
        found = next((desk for desk in desks if desk.is_of(memory)), desks[0])
        desks.remove(found)
        desks.append(found)
        return found

    def pages_for(self, kind: Kind) -> int:
        """Pages that one more video of a kind takes here; none where all seats have desks."""
        bench = self._benches.get(kind)
        has_all = bench is not None and len(bench.desks) == kind.seats
        return 0 if has_all else self._arena.pages_of(kind.desk_bytes(self._shape))

    def join(self, kind: Kind) -> None:
        """Have a desk for one more video.

        Raises:
            ResourceError: The arena cannot promise it, or has no place for it; nothing is taken.
        """
        bench = self._benches.get(kind, _Bench())
        if len(bench.desks) < kind.seats:
            bench.desks.insert(0, self._make(kind, {desk.number for desk in bench.desks}))
        bench.users += 1
        self._benches[kind] = bench

    def leave(self, kind: Kind, memory: VideoMemory) -> None:
        """Give back the pages of a desk that the others do not need: that of this memory, or the one used longest ago.

        Args:
            kind: Of the video that leaves.
            memory: Its own.
        """
        bench = self._benches[kind]
        bench.users -= 1
        if len(bench.desks) > bench.users:
            # The latest ones may be those of windows on their way, which must not be taken from them.
            desk = next((desk for desk in bench.desks if desk.is_of(memory) or desk.is_free), bench.desks[0])
            bench.desks.remove(desk)
            self._left[kind, desk.number] = desk
            self._arena.drop_run(desk.run)
            self._arena.promise(-len(desk.run.pages))
            if len(self._left) > MOST_LEFT:
                _close(self._left.popitem(last=False)[1])
        if not bench.users:
            del self._benches[kind]

    def close(self) -> None:
        """Forget the desks that everybody has left."""
        while self._left:
            _close(self._left.popitem()[1])

    def _make(self, kind: Kind, taken: Collection[int]) -> Desk:
        """A desk whose number is none of those."""
        nbytes, number = kind.desk_bytes(self._shape), min({*range(kind.seats)} - {*taken})
        pages = self._arena.pages_of(nbytes)
        self._arena.promise(pages)
        left = self._left.pop((kind, number), None)
        if left is not None:
            if self._arena.retake_run(left.run):
                left.owner = None  # others may have had its pages since
                return left
            _close(left)
        try:
            run = self._arena.take_run(nbytes)
        except BaseException:
            self._arena.promise(-pages)
            raise
        return self._furnish(kind, run, number)

    def _furnish(self, kind: Kind, run: Run, number: int) -> Desk:
        shape = self._shape
        split = (kind.remembered + kind.window) * shape.token_bytes
        device, rooms = run.room_X.device, (run.room_X[:split], run.room_X[split:])
        lie, wait = (room_X.view(shape.dtype) for room_X in rooms)
        workspace = Workspace(
            shape,
            remembered=kind.remembered,
            window=kind.window,
            device=device,
            first_head=self._first_head,
            room=lie,
        )
        staging = Staging(shape, window=kind.window, device=device, first_head=self._first_head, room=wait)
        return Desk(number=number, run=run, workspace=workspace, staging=staging, views={})


def _close(desk: Desk) -> None:
    """Recordings of forwards at a desk may outlive it; they must not keep the arena."""
    desk.workspace.close()
    desk.staging.close()
