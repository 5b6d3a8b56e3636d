"""What a rank remembers of one stream, and how to come by it again: every forward that was remembered can be repeated.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width; S tokens, N heads, D head width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reelray.proto.commit_parts import history_part
from reelray.proto.errors import ResourceError
from reelray.proto.memory_rule import MemoryRule, Sink
from reelray.proto.storage import Storage
from reelray.workers.memory.room import MemoryRoom, OpenMemory
from reelray.workers.memory.transfers import Transfer
from reelray.workers.models.attention_op import View
from reelray.workers.samplers.guidance import Branch

if TYPE_CHECKING:
    from reelray.workers.memory.parcel import Parcel


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """The input of a forward that was remembered.

    Args:
        first: First latent frame.
        timestep: What the network was told.
        latents_1CTHW: Latents, on the CPU.
        prompt: Which prompt it went by.
        level: In which memory, where each noise level has one.
        rewinds: Whether all but the sink before `first` was forgotten before.
        mix: Weights of prompts in its text; none means `prompt` alone.
        frames: Latent frames it is over, where all else was forgotten before it; none means those from `first` on.
        cuts: Whether it is of the first chunk of another scene.
        flushes: How many of the latest frames were kept when the prompt changed before it; None where it did not.
        number: Forwards that were remembered before it, of all chunks.
    """

    first: int
    timestep: float
    latents_1CTHW: Tensor
    prompt: int = 0
    level: int = 0
    rewinds: bool = False
    mix: tuple[float, ...] = ()
    frames: tuple[int, ...] = ()
    cuts: bool = False
    flushes: int | None = None
    number: int = 0

    @property
    def part(self) -> str:
        """Name of what is written down of it."""
        return history_part(self.number, anew=bool(self.frames))

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.latents_1CTHW.shape[2]


class StreamMemory:
    """The memories of a stream, one for each branch of guidance: a branch attends what it has itself remembered.

    Where each noise level has its own, those of level 0 are in use until `turn_to` says otherwise. All begin with the
    first chunk, whichever level remembers it.

    Args:
        memories: Those of the branches, of each level after the other.
        rule: The recipe's.
        room: Where they lie.
        branches: How many.
    """

    def __init__(self, memories: Sequence[OpenMemory], *, rule: MemoryRule, room: MemoryRoom, branches: int) -> None:
        self.is_open, self._is_held = True, False
        self._rule, self._room = rule, room
        self._parcel: Parcel | None = None
        self._back: list[Tensor] = []  # tensors that have rested beside it, until they are given back
        self._arrival = Transfer()
        self._memories, self._branches, self._level = [*memories], branches, 0
        self.history: list[Committed] = []

    @property
    def branches(self) -> Sequence[Branch]:
        """Those that remember."""
        return [Branch(number) for number in range(self._branches)]

    def turn_to(self, level: int) -> None:
        """Attend and remember at another noise level from here on."""
        self._level = level

    @property
    def rests(self) -> bool:
        """Whether it lies in host memory."""
        return any(memory.rests for memory in self._memories)

    def positions(self, branch: Branch, first: int, length: int, *, cuts: bool) -> Sequence[int]:
        """Temporal positions of a window's own frames, with whose chunk another scene may begin."""
        for memory in self._memories if cuts else ():
            memory.cut(first)
        return self._of(branch).positions(first, length, cuts=cuts)

    def view(self, branch: Branch, first: int, length: int, *, records: bool) -> View:
        """What a window attends; to be used before another one is asked for."""
        return self._of(branch).view(first, length, records=records)

    def settle(self, branch: Branch, text: Callable[[], Tensor], add_up: Callable[[Tensor], Tensor]) -> None:
        """Do what is due before the next window of a branch; see `OpenMemory.settle`."""
        self._of(branch).settle(text, add_up)

    def begin_anew(self) -> None:
        """Forget all; what comes next comes by `commit_again`."""
        for memory in self._memories:
            memory.begin_anew()

    def commit_again(self, branch: Branch, frames: Sequence[int]) -> None:
        """Remember frames of a memory that has begun anew, which this branch's forward has just taken down."""
        self._memories[branch].commit_again(frames)

    def rewind(self, first: int) -> None:
        """Forget all but the sink before `first`; from there frames are committed anew."""
        for memory in self._memories:
            memory.rewind(first)

    def flush(self, keep: int) -> None:
        """Forget all but the sink and the latest frames."""
        for memory in self._memories:
            memory.flush(keep)

    def commit(self, branch: Branch, first: int, length: int) -> None:
        """Remember the window that this branch's forward has just taken down."""
        recorded = self._of(branch)
        for memory in self._memories[branch :: self._branches] if first == 0 else [recorded]:
            memory.staging = recorded.staging
            memory.commit(first, length)

    def note(self, committed: Committed) -> None:
        """Keep the input of a forward that every branch has remembered; where it began anew, none before it counts."""
        if committed.frames:
            self.history = []
        self.history.append(committed)

    def replay(self, history: Sequence[Committed], evaluate: Callable[[Committed, Branch], None]) -> None:
        """Come to the memory that `history` left: the same forwards in the same order give the same bits.

        Args:
            history: From the first chunk on.
            evaluate: Runs the forward of a branch and commits it.
        """
        for committed in history:
            if committed.frames:
                self.begin_anew()
            if committed.flushes is not None:
                self.flush(committed.flushes)
            if committed.rewinds:
                self.rewind(committed.first)
            for branch in self.branches:
                evaluate(committed, branch)
            self.note(committed)

    def park(self, beside: Sequence[Tensor] = ()) -> None:
        """Let it rest in host memory, so that others may have its pages; it may rest already.

        Args:
            beside: Tensors that rest with it; `wake` gives them back.

        Raises:
            ResourceError: There is no host memory for it; it stays awake.
        """
        if self.rests:
            return
        parcel = self._room.pack([*self._back, *beside])
        try:
            for memory in self._memories:
                memory.park()
        except ResourceError:
            parcel.close()
            for memory in self._memories:
                memory.wake()
            raise
        self._parcel, self._back = parcel, []

    def unpark(self, beside: int) -> None:
        """Be as it was before `park`, which so many tensors were given; whoever gave them has them still."""
        back = self.wake()
        self._back = back[: len(back) - beside]

    def prefetch(self) -> None:
        """Have its pages again and begin to fill them beside other work; it may be awake already.

        Raises:
            ResourceError: Others have them; it goes on resting, and may be asked again.
        """
        self._room.check_return([memory for memory in self._memories if memory.rests])
        try:
            for memory in self._memories:
                memory.prefetch()
        except ResourceError:
            for memory in self._memories:
                memory.park()
            raise
        if self._parcel is not None:
            (self._back, self._arrival), self._parcel = self._room.unpack(self._parcel), None

    def wake(self) -> list[Tensor]:
        """Be as it was before `park`; to be called before anything else but `close`.

        Returns:
            What has rested beside it; nothing where it was awake.

        Raises:
            ResourceError: See `prefetch`.
        """
        self.prefetch()
        for memory in self._memories:
            memory.wake()
        self._arrival.wait()
        back, self._back = self._back, []
        return back

    def fork(self, *, rests: bool = False, beside: Sequence[Tensor] = ()) -> "StreamMemory":
        """A memory that goes its own way from here; see `VideoMemory.fork`, and for `beside` `park`."""
        other = StreamMemory([], rule=self._rule, room=self._room, branches=self._branches)
        other.history = [*self.history]
        try:
            for memory in self._memories:
                other._memories.append(memory.fork(rests=rests))
            if self._parcel is not None or rests:
                other._parcel = self._room.pack(beside) if self._parcel is None else self._parcel.copy()
        except ResourceError:
            other.close()
            raise
        return other

    def show_beside(self) -> list[Tensor]:
        """What rests beside it, while it goes on resting, or is on its way back."""
        if self._parcel is not None:
            return self._room.show(self._parcel)
        self._arrival.wait()
        return self._back

    def _of(self, branch: Branch) -> OpenMemory:
        return self._memories[self._level * self._branches + branch]

    @property
    def first_head(self) -> int:
        """Number of the first head that is remembered here."""
        return self._room.heads.start

    def write(self) -> list[dict[str, Any]]:
        """All of it, branch by branch; see `VideoMemory.write`."""
        return [memory.memory.write() for memory in self._memories]

    def read(self, history: Sequence[Committed], written: Sequence[tuple[int, list[dict[str, Any]]]]) -> None:
        """Be what was written, into a memory that is empty.

        Args:
            history: Forwards that made it.
            written: By each rank, with the number of its first head, in order; they may share the heads otherwise.
        """
        heads, first = self._room.heads, written[0][0]
        for number, memory in enumerate(self._memories):
            states = {first: states[number] for first, states in written}
            layers = [
                [
                    torch.cat(parts, 1)[:, heads.start - first : heads.stop - first]
                    for parts in zip(*shares, strict=True)
                ]
                for shares in zip(*(state["layers"] for state in states.values()), strict=True)
            ]
            memory.memory.read({**states.get(heads.start, written[0][1][number]), "layers": layers})
        self.history = list(history)

    def outline(self) -> list[dict[str, Any]] | None:
        """What is held, without keys and values; None where ranks that share the heads otherwise cannot take them."""
        if self.rests or self._rule.storage is not Storage.EXACT:
            return None
        return [memory.memory.contents.outline() for memory in self._memories]

    def layer(self, number: int, layer: int) -> Tensor:
        """See `Contents.layer`."""
        return self._memories[number].memory.contents.layer(layer)

    def adopt(self, outline: Sequence[Mapping[str, Any]]) -> None:
        """See `Contents.adopt`."""
        for memory, outlined in zip(self._memories, outline, strict=True):
            memory.memory.contents.adopt(outlined)

    def fill(self, number: int, layer: int, tokens_2SND: Tensor) -> None:
        """See `Contents.fill`."""
        self._memories[number].memory.contents.fill(layer, tokens_2SND)

    def hold(self) -> None:
        """Keep it through the next `close`, for whoever brings it elsewhere."""
        self._is_held = True

    def close(self) -> None:
        """Give all pages back; may be called twice."""
        if self._is_held:
            self._is_held = False
            return
        self.is_open = False
        for memory in self._memories:
            memory.close()
        if self._parcel is not None:
            self._parcel.close()
        self._parcel, self._back = None, []


def open_memory(
    rule: MemoryRule, kinds: Sequence[Mapping[str, Any]], *, room: MemoryRoom, branches: int
) -> StreamMemory:
    """Begin to remember a stream.

    Args:
        rule: The recipe's.
        kinds: What `MemoryRoom.open` is told of each memory: those of the branches, of each level after the other.
        room: Where they lie.
        branches: How many.

    Raises:
        ResourceError: There is no room for them; none is opened.
    """
    memories: list[OpenMemory] = []
    try:
        memories += (room.open(rule, **kind) for kind in kinds)
    except Exception:
        for memory in memories:
            memory.close()
        raise
    return StreamMemory(memories, rule=rule, room=room, branches=branches)


def keep_attended(history: Sequence[Committed], rule: MemoryRule) -> list[Committed]:
    """Of the forwards that were remembered, those of chunks that are attended now: the sink's and the latest.

    What they make again is close to what all of them made, and not the same: the first of the latest chunks attended
    chunks that are forgotten, and a moving mean has fewer frames in it.
    """
    if any(past.level or past.frames for past in history) or rule.sink_kind in {Sink.PINNED, Sink.ADAPTIVE}:
        return list(history)  # every level has what others made; what began anew counts; the sink is of any time
    chunks: list[Committed] = []
    end = 0
    for past in history:
        if past.first >= end:  # else its frames are remembered anew; a quick snapshot says of its first chunk too that
            chunks.append(past)  # all before it was forgotten
            end = past.first + past.length
    sink = [past for past in chunks if past.first < rule.sink]
    latest = [past for past in chunks if past.first >= rule.sink and past.first + past.length > end - rule.local]
    if latest and latest[0].first > (sink[-1].first + sink[-1].length if sink else 0):
        latest[0] = replace(latest[0], rewinds=True)
    return [*sink, *latest]
