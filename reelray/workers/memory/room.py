"""All memory of one rank: pages, and the workspaces through which attention reads them, on one arena.

Shape suffixes: S tokens, L layers, N heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import Tensor

from reelray.proto.memory_rule import MemoryRule
from reelray.proto.storage import Storage
from reelray.workers.memory.arena import POISON, Arena, round_up
from reelray.workers.memory.desk import Desks, Kind
from reelray.workers.memory.host_pages import HostPages
from reelray.workers.memory.page_changes import Angles, Turn, likeness
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.parcel import Parcel
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Regions
from reelray.workers.memory.text_score import TextScore
from reelray.workers.memory.transfers import Transfer
from reelray.workers.memory.video_memory import VideoMemory
from reelray.workers.models.attention_op import View

if TYPE_CHECKING:
    from reelray.workers.memory.workspace import Staging

PAGE_ROWS = 128
"""Tokens of a page: small enough to waste little of a latent frame, large enough to be copied at full speed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Tokens of a latent frame.

    Args:
        rows: Token rows.
        columns: Token columns.
    """

    rows: int
    columns: int

    @property
    def places(self) -> int:
        """Tokens of a latent frame."""
        return self.rows * self.columns


class MemoryRoom:
    """Opens the memories of videos and shows windows what they attend.

    A workspace belongs to videos of one kind: picture size, rule, and branch of guidance. There are as many as windows
    of the kind share a forward; they hold the memories whose windows ran last, and another one's is laid out anew. They
    go with the last videos of their kind that are awake. They lie on pages like everything else, so whoever is admitted
    has all that he may ever need, and nothing is allocated later.

    Args:
        shape: What a token leaves here.
        budget_bytes: Of pages and workspaces together.
        device: Where they lie.
        angles: Of latent frames at temporal positions on a grid.
        first_head: Number of the first of these heads in the model.
        rows: Tokens of a page that holds them as they are.
        poison: See `Arena`.
        host_bytes: Host memory for videos that rest.
    """

    def __init__(
        self,
        shape: KeyShape,
        *,
        budget_bytes: int,
        device: torch.device,
        angles: Callable[[Sequence[int], Grid], Angles],
        first_head: int = 0,
        rows: int = PAGE_ROWS,
        poison: bool = False,
        host_bytes: int = 0,
    ) -> None:
        page_bytes = round_up(rows * shape.token_bytes)
        pages = max(1, budget_bytes // page_bytes)
        self.arena = Arena(page_bytes=page_bytes, pages=pages, device=device, poison=poison)
        fill = POISON if poison else None
        self.host = HostPages(page_bytes=page_bytes, budget_bytes=host_bytes, device=device, poison=fill)
        self._shape, self._angles = shape, angles
        self.heads = range(first_head, first_head + shape.heads)
        self._pools = {storage: PagePool(self.arena, shape, storage) for storage in Storage}
        self._desks, self.first_head = Desks(shape, self.arena, first_head), first_head

    @property
    def pool(self) -> PagePool:
        """The pages of videos that are kept exactly; all formats have them in common."""
        return self._pools[Storage.EXACT]

    def check(
        self, rule: MemoryRule, *, chunk: int, grid: Grid, branches: int = 1, first: int = 0, seats: int = 1
    ) -> None:
        """Refuse a video whose branches cannot all be opened now.

        Args:
            rule: The recipe's.
            chunk: Latent frames of its chunks.
            grid: Tokens of its latent frames.
            branches: Memories: as many as branches of guidance remember, times the noise levels that do it apart.
            first: Latent frames of its first chunk, if that is longer.
            seats: How many videos of its kind may share a forward.

        Raises:
            ResourceError: There is too little memory for it: at present, or even if it were alone.
        """
        self._check(Regions(rule=rule, chunk=chunk, first=first), grid.places, range(branches), seats)

    def open(
        self, rule: MemoryRule, *, chunk: int, grid: Grid, branch: int = 0, first: int = 0, seats: int = 1
    ) -> "OpenMemory":
        """Begin to remember a video.

        Args:
            rule: The recipe's.
            chunk: Latent frames of its chunks.
            grid: Tokens of its latent frames.
            branch: Which of the branches of guidance; they run in turn, and each has a workspace.
            first: Latent frames of its first chunk, if that is longer.
            seats: How many videos of its kind may share a forward.

        Raises:
            ResourceError: The arena cannot promise what it may need.
        """
        regions = Regions(rule=rule, chunk=chunk, first=first, layers=self._shape.layers)
        self._check(regions, grid.places, (branch,), seats)
        memory = VideoMemory(regions, self._pools[rule.storage], grid.places)
        return self._seat(OpenMemory(self, memory, grid, branch, seats))

    def turn(self, grid: Grid) -> Turn:
        """Angles of keys on a grid."""
        return lambda positions: self._angles(positions, grid)

    def view(self, opened: "OpenMemory", first: int, length: int, *, records: bool) -> View:
        """See `OpenMemory.view`."""
        memory, desk = opened.memory, self._desks.find(opened.kind, opened.memory)
        attended = entries, places = memory.regions.attend(first, length, records=records)
        if not desk.shows(memory, attended):
            desk.owner = None  # until all of it lies there, nobody's does
            desk.tokens = memory.lay_out(desk.workspace, entries, places, self.turn(opened.grid))
            desk.owner, desk.version, desk.attended = ref(memory), memory.version, attended
        opened.staging = desk.staging
        return desk.view(records=records)

    def fork(self, opened: "OpenMemory", *, rests: bool) -> "OpenMemory":
        """See `OpenMemory.fork`."""
        memory = opened.memory.fork(self.host if rests else None)
        other = OpenMemory(self, memory, opened.grid, opened.branch, opened.kind.seats)
        return other if other.rests else self._seat(other)

    @property
    def shared_bytes(self) -> int:
        """Bytes of pages that several videos hold: so much less is taken than would be if nothing was shared.

        Promises do not count on it: each video has been promised all of its own, for the time when nothing is shared.
        """
        return self.arena.shared * self.arena.page_bytes

    def park(self, opened: "OpenMemory") -> None:
        """See `OpenMemory.park`."""
        opened.memory.park(self.host)
        self._desks.leave(opened.kind, opened.memory)

    def prefetch(self, opened: "OpenMemory") -> None:
        """See `OpenMemory.prefetch`."""
        self.check_return([opened])
        self._desks.join(opened.kind)
        opened.memory.prefetch()

    def check_return(self, resting: "Sequence[OpenMemory]") -> None:
        """Refuse videos that cannot all go on now.

        Raises:
            ResourceError: Others have the pages.
        """
        own = sum(opened.memory.most_pages for opened in resting)
        self.arena.check(own + sum(map(self._desks.pages_for, {opened.kind for opened in resting})))

    def pack(self, tensors: Sequence[Tensor]) -> Parcel:
        """Let tensors rest in host memory; see `Parcel`."""
        return Parcel(tensors, self.host, self.arena.transfers)

    def unpack(self, parcel: Parcel) -> tuple[list[Tensor], Transfer]:
        """Begin to bring them back; see `Parcel`."""
        return parcel.unpack(self.arena.storage_PX.device)

    def show(self, parcel: Parcel) -> list[Tensor]:
        """Copies of them on the device, while they rest."""
        return parcel.show(self.arena.storage_PX.device)

    def leave(self, opened: "OpenMemory") -> None:
        """Free a workspace when nobody is left who uses it."""
        self._desks.leave(opened.kind, opened.memory)

    def close(self) -> None:
        """Forget what could be used again; call when every video is closed."""
        self._desks.close()

    def _check(self, regions: Regions, places: int, branches: Sequence[int], seats: int) -> None:
        own = self._pools[regions.rule.storage].pages_for(places) * regions.most * len(branches)
        kinds = [Kind.of(regions, places=places, branch=branch, seats=seats) for branch in branches]
        self.arena.check(own + sum(map(self._desks.pages_for, kinds)))

    def _seat(self, opened: "OpenMemory") -> "OpenMemory":
        """Have a workspace for it."""
        try:
            self._desks.join(opened.kind)
        except BaseException:
            opened.memory.close()
            raise
        return opened


def find_need(
    shape: KeyShape, rule: MemoryRule, *, chunk: int, grid: Grid, rows: int = PAGE_ROWS, first: int = 0
) -> tuple[int, int]:
    """Bytes that pages of a video take at most, and those that all videos of its kind have in common.

    Args:
        shape: What a token leaves.
        rule: The recipe's.
        chunk: Latent frames of its chunks.
        grid: Tokens of its latent frames.
        rows: Tokens of a page that holds them as they are.
        first: Latent frames of the first chunk, if that is longer.
    """
    page_bytes = round_up(rows * shape.token_bytes)
    per_page = page_bytes // shape.stored_bytes(rule.storage)
    regions = Regions(rule=rule, chunk=chunk, first=first)
    kind = Kind.of(regions, places=grid.places, branch=0)
    own = -(-grid.places // per_page) * regions.most * page_bytes
    return own, -(-kind.desk_bytes(shape) // page_bytes) * page_bytes


class OpenMemory:
    """The memory of one video, as the engine handles it.

    Args:
        room: Where it lies.
        memory: What is remembered.
        grid: Tokens of a latent frame.
        branch: Of guidance.
        seats: How many videos of its kind may share a forward.
    """

    def __init__(self, room: MemoryRoom, memory: VideoMemory, grid: Grid, branch: int, seats: int) -> None:
        self.memory, self.grid, self.branch = memory, grid, branch
        self.kind = Kind.of(memory.regions, places=grid.places, branch=branch, seats=seats)
        self.staging: Staging | None = None
        self._room = room
        self._is_open = True

    @property
    def rests(self) -> bool:
        """Whether it lies in host memory."""
        return self.memory.is_parked

    @property
    def _sits(self) -> bool:
        """Whether it has a place at a workspace."""
        return self._is_open and not self.rests

    def positions(self, first: int, length: int, *, cuts: bool = False) -> Sequence[int]:
        """Temporal positions of a window's own frames: where memory places them; far from it where a scene begins."""
        regions = self.memory.regions
        at = regions.rule.cut_position
        return range(at, at + length) if at is not None and cuts else regions.positions(first, length)[1]

    def settle(self, text: Callable[[], Tensor], add_up: Callable[[Tensor], Tensor]) -> None:
        """Do what is due before the next window; what it attends may be others afterwards.

        Args:
            text: Mean keys [L, N, D] of the prompt by which the window goes, of all heads of the model.
            add_up: Of a tensor of each rank that keeps other heads, the sum; all of them must call it.
        """
        memory, scores = self.memory, None
        if memory.regions.candidate is not None:
            memory.adapt(likeness(add_up(memory.compare())).tolist())
        if memory.expects_scores:
            rate = TextScore(text(), first_head=self._room.first_head)
            scores = add_up(memory.rate(rate, self._room.turn(self.grid))).tolist()
        memory.settle(scores)

    def view(self, first: int, length: int, *, records: bool) -> View:
        """What a window attends, laid out; the same object for windows that one recording can serve.

        Args:
            first: Its first latent frame.
            length: Its latent frames.
            records: Whether its keys and values are taken down, for `commit`.
        """
        return self._room.view(self, first, length, records=records)

    def commit(self, first: int, length: int) -> None:
        """Remember the frames of the window that was recorded last."""
        assert self.staging is not None
        self.memory.commit(self.staging, first, length)

    def begin_anew(self) -> None:
        """See `Regions.begin_anew`."""
        self.memory.begin_anew()

    def commit_again(self, frames: Sequence[int]) -> None:
        """See `VideoMemory.commit_again`."""
        assert self.staging is not None
        self.memory.commit_again(self.staging, frames)

    def rewind(self, first: int) -> None:
        """See `Regions.rewind`."""
        self.memory.rewind(first)

    def cut(self, first: int) -> None:
        """See `Regions.cut`."""
        self.memory.regions.cut(first)  # frames that are remembered stand where they stood

    def flush(self, keep: int) -> None:
        """See `Regions.flush`."""
        self.memory.flush(keep)

    def fork(self, *, rests: bool = False) -> "OpenMemory":
        """See `VideoMemory.fork`."""
        return self._room.fork(self, rests=rests)

    def park(self) -> None:
        """Let it rest in host memory: others get its pages, and its place at a workspace. It may rest already.

        Raises:
            ResourceError: There is no host memory for it; it stays awake.
        """
        if self._sits:
            self._room.park(self)
            self.staging = None

    def prefetch(self) -> None:
        """Have its pages again and begin to fill them, beside other work; it may be awake already.

        Raises:
            ResourceError: Others have them; it goes on resting, and may be asked again.
        """
        if self.rests:
            self._room.prefetch(self)

    def wake(self) -> None:
        """Be as it was before `park`, for all later work of the device.

        Raises:
            ResourceError: See `prefetch`.
        """
        self.prefetch()
        self.memory.wake()

    def close(self) -> None:
        """Forget it; may be called twice."""
        sits, self._is_open = self._sits, False
        self.memory.close()
        self.staging = None
        if sits:
            self._room.leave(self)
