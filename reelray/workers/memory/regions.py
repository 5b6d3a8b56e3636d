"""Which latent frames a window attends besides its own, where they stand, and what becomes of those that leave.

Pure: it deals in names of entries, not in keys and values. An entry is a latent frame that was committed, or a mean
that frames were folded into. Source: `streaming.md` recipes restated; policies of Self-Forcing, LongLive, Reward
Forcing, Infinity-RoPE and MemRoPE.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from reelray.proto.errors import UnsupportedError
from reelray.proto.recipe import MemoryRule, Placement, Sink
from reelray.workers.memory.anchored import anchor, forget_anchor


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A latent frame of the video.

    Args:
        index: Its number, 0 first.
    """

    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """Frames that have left, folded into one.

    Args:
        slot: Which of the means.
        version: How many frames are in it.
    """

    slot: int
    version: int


Entry: TypeAlias = Frame | Mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """Forget an entry."""

    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """Make a new entry of two: kept * old + (1 - kept) * new.

    Args:
        old: What is there; None makes the new entry equal `new`.
        new: The frame that leaves.
        kept: Weight of the old one.
        into: Name of the result. `old` is forgotten, `new` is not.
    """

    old: Entry | None
    new: Frame
    kept: float
    into: Mean


Change: TypeAlias = Drop | Fold


@dataclass(kw_only=True)
class Regions:
    """The regions of one video's memory, in the order in which they are attended.

    Args:
        rule: The recipe's.
        chunk: Latent frames of a chunk.
        first: Latent frames of the first chunk, if that is longer.
        sink: The first frames, or the means that have taken their places.
        means: Folded frames.
        local: The latest frames, oldest first.
        committed: Latent frames that were committed.
    """

    rule: MemoryRule
    chunk: int
    first: int = 0
    sink: list[Entry] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    local: list[Frame] = field(default_factory=list)
    committed: int = 0

    @property
    def room(self) -> int:
        """Latest frames that stay for the next window."""
        anchored = self.rule.placement is Placement.ANCHORED  # its clean passes see nothing of the sink in the end
        return self.rule.local - self.chunk + (self.rule.sink if anchored else 0)

    @property
    def most_attended(self) -> int:
        """Most entries that a window attends besides its own frames."""
        sink = 0 if self.rule.placement is Placement.ANCHORED else self.rule.sink
        return sink + len(self.rule.means) + self.room

    @property
    def attended(self) -> tuple[Entry, ...]:
        """What the next window attends besides its own frames, if it is one chunk."""
        return (*self.sink, *self.means, *self.local)

    @property
    def most(self) -> int:
        """Most entries that are ever held at once: those of a window that is being committed, and of one fold, too."""
        folds = bool(self.rule.means) or self.rule.sink_kind is Sink.MOVING
        return self.rule.sink + len(self.rule.means) + self.room + self.chunk + folds

    def copy(self) -> "Regions":
        """Regions that go on from here by themselves."""
        return replace(self, sink=list(self.sink), means=list(self.means), local=list(self.local))

    def attend(self, first: int, length: int, *, records: bool = False) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
        """What a window attends besides its own frames, and the temporal positions of that.

        The latest frames are the fewer the longer the window is: those of all its chunks count too. A short last chunk
        attends no more than others.

        Args:
            first: First latent frame of the window.
            length: Its latent frames.
            records: Whether its forward is remembered.

        Raises:
            UnsupportedError: The recipe counts from the beginning of the video, and an entry is no frame of it.
        """
        reach = self.rule.local - max(length, self.chunk)
        if self.rule.placement is Placement.ANCHORED:
            sink = [entry for entry in self.sink if isinstance(entry, Frame)]
            if records:
                return forget_anchor(sink, self.local, first, self.rule.sink + reach)
            return anchor(sink, self.local, first, reach)
        latest = self.local[max(0, len(self.local) - max(0, reach)) :]
        entries = (*self.sink, *self.means, *latest)
        if self.rule.placement is Placement.RELATIVE:
            return entries, tuple(range(len(entries)))
        places = []
        for entry in entries:
            if not isinstance(entry, Frame):
                raise UnsupportedError("positions are absolute, and a mean of frames has none; use relative positions")
            places.append(self.rule.place(entry.index))
        return entries, tuple(places)

    def positions(self, first: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Temporal positions of what a window attends, and of its own frames; see `attend`."""
        entries, places = self.attend(first, length)
        if self.rule.placement is Placement.RELATIVE:
            return places, tuple(range(len(entries), len(entries) + length))
        return places, tuple(self.rule.place(index) for index in range(first, first + length))

    def rewind(self, first: int) -> tuple[Drop, ...]:
        """Forget all but the sink, and of that what begins at `first`: from there frames are committed anew.

        Args:
            first: Latent frame; it was committed, and is next again.
        """
        kept = [entry for entry in self.sink if not isinstance(entry, Frame) or entry.index < first]
        gone: list[Entry] = [*(entry for entry in self.sink if entry not in kept), *self.means, *self.local]
        self.sink, self.means, self.local, self.committed = kept, [], [], first
        return tuple(Drop(entry=entry) for entry in gone)

    def flush(self, keep: int) -> tuple[Drop, ...]:
        """Forget all but the sink and the latest `keep` frames."""
        split = max(0, len(self.local) - keep)
        gone: list[Entry] = [*self.means, *self.local[:split]]
        self.means, self.local = [], self.local[split:]
        return tuple(Drop(entry=entry) for entry in gone)

    def commit(self, first: int, length: int) -> tuple[Change, ...]:
        """Take in the frames of a window; returns what has to be done with entries, in this order.

        Args:
            first: First latent frame; the one after those that were committed.
            length: Latent frames.

        Raises:
            ValueError: A frame is missing or comes twice.
        """
        if first != self.committed:
            raise ValueError(f"latent frame {first} was to be committed; {self.committed} is next")
        self.committed += length
        for index in range(first, first + length):
            if len(self.sink) < self.rule.sink:
                self.sink.append(Frame(index=index))
            else:
                self.local.append(Frame(index=index))
        over = max(0, len(self.local) - self.room)
        leaving, self.local = self.local[:over], self.local[over:]
        changes: list[Change] = []
        for number, frame in enumerate(leaving):
            changes += self._fold_into_sink(number, frame)
            changes += self._fold_into_means(frame)
            changes.append(Drop(entry=frame))
        return tuple(changes)

    def _fold_into_sink(self, number: int, frame: Frame) -> Sequence[Change]:
        """A moving sink takes up a block that leaves frame by frame."""
        if self.rule.sink_kind is not Sink.MOVING or not self.sink:
            return ()
        place = number % len(self.sink)
        old = self.sink[place]
        folded = old.version if isinstance(old, Mean) else 1
        new = Mean(slot=place, version=folded + 1)
        self.sink[place] = new
        return (Fold(old=old, new=frame, kept=self.rule.sink_kept, into=new),)

    def _fold_into_means(self, frame: Frame) -> Sequence[Change]:
        changes = []
        for number, share in enumerate(self.rule.means):
            slot = self.rule.sink + number
            old = self.means[number] if number < len(self.means) else None
            new = Mean(slot=slot, version=1 if old is None else old.version + 1)
            self.means[number : number + 1] = [new]
            changes.append(Fold(old=old, new=frame, kept=1 - share, into=new))
        return changes
