"""Which latent frames a window attends besides its own, where they stand, and what becomes of those that leave.

Pure: it deals in names of entries, not in keys and values. An entry is a latent frame that was committed, a mean that
frames were folded into, or a place of a bank. Source: `streaming.md` recipes restated; policies of Self-Forcing,
LongLive, Reward Forcing, Infinity-RoPE, MemRoPE, MemFlow, Rolling Sink, Krea Realtime and CausVid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reelray.proto.errors import UnsupportedError
from reelray.proto.memory_rule import MemoryRule, Placement, PromptSwitch, Sink
from reelray.workers.memory.adaptive import replace_unlike
from reelray.workers.memory.anchored import anchor, forget_anchor
from reelray.workers.memory.bank import Bank
from reelray.workers.memory.entries import Banked, Change, Drop, Entry, Fold, Frame, Mean, Share


@dataclass(kw_only=True)
class Regions:
    """The regions of one video's memory, in the order in which they are attended.

    Args:
        rule: The recipe's.
        chunk: Latent frames of a chunk.
        first: Latent frames of the first chunk, if that is longer.
        layers: Layers of the model, where each keeps frames of its own choice.
        sink: The first frames, or the means that have taken their places.
        means: Folded frames.
        local: The latest frames, oldest first.
        committed: Latent frames that were committed.
        newest: How many of them came last.
        rewound: Whether frames are remembered anew.
        candidate: The newest frame, while it is not known whether an adaptive sink takes it.
        named: Entries that an adaptive sink has ever had.
        scenes: First latent frame of each scene that was cut to, where the sink is pinned.
    """

    rule: MemoryRule
    chunk: int
    first: int = 0
    layers: int = 1
    sink: list[Entry] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    local: list[Frame] = field(default_factory=list)
    bank: Bank | None = None
    committed: int = 0
    newest: int = 0
    rewound: bool = False
    scenes: list[int] = field(default_factory=list)
    candidate: Banked | None = None
    named: int = 0

    def __post_init__(self) -> None:
        if self.bank is None and self.rule.bank is not None:
            self.bank = Bank(rule=self.rule.bank, layers=self.layers)

    @property
    def room(self) -> int:
        """Latest frames that stay for the next window."""
        anchored = self.rule.placement is Placement.ANCHORED  # its clean passes see nothing of the sink in the end
        return self.rule.local - self.chunk + (self.rule.sink if anchored else 0)

    @property
    def most_attended(self) -> int:
        """Most entries that a window attends besides its own frames."""
        if self.rule.sink_kind is Sink.BOUNCING:
            return self.room
        sink = 0 if self.rule.placement is Placement.ANCHORED else self.rule.sink
        return sink + len(self.rule.means) + (self.bank.rule.size if self.bank else 0) + self.room

    @property
    def attended(self) -> tuple[Entry, ...]:
        """What the next window attends besides its own frames, if it is one chunk."""
        if self.rule.sink_kind is Sink.BOUNCING:
            return self._bounce()
        return (*self.sink, *self.means, *self._banked(), *self.local)

    @property
    def most(self) -> int:
        """Most entries that are ever held at once: those of a window that is being committed, and of one fold, too."""
        if self.rule.sink_kind is Sink.BOUNCING:
            return self.rule.sink + 2 * max(self.chunk, self.first)
        more = int(bool(self.rule.means) or self.rule.sink_kind is Sink.MOVING)
        more += 2 * (self.rule.sink_kind is Sink.ADAPTIVE)  # the candidate, and a place that is made of two
        bank = 0 if self.bank is None else self.bank.rule.size + 1  # the candidate
        return self.rule.sink + len(self.rule.means) + bank + self.room + self.chunk + more

    @property
    def widest(self) -> int:
        """Latent frames of the widest window."""
        anew = self.rule.switch_frames if self.rule.switch is PromptSwitch.RECACHE else 0
        return max(self.chunk, self.first, self.rule.causal_frames, anew)

    def copy(self) -> "Regions":
        """Regions that go on from here by themselves."""
        bank = None if self.bank is None else self.bank.copy()
        sink, means, local, scenes = list(self.sink), list(self.means), list(self.local), list(self.scenes)
        return replace(self, sink=sink, means=means, local=local, scenes=scenes, bank=bank)

    def cut(self, first: int) -> None:
        """Begin another scene at a latent frame that is not committed; may be said again."""
        if self.rule.sink_kind is Sink.PINNED and first not in self.scenes:
            self.scenes.append(first)

    def place(self, latent_frame: int) -> int:
        """Where a frame of the video stands in time, unless that is relative."""
        shots = sum(begin <= latent_frame for begin in self.scenes)
        return self.rule.place(latent_frame) + shots * self.rule.scene_shift

    def attend(self, first: int, length: int, *, records: bool = False) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
        """What a window attends besides its own frames, and the temporal positions of that.

        The latest frames are the fewer the longer the window is: those of all its chunks count too. A short last chunk
        attends no more than others.
        A place of a bank stands where the frame stands that the first layer keeps there; see `VideoMemory.lay_out`.

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
        if self.rule.sink_kind is Sink.BOUNCING:
            entries = self.attended
            return entries, tuple(range(len(entries)))
        latest = self.local[max(0, len(self.local) - max(0, reach)) :]
        entries = (*self.sink, *self.means, *self._banked(), *latest)
        if self.rule.placement is Placement.RELATIVE:
            return entries, tuple(range(len(entries)))
        places = []
        for entry in entries:
            if isinstance(entry, Mean):
                raise UnsupportedError("positions are absolute, and a mean of frames has none; use relative positions")
            places.append(self.place(entry.frames[0] if isinstance(entry, Banked) else entry.index))
        return entries, tuple(places)

    def positions(self, first: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Temporal positions of what a window attends, and of its own frames; see `attend`."""
        entries, places = self.attend(first, length)
        if self.rule.placement is Placement.RELATIVE:
            return places, tuple(range(len(entries), len(entries) + length))
        return places, tuple(self.place(index) for index in range(first, first + length))

    def rewind(self, first: int) -> tuple[Drop, ...]:
        """Forget all but sink and bank, and of the sink what begins at `first`: from there frames are committed anew.

        Args:
            first: Latent frame; it was committed, and is next again.
        """
        kept = [entry for entry in self.sink if not isinstance(entry, Frame) or entry.index < first]
        gone: list[Entry] = [*(entry for entry in self.sink if entry not in kept), *self.means, *self.local]
        self.sink, self.means, self.local, self.committed = kept, [], [], first
        self.rewound = True
        return tuple(Drop(entry=entry) for entry in gone)

    def flush(self, keep: int) -> tuple[Drop, ...]:
        """Forget all but sink, bank and the latest `keep` frames."""
        split = max(0, len(self.local) - keep)
        gone: list[Entry] = [*self.means, *self.local[:split]]
        self.means, self.local = [], self.local[split:]
        return tuple(Drop(entry=entry) for entry in gone)

    def begin_anew(self) -> tuple[Drop, ...]:
        """Forget all; frames that were committed before, or never were, come next by `commit_again`."""
        gone: list[Entry] = [*self.sink, *self.means, *self.local]
        self.sink, self.means, self.local = [], [], []
        return tuple(Drop(entry=entry) for entry in gone)

    def commit_again(self, frames: Sequence[int]) -> None:
        """Take in frames of a memory that has begun anew, in order."""
        self._arrange(frames)
        self.committed = frames[-1] + 1

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
        self.newest = length
        changes: list[Change] = []
        if first in self.scenes:
            changes += [Drop(entry=entry) for entry in self.sink]
            self.sink = []
        self._arrange(range(first, first + length))
        if self.bank is not None:
            if not self.rewound and self._brings(first):
                changes += self.bank.stage(Frame(index=first))
            self.bank.committed()
        self.rewound = False
        changes += self._offer(first + length - 1)
        kept = length if self.rule.sink_kind is Sink.BOUNCING else self.room
        over = max(0, len(self.local) - kept)
        if self.scenes:  # frames of the sink are later ones
            over = sum(frame.index < self.committed - kept for frame in self.local)
        leaving, self.local = self.local[:over], self.local[over:]
        for number, frame in enumerate(leaving):
            changes += self._fold_into_sink(number, frame)
            changes += _fold_into_means(self, frame)
            changes.append(Drop(entry=frame))
        return tuple(changes)

    def adapt(self, likeness: Sequence[Sequence[float]]) -> tuple[Change, ...]:
        """Let an adaptive sink take the candidate, or not.

        Args:
            likeness: Of the candidate to each frame of the sink, layer by layer.
        """
        candidate, self.candidate = self.candidate, None
        assert candidate is not None
        return replace_unlike(self.sink, candidate, likeness, self.rule.sink_likeness, self._name)

    def _offer(self, newest: int) -> Sequence[Change]:
        if self.rule.sink_kind is not Sink.ADAPTIVE or newest < self.rule.sink:
            return ()
        gone = () if self.candidate is None else (Drop(entry=self.candidate),)
        self.candidate = self._name((newest,) * self.layers)
        return (*gone, Share(entry=Frame(index=newest), into=self.candidate))

    def _name(self, frames: tuple[int, ...]) -> Banked:
        self.named += 1
        return Banked(number=self.named, frames=frames)

    def _arrange(self, frames: Sequence[int]) -> None:
        for index in frames:
            (self.sink if len(self.sink) < self.rule.sink else self.local).append(Frame(index=index))

    def _brings(self, first: int) -> bool:
        """Whether a window that begins there brings the bank its first frame."""
        return self.bank is not None and first % (self.bank.rule.every * self.chunk) == 0

    def _banked(self) -> Sequence[Banked]:
        return () if self.bank is None else self.bank.shown(hides=self._brings(self.committed))

    def _bounce(self) -> tuple[Frame, ...]:
        """The latest frames; but of those that were not committed last, one of the sink stands in for each."""
        size, entries = self.rule.sink, []
        for place in range(max(0, self.committed - self.room), self.committed):
            run, step = divmod(place, size)
            stand_in = size - 1 - step if run % 2 else step
            entries.append(Frame(index=place if place >= self.committed - self.newest else stand_in))
        return tuple(entries)

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


def _fold_into_means(regions: Regions, frame: Frame) -> Sequence[Change]:
    changes = []
    for number, share in enumerate(regions.rule.means):
        slot = regions.rule.sink + number
        old = regions.means[number] if number < len(regions.means) else None
        new = Mean(slot=slot, version=1 if old is None else old.version + 1)
        regions.means[number : number + 1] = [new]
        changes.append(Fold(old=old, new=frame, kept=1 - share, into=new))
    return changes
