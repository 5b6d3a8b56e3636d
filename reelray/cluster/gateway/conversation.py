"""One session of `Videos.Converse`: a stream of an engine, whoever is on the line."""

import logging
import secrets
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from reelray.cluster.gateway.boundary import INTERNAL
from reelray.cluster.gateway.converse_log import ConverseLog
from reelray.cluster.gateway.converse_orders import carry_out, refusal_of
from reelray.cluster.gateway.media import MediaEncoder
from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.gateway.session_charges import SessionCharges
from reelray.cluster.gateway.video_answers import done, moved_on
from reelray.cluster.gateway.video_answers import planned as plan_of
from reelray.cluster.render import RenderJob
from reelray.cluster.stream_flow import Taken
from reelray.cluster.stream_session import StreamSession
from reelray.proto.errors import EngineError, InputError, ReelrayError, ResourceError
from reelray.proto.events import Progress, Stage
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import video_spec_pb2

LOG = logging.getLogger("reelray.gateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What was agreed on at the start of a session; its forks have the same.

    Args:
        model: What makes it.
        tenant: Whose it is.
        priority: Of the tenant's own.
        media: What its client receives.
        keep_s: How long it waits for a client whose call broke; 0 does not.
        window_bytes: Most that is on the way to the client.
        ids: Go along with its errors.
    """

    model: ServedModel
    tenant: str
    media: video_spec_pb2.Media
    keep_s: float
    window_bytes: int
    priority: int = 0
    ids: dict[str, str] = field(default_factory=dict)


class Home(Protocol):
    """Where sessions are; both may be called in any thread."""

    def check_room(self, tenant: str) -> None:
        """Raise where a tenant has no room for another session."""
        ...

    def adopt(self, conversation: "Conversation") -> None:
        """Take in a session that was forked from another one; it waits for a call."""
        ...


class Conversation:
    """Takes frames from a stream in a thread of its own and puts them, and answers to commands, into the log.

    Args:
        stream: Just begun.
        terms: What was agreed on.
        home: Where its forks go.
        charges: What its tenant pays.

    Raises:
        InputError: The media are none that this version knows.
    """

    def __init__(self, stream: StreamSession, terms: Terms, home: Home, charges: SessionCharges) -> None:
        self.id, self.terms, self.first_frame = secrets.token_hex(16), terms, stream.position
        self.charges = charges
        self.log = ConverseLog(terms.window_bytes)
        self.commands, self.is_paused = 0, False
        self.steps = self.all_steps = 0
        """Denoised until now, and in all."""
        self._received = 0
        self._stream, self._home = stream, home
        self._encoder = MediaEncoder(
            terms.media, stream.job, terms.model.description.digest, first_frame=self.first_frame
        )
        self._order = threading.Lock()  # held while something of the stream's past is put into the log
        stream.on_progress = self._tell
        self._thread = threading.Thread(target=self._run, name=f"converse {self.request_id}", daemon=True)

    @property
    def request_id(self) -> str:
        """The engine's name for the stream by now."""
        return str(self._stream.job.request.request_id)

    @property
    def ids(self) -> dict[str, str]:
        """Go along with errors."""
        return {"request": self.request_id, **self.terms.ids}

    @property
    def job(self) -> RenderJob:
        """What is made by now."""
        return self._stream.job

    @property
    def frames_left(self) -> int:
        """Pixel frames that have not been taken."""
        return max(0, self._stream.frames - self._stream.position)

    def moves(self) -> bool:
        """Whether something is being made, and was received since this was asked the last time."""
        reads = not self.log.is_full or self.log.first > self._received
        self._received = self.log.first
        is_made = bool(self.all_steps) and self.steps >= self.all_steps
        return reads and not (self.is_paused or is_made or self.log.ended)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def accepted(self) -> wire.ConverseEvent:
        """What the client of a call is told at first."""
        return wire.ConverseEvent(
            accepted=wire.ConverseEvent.Accepted(
                session_id=self.id,
                request_id=self.request_id,
                plan=self._plan(),
                first_frame=self.first_frame,
                commands=self.commands,
                paused=self.is_paused,
            )
        )

    def carry_out(self, command: wire.ConverseRequest.Command) -> None:
        """Carry a command out and answer it; waits for the engine."""
        # What is behind the answer to a seek was taken behind it. Others may take time, in which media go on.
        with self._order if command.HasField("seek") else nullcontext():
            answer = self._answer(command)
            answer.number, answer.frames, answer.paused = command.number, self._stream.frames, self.is_paused
            self.log.append(wire.ConverseEvent(answer=answer))

    def park(self) -> None:
        """Have the engine begin nothing while nobody is there."""
        with suppress(ReelrayError):  # all of it may be made
            self._stream.pause()

    def unpark(self) -> None:
        """Go on, if the client had not paused it."""
        if not self.is_paused:
            with suppress(ReelrayError):
                self._stream.resume()

    def close(self, error: ReelrayError | None = None) -> None:
        """End the stream where it is; its client is told the error. Waits for the engine."""
        self.log.end(error)
        self._close_stream()

    def _answer(self, command: wire.ConverseRequest.Command) -> wire.ConverseEvent.Answer:
        try:
            if command.HasField("fork"):
                self._home.check_room(self.terms.tenant)
            with self.charges.order(self._stream, command) as charges:
                answer = carry_out(self._stream, command, partial(self._take_in, charges))
        except ReelrayError as error:
            return wire.ConverseEvent.Answer(refusal=refusal_of(error))
        except Exception:
            LOG.exception("session %s: a command failed unexpectedly", self.request_id)
            return wire.ConverseEvent.Answer(refusal=refusal_of(ReelrayError(INTERNAL)))
        self._note(command)
        return answer

    def _note(self, command: wire.ConverseRequest.Command) -> None:
        if (kind := command.WhichOneof("order")) in {"pause", "resume", "stop"}:
            self.is_paused = kind == "pause"

    def _take_in(self, charges: SessionCharges, fork: StreamSession) -> str:
        charges.charge_only(fork.frames - fork.position)
        other = Conversation(fork, self.terms, self._home, charges)
        other.is_paused = self.is_paused
        self._home.adopt(other)
        return other.id

    def _run(self) -> None:
        try:
            while self.log.wait_until(self._may_take) and (taken := self._stream.take()) is not None:
                with self._order:
                    if taken.seeks == self._stream.seeks:  # else it was sought in meanwhile
                        self._send(taken)
            self._finish()
        except ReelrayError as error:
            self._fail(error)
        except Exception:
            LOG.exception("session %s failed unexpectedly", self.request_id)
            self._fail(ReelrayError(INTERNAL))
        finally:
            self._encoder.abandon()
            self._close_stream()

    def _close_stream(self) -> None:
        # A generator that runs in the other thread ends there; an engine that is lost has stopped, too.
        with suppress(ValueError, ReelrayError):
            self._stream.close()

    def _tell(self, progress: Progress) -> None:
        if progress.stage is Stage.DENOISE:
            self.steps, self.all_steps = progress.done, progress.total
        self.log.tell(moved_on(progress))

    def _may_take(self) -> bool:
        """Whether the client has room. Its end is taken when it has received all, as until then it may go back."""
        if self._stream.position < self._stream.frames:
            return not self.log.is_full
        return self.log.is_empty

    def _send(self, taken: Taken) -> None:
        frames, size = taken.frames, taken.frames.width * taken.frames.height * 3
        is_raw, begin = self.terms.media == video_spec_pb2.MEDIA_RGB24, 0
        for offset, data in self._encoder.write_parts(frames):
            frame = frames.first_frame + begin // size if is_raw else 0
            begin += len(data)
            self.log.append(wire.ConverseEvent(media={"offset": offset, "data": data, "frame": frame}))

    def _finish(self) -> None:
        if (summary := self._stream.summary) is not None:
            for offset, data in self._encoder.finish_parts():
                self.log.append(wire.ConverseEvent(media={"offset": offset, "data": data}))
            self.log.append(wire.ConverseEvent(done={"summary": done(summary), "plan": self._plan()}))
        self.log.end()

    def _fail(self, error: ReelrayError) -> None:
        self.log.end(error)
        if isinstance(error, EngineError | ResourceError):
            model = self.terms.model
            threading.Thread(target=model.look_after, name=f"look after {model.entry.name}", daemon=True).start()

    def _plan(self) -> video_spec_pb2.VideoPlan:
        job = self._stream.job
        return plan_of(job.request, job.model.name, self.terms.model.description.digest, job.fps)


def check_command(command: wire.ConverseRequest.Command, commands: int) -> bool:
    """Whether a command is new; those that were taken in before are said again by careful clients.

    Raises:
        InputError: One is missing before it.
    """
    if command.number > commands + 1 or not command.number:
        raise InputError(f"command {command.number} came, and {commands + 1} is the next one")
    return command.number > commands
