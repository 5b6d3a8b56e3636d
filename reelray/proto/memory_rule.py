"""What a video remembers of itself, as data: a part of its recipe."""

from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.bank_rule import BankRule
from reelray.proto.storage import Storage


class Sink(StrEnum):
    """What becomes of the first frames of a video."""

    FIRST = "first"  # they stay as they are
    MOVING = "moving"  # frames that leave are folded into them
    PINNED = "pinned"  # those of the scene that was cut to last take their places
    # The newest frame takes the place that it is least like, where it is not like it at all; each layer for itself.
    ADAPTIVE = "adaptive"
    BOUNCING = "bouncing"  # they stand in for frames that left, running to their end and back again and again


class Placement(StrEnum):
    """How attended frames are placed in time."""

    ABSOLUTE = "absolute"  # where they stand in the video
    RELATIVE = "relative"  # 0, 1, ... in the order of the regions, the window last
    # The sink right before the latest frames, which stand where they stand in the video. A clean pass attends the
    # latest frames only, as many as sink and local are in all.
    ANCHORED = "anchored"
    WRAPPED = (
        "wrapped"  # where they stand in the video, until that is `wrap`: then from the last attended place on again
    )


class Commit(StrEnum):
    """Which forward leaves its keys and values in memory."""

    CLEAN = "clean_pass"  # one more, of the clean chunk
    LAST_STEP = "last_step"  # that of the last denoise step
    EVERY_STEP = "every_step"  # each, in a memory of its own for each noise level; of the first chunk the last, in all
    REBUILD = "rebuild"  # one before each chunk, of all that it is going to attend, which attend each other alone


class PromptSwitch(StrEnum):
    """What a change of the prompt does to memory."""

    KEEP = "keep"  # nothing: only the text is another one
    RECACHE = "recache"  # the latest frames are remembered anew, under the new prompt
    FLUSH = "flush"  # all but the sink and the latest frames is forgotten
    LERP = "lerp"  # nothing, and the text turns into the other one over some chunks


class FirstFrame(StrEnum):
    """What comes first where latest frames are evaluated anew and the first one of the video is not among them.

    The first latent frame of a video alone stands for a single pixel frame.
    """

    AS_IT_IS = "as_it_is"  # the latent frame that was made
    CODED_ANEW = "coded_anew"  # its last picture, encoded as if a video began with it


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRule:
    """What a chunk attends of those before it.

    Args:
        local: Latest latent frames that are attended, those of the chunk included.
        sink: First latent frames of the video that are attended for ever.
        sink_kind: What becomes of them.
        sink_kept: Share of a moving sink that stays when a frame is folded into it.
        sink_likeness: Likeness to the newest frame below which a frame of an adaptive sink gives its place to it.
        means: For each running mean of frames that have left, the share of the newest one.
        bank: Frames that are kept because they fit the prompt; None keeps none.
        placement: Positions of what is attended.
        wrap: Temporal position that no frame has where places are wrapped.
        commit: Which forward is remembered.
        commit_timestep: Timestep of clean frames in it.
        rollout: Latent frames after which memory begins anew; 0 means never.
        overlap: Latest latent frames that it then begins with, evaluated anew.
        first_frame: What comes first of frames that are evaluated anew.
        causal_frames: Latent frames of these that attend each other and those before; 0 means as many as a chunk has.
        switch: What a change of the prompt does.
        switch_frames: Latest latent frames that a change of the prompt remembers anew, the sink's counted in, or those
            that it keeps besides the sink.
        switch_chunks: Chunks over which one text turns into the other; the last of them goes by the new one alone.
        cut_position: Temporal position at which the first chunk of a new scene is made; None leaves it where it stands.
        scene_shift: Temporal positions by which a pinned sink's every scene stands farther on than those before it.
        storage: How keys and values are kept; 8 bits take about half the room and are not exact.
    """

    local: int
    sink: int = 0
    sink_kind: Sink = Sink.FIRST
    sink_kept: float = 0.999
    sink_likeness: float = 0.2
    means: tuple[float, ...] = ()
    bank: BankRule | None = None
    placement: Placement = Placement.ABSOLUTE
    wrap: int = 0
    commit: Commit = Commit.CLEAN
    commit_timestep: float = 0.0
    rollout: int = 0
    overlap: int = 0
    first_frame: FirstFrame = FirstFrame.AS_IT_IS
    causal_frames: int = 0
    switch: PromptSwitch = PromptSwitch.KEEP
    switch_frames: int = 0
    switch_chunks: int = 0
    cut_position: int | None = None
    scene_shift: int = 0
    storage: Storage = Storage.EXACT

    @property
    def is_endless(self) -> bool:
        """Whether positions never run out: what is attended is counted anew for every chunk, or places come again."""
        return self.placement in {Placement.RELATIVE, Placement.WRAPPED}

    @property
    def knows_scenes(self) -> bool:
        """Whether a change of the prompt may cut to another scene."""
        return self.cut_position is not None or self.sink_kind is Sink.PINNED

    @property
    def attended(self) -> int:
        """Most latent frames that a chunk attends, its own included."""
        if self.sink_kind is Sink.BOUNCING:
            return self.local
        return self.sink + len(self.means) + (self.bank.size if self.bank else 0) + self.local

    @property
    def held(self) -> int:
        """Most latent frames that are remembered at once, those of a chunk that is being remembered included."""
        unseen = self.sink if self.placement is Placement.ANCHORED else 0  # clean passes reach farther back
        return self.attended + unseen + (self.bank is not None)

    def place(self, latent_frame: int) -> int:
        """Where a frame of the video stands in time when places are absolute, or wrapped."""
        begin = self.attended - 1
        if self.placement is not Placement.WRAPPED or latent_frame < begin:
            return latent_frame
        return begin + (latent_frame - begin) % (self.wrap - begin)

    def begins_anew(self, first: int) -> bool:
        """Whether all is forgotten before the chunk that begins at latent frame `first`, and made up anew."""
        if self.rollout:
            return first >= self.rollout and (first - self.rollout) % (self.rollout - self.overlap) == 0
        return self.commit is Commit.REBUILD and first > 0

    def frames_anew(self, first: int, chunk: int) -> tuple[int, ...]:
        """Latent frames that memory then begins with.

        Args:
            first: First latent frame of the chunk that follows.
            chunk: Latent frames of a chunk.
        """
        if self.rollout:
            return tuple(range(first - self.overlap, first))
        sink = min(self.sink, first)
        return (*range(sink), *range(max(sink, first - self.local + chunk), first))

    @property
    def reach_anew(self) -> int:
        """Most latest latent frames that are evaluated anew where memory begins anew."""
        return self.overlap or self.local

    def check_positions(self, positions: int | None, chunk: int) -> None:
        """Refuse places that a model cannot tell apart.

        Args:
            positions: Temporal positions of the model; None has no end.
            chunk: Latent frames of the longest chunk.

        Raises:
            ValueError: A scene begins, frames come again, or a window ends beyond them.
        """
        if positions is None:
            return
        if self.cut_position is not None and self.cut_position + chunk > positions:
            raise ValueError(
                f"memory.cut_position is {self.cut_position}, where {chunk} frames need {self.cut_position + chunk} "
                f"positions; the model has {positions}"
            )
        if self.wrap > positions:
            raise ValueError(f"memory.wrap is {self.wrap}; the model has {positions} positions")
        if self.is_endless and self.attended > positions:
            raise ValueError(
                f"a chunk and what it attends are {self.attended} latent frames; the model has {positions} positions"
            )

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_switch()
        self._check_cut()
        self._check_places()
        if self.commit is Commit.EVERY_STEP:
            self._check_levels()
        if self.sink_kind is Sink.ADAPTIVE:
            _check_adaptive(self)
        if self.sink_kind is Sink.BOUNCING:
            self._check_plain("sink_kind is bouncing", sink=True)
            if self.sink < 1 or self.commit is Commit.REBUILD:
                raise ValueError(f"sink_kind is bouncing; it takes a sink, which is {self.sink}, and no rebuild")
        if self.commit is Commit.REBUILD:
            self._check_plain("commit is rebuild", sink=True)
        self._check_rollout()
        if self.first_frame is FirstFrame.CODED_ANEW and (self.sink or not self._begins_anew_at_all):
            raise ValueError(
                "first_frame is coded_anew; only a rebuild or a rollout evaluates frames anew, and with a sink the "
                "first frame of the video is among them"
            )

    @property
    def _begins_anew_at_all(self) -> bool:
        return bool(self.rollout) or self.commit is Commit.REBUILD

    def _check_places(self) -> None:
        wraps = self.placement is Placement.WRAPPED
        if self.wrap < self.attended if wraps else self.wrap:
            raise ValueError(
                f"wrap is {self.wrap}; with placement wrapped it must be at least {self.attended}, as many frames as "
                "are attended, and 0 with others"
            )
        moves = self.sink_kind is Sink.MOVING or bool(self.means)
        if moves and self.storage is not Storage.EXACT:
            raise ValueError(f"storage is {self.storage}, in which a mean of frames loses what is folded in; use exact")
        if moves and self.placement is not Placement.RELATIVE:
            raise ValueError(
                f"placement is {self.placement}, and means of frames have no place in the video; use relative"
            )
        if self.bank and self.placement is not Placement.ABSOLUTE:
            raise ValueError(
                f"placement is {self.placement}; a bank takes absolute, where its frames are scored as they stand"
            )

    def _check_levels(self) -> None:
        if self.switch is PromptSwitch.RECACHE:
            raise ValueError("switch is recache; it remembers clean frames, and with commit every_step none are")
        if self.bank or self.rollout or self.sink_kind is Sink.BOUNCING:
            raise ValueError("commit is every_step; it takes no bank, no rollout and no bouncing sink")

    def _check_numbers(self) -> None:
        if self.local < 1 or self.sink < 0:
            raise ValueError(f"local is {self.local} and sink is {self.sink}; they must be at least 1 and 0")
        if not 0 <= self.sink_kept <= 1:
            raise ValueError(f"sink_kept is {self.sink_kept}; it must lie in 0..1")
        if any(not 0 < share <= 1 for share in self.means):
            raise ValueError(f"means holds {list(self.means)}; every share must lie in 0..1 and not be 0")
        if not 0 <= self.commit_timestep <= 1000:
            raise ValueError(f"commit_timestep is {self.commit_timestep}; it must lie in 0..1000")

    def _check_switch(self) -> None:
        if self.switch in {PromptSwitch.RECACHE, PromptSwitch.FLUSH} and self.switch_frames < 1:
            raise ValueError(f"switch_frames is {self.switch_frames}; for {self.switch} it must be at least 1")
        if self.switch is PromptSwitch.LERP and self.switch_chunks < 1:
            raise ValueError(f"switch_chunks is {self.switch_chunks}; for lerp it must be at least 1")
        if self.switch is not PromptSwitch.RECACHE:
            return
        if self.switch_frames > self.sink + self.local:
            raise ValueError(
                f"switch_frames is {self.switch_frames}; sink and local frames are {self.sink + self.local} in all"
            )
        if self.sink_kind is Sink.MOVING or self.means or self.switch_frames <= self.sink:
            raise ValueError("switch is recache; it takes more switch_frames than the sink has, and no means of frames")

    def _check_rollout(self) -> None:
        if self.causal_frames < 0 or (self.causal_frames and not self._begins_anew_at_all):
            raise ValueError(
                f"causal_frames is {self.causal_frames}; only a rebuild or a rollout evaluates frames anew, at least 1"
            )
        if not self.rollout and not self.overlap:
            return
        if not 0 < self.overlap < self.rollout <= self.local:
            raise ValueError(
                f"overlap is {self.overlap}, rollout {self.rollout} and local {self.local}; they must grow, from 1 on"
            )
        self._check_plain("there is a rollout", sink=False)
        if self.commit is Commit.REBUILD:
            raise ValueError("there is a rollout, and commit is rebuild; use clean_pass or last_step")

    def _check_cut(self) -> None:
        pins = self.sink_kind is Sink.PINNED
        if pins and (self.sink < 1 or self.cut_position is not None or self.placement is not Placement.ABSOLUTE):
            raise ValueError(
                f"sink_kind is pinned; it takes a sink, which is {self.sink}, no cut_position, and placement absolute"
            )
        if self.scene_shift and (self.scene_shift < 0 or not pins):
            raise ValueError(f"scene_shift is {self.scene_shift}; it goes with a pinned sink, and is at least 0")
        if pins and (self.switch is PromptSwitch.RECACHE or self.bank or self.commit is Commit.EVERY_STEP):
            raise ValueError("sink_kind is pinned; it takes no bank, no recache, and no commit every_step")
        if self.cut_position is None:
            return
        if self.cut_position < 0:
            raise ValueError(f"cut_position is {self.cut_position}; it must be at least 0, or null for no scenes")
        if self.switch is PromptSwitch.RECACHE or self.rollout or self.commit is Commit.REBUILD:
            raise ValueError(
                f"cut_position is {self.cut_position}, and frames are evaluated anew, as if there were no other scene"
            )

    def _check_plain(self, why: str, *, sink: bool) -> None:
        """Refuse what does not go with regions that are made up anew."""
        if self.means or self.bank or self.sink_kind is Sink.MOVING or (self.sink and not sink):
            raise ValueError(f"{why}; it takes no means, no bank{'' if sink else ', no sink'} and no moving sink")
        if self.placement is not Placement.RELATIVE or self.switch in {PromptSwitch.RECACHE, PromptSwitch.FLUSH}:
            raise ValueError(f"{why}; it takes placement relative, and switch keep or lerp")


def _check_adaptive(rule: MemoryRule) -> None:
    if rule.sink < 1 or not -1 <= rule.sink_likeness <= 1 or rule.storage is not Storage.EXACT:
        raise ValueError(
            f"sink_kind is adaptive; it takes a sink, which is {rule.sink}, a sink_likeness in -1..1, which is "
            f"{rule.sink_likeness}, and storage exact"
        )
    if rule.placement not in {Placement.ABSOLUTE, Placement.WRAPPED} or rule.bank or rule.rollout:
        raise ValueError("sink_kind is adaptive; it takes placement absolute or wrapped, no bank and no rollout")
    if rule.switch is PromptSwitch.RECACHE:
        raise ValueError("sink_kind is adaptive; it takes no switch recache, which remembers the first frames anew")
