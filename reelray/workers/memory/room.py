"""All memory of one rank: the pool of pages, and the workspaces through which attention reads them.

Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor

from reelray.proto.recipe import MemoryRule
from reelray.workers.memory.pool import KeyShape, PagePool
from reelray.workers.memory.regions import Regions
from reelray.workers.memory.video_memory import VideoMemory
from reelray.workers.memory.workspace import Staging, Workspace
from reelray.workers.models.attention_op import View

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

    A workspace belongs to windows of one size. It holds the memory whose window ran last; another one's is laid out
    anew, which takes a small part of a forward's time.

    Args:
        shape: What a token leaves here.
        budget_bytes: Of all pages.
        device: Where they lie.
        turn: Rotates keys [S, N, D] of latent frames to temporal positions on a grid.
        first_head: Number of the first of these heads in the model.
        rows: Tokens of a page.
        poison: See `PagePool`.
    """

    def __init__(
        self,
        shape: KeyShape,
        *,
        budget_bytes: int,
        device: torch.device,
        turn: Callable[[Tensor, Sequence[int], Grid], Tensor],
        first_head: int = 0,
        rows: int = PAGE_ROWS,
        poison: bool = False,
    ) -> None:
        pages = max(1, budget_bytes // (rows * shape.token_bytes))
        self.pool = PagePool(shape, pages=pages, rows=rows, device=device, poison=poison)
        self._shape, self._device, self._turn, self._first_head = shape, device, turn, first_head
        self._desks: dict[tuple[int, int], _Desk] = {}

    def open(self, rule: MemoryRule, *, chunk: int, grid: Grid) -> "OpenMemory":
        """Begin to remember a video.

        Args:
            rule: The recipe's.
            chunk: Latent frames of its chunks.
            grid: Tokens of its latent frames.

        Raises:
            ResourceError: The pool cannot promise what it may need.
        """
        regions = Regions(rule=rule, chunk=chunk)
        return OpenMemory(self, VideoMemory(regions, self.pool, grid.places), grid)

    def view(self, opened: "OpenMemory", first: int, length: int, *, records: bool) -> View:
        """See `OpenMemory.view`."""
        memory = opened.memory
        places, rule = opened.grid.places, memory.regions.rule
        remembered = (rule.sink + len(rule.means) + memory.regions.room) * places
        key = (remembered, max(length, memory.regions.chunk) * places)
        if key not in self._desks:
            self._desks[key] = _Desk.make(self._shape, key, self._device, self._first_head)
        desk = self._desks[key]
        if not desk.shows(memory):
            desk.tokens = memory.lay_out(
                desk.workspace, lambda keys, positions: self._turn(keys, positions, opened.grid), first, length
            )
            desk.owner, desk.version = ref(memory), memory.version
        opened.staging = desk.staging
        return desk.view(records=records)

    def close(self) -> None:
        """Free the workspaces; memories keep their pages."""
        self._desks.clear()


@dataclass(kw_only=True, eq=False)
class _Desk:
    """A workspace and whose memory it shows.

    Args:
        workspace: What windows attend.
        staging: What they leave.
        views: Handed out, by remembered tokens and whether they record.
        owner: Whose memory lies here.
        version: Of that memory.
        tokens: How many tokens of it.
    """

    workspace: Workspace
    staging: Staging
    views: dict[tuple[int, bool], View]
    owner: "ref[VideoMemory] | None" = None
    version: int = -1
    tokens: int = 0

    @classmethod
    def make(cls, shape: KeyShape, key: tuple[int, int], device: torch.device, first_head: int) -> "_Desk":
        remembered, window = key
        workspace = Workspace(shape, remembered=remembered, window=window, device=device, first_head=first_head)
        staging = Staging(shape, window=window, device=device, first_head=first_head)
        return cls(workspace=workspace, staging=staging, views={})

    def shows(self, memory: VideoMemory) -> bool:
        return self.owner is not None and self.owner() is memory and self.version == memory.version

    def view(self, *, records: bool) -> View:
        kind = (self.tokens, records)
        if kind not in self.views:
            past = self.workspace.past(self.tokens) if self.tokens else None
            self.views[kind] = View(past=past, recorder=self.staging if records else None)
        return self.views[kind]


class OpenMemory:
    """The memory of one video, as the engine handles it.

    Args:
        room: Where it lies.
        memory: What is remembered.
        grid: Tokens of a latent frame.
    """

    def __init__(self, room: MemoryRoom, memory: VideoMemory, grid: Grid) -> None:
        self.memory, self.grid = memory, grid
        self.staging: Staging | None = None
        self._room = room

    def positions(self, first: int, length: int) -> tuple[int, ...]:
        """Temporal positions of a window's own frames."""
        return self.memory.regions.positions(first, length)[1]

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

    def rewind(self, first: int) -> None:
        """See `Regions.rewind`."""
        self.memory.rewind(first)

    def flush(self, keep: int) -> None:
        """See `Regions.flush`."""
        self.memory.flush(keep)

    def fork(self) -> "OpenMemory":
        """See `VideoMemory.fork`."""
        return OpenMemory(self._room, self.memory.fork(), self.grid)

    def close(self) -> None:
        """Forget it; may be called twice."""
        self.memory.close()
