"""All memory of one rank: the pool of pages, and the workspaces through which attention reads them.

Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import ref

import torch

from reelray.proto.recipe import MemoryRule, PromptSwitch
from reelray.workers.memory.pool import KeyShape, PagePool
from reelray.workers.memory.regions import Regions
from reelray.workers.memory.video_memory import Angles, VideoMemory
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

    A workspace belongs to videos of one kind: picture size, rule, and branch of guidance. It holds the memory whose
    window ran last, and another one's is laid out anew; it goes with the last video of its kind.

    Args:
        shape: What a token leaves here.
        budget_bytes: Of all pages.
        device: Where they lie.
        angles: Of latent frames at temporal positions on a grid.
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
        angles: Callable[[Sequence[int], Grid], Angles],
        first_head: int = 0,
        rows: int = PAGE_ROWS,
        poison: bool = False,
    ) -> None:
        pages = max(1, budget_bytes // (rows * shape.token_bytes))
        self.pool = PagePool(shape, pages=pages, rows=rows, device=device, poison=poison)
        self._shape, self._device, self._angles, self._first_head = shape, device, angles, first_head
        self._desks: dict[_Kind, _Desk] = {}

    def open(self, rule: MemoryRule, *, chunk: int, grid: Grid, branch: int = 0) -> "OpenMemory":
        """Begin to remember a video.

        Args:
            rule: The recipe's.
            chunk: Latent frames of its chunks.
            grid: Tokens of its latent frames.
            branch: Which of the branches of guidance; they run in turn, and each has a workspace.

        Raises:
            ResourceError: The pool cannot promise what it may need.
        """
        memory = VideoMemory(Regions(rule=rule, chunk=chunk), self.pool, grid.places)
        return self._seat(OpenMemory(self, memory, grid, branch))

    def view(self, opened: "OpenMemory", first: int, length: int, *, records: bool) -> View:
        """See `OpenMemory.view`."""
        memory, desk = opened.memory, self._desks[opened.kind]
        if not desk.shows(memory):
            desk.owner = None  # until all of it lies there, nobody's does
            positions, _ = memory.regions.positions(first, length)
            desk.tokens = memory.lay_out(desk.workspace, self._angles(positions, opened.grid) if positions else None)
            desk.owner, desk.version = ref(memory), memory.version
        opened.staging = desk.staging
        return desk.view(records=records)

    def fork(self, opened: "OpenMemory") -> "OpenMemory":
        """See `OpenMemory.fork`."""
        return self._seat(OpenMemory(self, opened.memory.fork(), opened.grid, opened.branch))

    def leave(self, kind: "_Kind") -> None:
        """Free a workspace when nobody is left who uses it."""
        self._desks[kind].users -= 1
        if not self._desks[kind].users:
            del self._desks[kind]

    def _seat(self, opened: "OpenMemory") -> "OpenMemory":
        """Have a workspace for it."""
        if opened.kind not in self._desks:
            try:
                self._desks[opened.kind] = _Desk.make(self._shape, opened.kind, self._device, self._first_head)
            except BaseException:
                opened.memory.close()
                raise
        self._desks[opened.kind].users += 1
        return opened


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """Videos that may use one workspace.

    Args:
        remembered: Most tokens that a window attends besides its own.
        window: Most tokens of a window, those that are remembered anew included.
        places: Tokens of a latent frame.
        branch: Of guidance.
    """

    remembered: int
    window: int
    places: int
    branch: int


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
        users: Videos that are not over.
    """

    workspace: Workspace
    staging: Staging
    views: dict[tuple[int, bool], View]
    owner: "ref[VideoMemory] | None" = None
    version: int = -1
    tokens: int = 0
    users: int = 0

    @classmethod
    def make(cls, shape: KeyShape, kind: _Kind, device: torch.device, first_head: int) -> "_Desk":
        workspace = Workspace(
            shape, remembered=kind.remembered, window=kind.window, device=device, first_head=first_head
        )
        staging = Staging(shape, window=kind.window, device=device, first_head=first_head)
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
        branch: Of guidance.
    """

    def __init__(self, room: MemoryRoom, memory: VideoMemory, grid: Grid, branch: int) -> None:
        self.memory, self.grid, self.branch = memory, grid, branch
        rule, regions, places = memory.regions.rule, memory.regions, grid.places
        remembered = rule.sink + len(rule.means) + regions.room
        anew = rule.switch_frames if rule.switch is PromptSwitch.RECACHE else 0
        window = max(regions.chunk, anew)
        self.kind = _Kind(remembered=remembered * places, window=window * places, places=places, branch=branch)
        self.staging: Staging | None = None
        self._room = room
        self._is_open = True

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
        return self._room.fork(self)

    def close(self) -> None:
        """Forget it; may be called twice."""
        self.memory.close()
        if self._is_open:
            self._is_open = False
            self._room.leave(self.kind)
