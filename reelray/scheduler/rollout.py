"""Where one request stands: which window comes next, which piece can be decoded, what the client still owes."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from reelray.proto.commit_parts import clean_part
from reelray.proto.events import Progress, Stage
from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import Admit, Crew, DecodeStep, Delivery, WindowStep
from reelray.scheduler.batching import count_seats
from reelray.scheduler.chunks import Span, cut_chunks, cut_pieces
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.saved import Saved
from reelray.scheduler.steps import plan_steps

if TYPE_CHECKING:
    from reelray.proto.layout import Layout, Place
    from reelray.proto.snapshot import SnapshotKind


class Phase(StrEnum):
    """Life of a request in the engine core."""

    QUEUED = "queued"  # no rank has heard of it
    ADMITTED = "admitted"  # sent to the ranks, text not yet encoded
    RUNNING = "running"  # windows and decodes are issued
    FINISHED = "finished"  # every frame is out; the release is due
    CANCELLED = "cancelled"  # the release is due
    FAILED = "failed"  # the release is due


ENDED = frozenset({Phase.FINISHED, Phase.CANCELLED, Phase.FAILED})


class Rollout:
    """Bookkeeping of one request; changes only when the engine core is told of something that happened.

    Args:
        request: The request.
        facts: Geometry of the model.
        limits: Bounds on what may be ahead of the client.

    Raises:
        SizeError: The request's size does not fit the model.
    """

    def __init__(self, request: RenderRequest, facts: ModelFacts, limits: EngineLimits) -> None:
        facts.latent_size(request.width, request.height)
        self.phase = Phase.QUEUED
        self.paused = False
        self.rests = self.waits_for_room = False  # others were given its room, and have it when it is to come back
        self.cramped: set[Layout] = set()  # in which there was no room for it
        self.put_down: SnapshotKind | None = None  # a snapshot was asked for, and no plan has said so
        self.fork: RequestId | None = None  # name of another one that is to go on from here
        self.like: RequestId | None = None  # what the ranks hold at rest, and this one begins as
        self.chunks_begun = 0  # chunks of which a step was ever issued: their prompts are settled
        self.window_turn = self.decode_turn = -1  # when a window or a piece was done last, for round robin
        self.worked_at = 0  # sequence of the last plan for which there was something to do
        self.place: Place | None = None  # where the ranks hold it
        self.is_shared = True  # whether ranks that only decode hold the chunk in work too
        self.facts, self._limits = facts, limits
        self.follow(request)
        self.windows_done = 0
        self._delivered = 0  # chunks whose clean latents the ranks have that only decode
        self.pieces_done = 0
        self.pieces_sent = 0  # of them the client has the frames
        self.unacknowledged_frames = 0
        self.saved = Saved()
        self.is_late = False  # the ranks decode a piece beside the windows that follow it
        self.losses = 0
        self.suspect = False  # in flight when a gang was lost, and not further than that since

    def follow(self, request: RenderRequest) -> None:
        """Go by another wording of the request, which leaves alone what has begun.

        Raises:
            SizeError: The model cannot place so many frames.
        """
        facts, recipe = self.facts, request.recipe
        self.request = request
        self.chunks = cut_chunks(recipe.chunking, facts.latent_frames(request.frames, endless=recipe.is_endless))
        self._steps = plan_steps(recipe, self.chunks, request.changes, grows=request.live)
        self.seats = count_seats(self._limits.batching, request, facts)  # windows that share a forward at most
        size = self._limits.piece_latent_frames(facts, width=request.width, height=request.height)
        self.pieces = cut_pieces(self.chunks, size)

    @property
    def frames_sent(self) -> int:
        """Pixel frames that the client has, or will get."""
        return self.facts.frames(self.pieces[self.pieces_sent - 1].end) if self.pieces_sent else 0

    @property
    def has_work(self) -> bool:
        """Whether a window may be moved or a piece decoded or waited for now, or it is to be put down or forked."""
        return bool(self.put_down or self.fork or self.is_late or self.next_window() or self.next_decode())

    @property
    def steps_left(self) -> int:
        """Windows to be moved and pieces to be decoded until the end."""
        return len(self._steps) - self.windows_done + len(self.pieces) - self.pieces_done

    @property
    def keeps_turn(self) -> bool:
        """Whether a chunk is in work for which memory was laid out; another stream's would take its place."""
        remembers = self.request.recipe.memory is not None
        return remembers and self.phase is Phase.RUNNING and self._steps.is_amid_chunk(self.windows_done)

    @property
    def ends_chunk(self) -> bool:
        """Whether nothing is in work after the next step, and more follows."""
        step, done = self._steps.find(self.windows_done), self.windows_done + 1
        if step is None or step.recaches:  # its chunk is yet to begin
            return False
        return done < len(self._steps) and not self._steps.is_amid_chunk(done)

    def next_window(self) -> WindowStep | None:
        """The window that may be moved now, or None."""
        step = self._steps.find(self.windows_done)
        if not self._goes_on or step is None or step.chunk - self._chunks_decoded() > self._limits.chunks_ahead:
            return None
        return WindowStep(
            request_id=self.request.request_id,
            chunk=step.chunk,
            first_latent_frame=step.span.first,
            latent_frames=step.span.length,
            step=step.step,
            last=step.last,
            commits=step.commits,
            prompt=step.prompt,
            recaches=step.recaches,
            level=step.level,
            mix=step.mix,
            cuts=step.cuts,
            lane=self._lane,
            slots=step.slots,
        )

    def next_window_after_frames(self) -> WindowStep | None:
        """The same, but what only remembers waits for frames; where decodes go beside, all wait for the first ones."""
        window, beside = self.next_window(), self.facts.decodes_beside
        if window is None or self.next_decode() is None:
            return window
        return None if (self.pieces_sent == 0 if beside else window.is_clean_pass or window.recaches) else window

    def next_decode(self) -> DecodeStep | None:
        """The piece that is clean and for which the client has room, or None.

        A piece larger than the whole credit goes out when the client owes nothing.
        """
        if not self._goes_on or self.is_decoded or self.is_late:
            return None
        piece = self.pieces[self.pieces_done]
        silent = self.pieces_done < self.pieces_sent
        owed = 0 if silent else self.unacknowledged_frames
        if piece.end > self._clean_latent_frames() or (owed and owed + self._frames(piece) > self._limits.frame_credit):
            return None
        return DecodeStep(
            request_id=self.request.request_id,
            first_latent_frame=piece.first,
            latent_frames=piece.length,
            last=self.pieces_done == len(self.pieces) - 1,
            silent=silent,
            lane=self._lane,
        )

    def deliver(self) -> list[Delivery]:
        """The clean chunks that the ranks which only decode do not have yet; they have them from here on."""
        if self.phase is not Phase.RUNNING:
            return []
        due = self.chunks[self._delivered : self._steps.clean_chunks(self.windows_done)]
        self._delivered += len(due)
        return [
            Delivery(request_id=self.request.request_id, first_latent_frame=c.first, latent_frames=c.length)
            for c in due
        ]

    @property
    def decoded(self) -> int:
        """Latent frames that are decoded."""
        return self.pieces[self.pieces_done - 1].end if self.pieces_done else 0

    @property
    def is_decoded(self) -> bool:
        """Whether every frame was decoded."""
        return self.pieces_done == len(self.pieces)

    @property
    def waits_for_decode(self) -> bool:
        """Whether there are clean latents that are not decoded."""
        return self._goes_on and self.decoded < self._clean_latent_frames()

    def is_delivered(self, step: DecodeStep) -> bool:
        """Whether the ranks that only decode have, or are about to get, what a step decodes."""
        there = self.chunks[self._delivered - 1].end if self._delivered else 0
        return step.first_latent_frame + step.latent_frames <= there

    def admitted(self) -> Progress:
        """Note that the ranks hold the request's text."""
        self.phase, self.rests, self.like = Phase.RUNNING, self.like is not None, None
        return self._progress(Stage.TEXT, 1, 1)

    def window_moved(self) -> Progress:
        """Note that the window of `next_window` was moved."""
        self.windows_done += 1
        return self._progress(Stage.DENOISE, self.windows_done, len(self._steps))

    def piece_decoded(self) -> Progress:
        """Note that the piece of `next_decode` was decoded and is on its way to the client."""
        piece = self.pieces[self.pieces_done]
        self.pieces_done += 1
        if self.pieces_done > self.pieces_sent:
            self.pieces_sent = self.pieces_done
            self.unacknowledged_frames += self._frames(piece)
        if self.is_decoded:
            self.phase = Phase.FINISHED
        return self._progress(Stage.DECODE, self.facts.frames(piece.end), self.request.frames)

    def wants_commit(self, window: WindowStep, now_s: float) -> bool:
        """Whether the state should be written down once `window` is moved: at a chunk's end, in long ones in between.

        What is only left to decode is decoded anew, so no commit follows the last chunk.
        """
        if self._limits.commit_s is None:
            return False
        if self.saved.at_s is None:
            self.saved = replace(self.saved, at_s=now_s)
        return window.last or now_s - (self.saved.at_s or 0.0) >= self._limits.commit_s

    def committed(self, parts: Mapping[str, bytes], now_s: float, crew: Crew | None = None) -> None:
        """Note the state as it is written down now.

        Args:
            parts: What was written.
            now_s: Seconds on the caller's monotonic clock.
            crew: Who wrote it; None means all ranks at once.
        """
        self.suspect = False
        now = Saved(windows=self.windows_done, pieces=self.pieces_done, parts=parts, at_s=now_s)
        past = {clean_part(chunk.first) for chunk in self.chunks[: self._chunks_decoded()]}
        before = self.saved
        self.saved = before.written_by_all(now) if crew is None else before.written_by(crew, now, past)

    def admit(self, crew: Crew | None = None) -> Admit:
        """What the ranks of a crew are told of it: the request, and what was written down last."""
        resume = None if self.like else self.saved.parts_for(crew)
        return Admit(request=self.request, resume=resume, lane=self._lane, seats=self.seats, like=self.like)

    def rewind(self) -> None:
        """Go back to what was written down: the ranks that knew more are gone. Frames that were sent stay sent."""
        self.phase, self.place, self.is_shared, self.like = Phase.QUEUED, None, True, None
        self.is_late = False
        self.rests, self.waits_for_room = self.rests and self.paused, False
        self.windows_done, self.pieces_done = self.saved.windows, self.saved.pieces
        self._delivered = self._chunks_decoded()
        self.saved = replace(self.saved, at_s=None)
        self.window_turn = self.decode_turn = -1
        self.worked_at = 0  # a number of a step, and these begin anew

    def acknowledge(self, frames: int) -> None:
        """Note that the client is done with `frames` pixel frames."""
        if not 0 <= frames <= self.unacknowledged_frames:
            raise ValueError(f"frames is {frames}; {self.unacknowledged_frames} frames are unacknowledged")
        self.unacknowledged_frames -= frames

    @property
    def _goes_on(self) -> bool:
        return self.phase is Phase.RUNNING and not self.paused and not self.rests

    @property
    def _lane(self) -> int:
        return 0 if self.place is None else self.place.lane

    def _clean_latent_frames(self) -> int:
        done = self._steps.clean_chunks(self.windows_done)
        return self.chunks[done - 1].end if done else 0

    def _chunks_decoded(self) -> int:
        return sum(chunk.end <= self.decoded for chunk in self.chunks)

    def _frames(self, piece: Span) -> int:
        return self.facts.frames(piece.end) - (self.facts.frames(piece.first) if piece.first else 0)

    def _progress(self, stage: Stage, done: int, total: int) -> Progress:
        return Progress(request_id=self.request.request_id, stage=stage, done=min(done, total), total=total)
