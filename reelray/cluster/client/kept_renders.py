"""Calls of `Renders`, tried again where the server or its store is away for a while."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of, open_channel
from reelray.cluster.client.kept_render import FROM_STATES, KeptEvent, KeptRender, read_event, read_render
from reelray.cluster.client.patience import Patience
from reelray.cluster.client.requests import check_bytes, write_video
from reelray.cluster.render import RenderOptions
from reelray.cluster.store.job import JobState
from reelray.proto.errors import EngineError, InputError, ReelrayError
from reelray.proto.v1 import renders_pb2 as wire
from reelray.proto.v1 import renders_pb2_grpc

CALL_S = 30.0
PAGE = 50
PATIENCE_S = 60.0
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How a render is asked for, besides what it shows.

    Args:
        model: Name of a served model; None takes the server's first.
        key: The caller's key: the same key and wish are the same render. None makes one for this call.
        priority: -100 to 100; higher ones are made first.
        webhook: Address that the server tells of its end; None tells nobody.
    """

    model: str | None = None
    key: str | None = None
    priority: int = 0
    webhook: str | None = None


class KeptRenders:
    """The renders that a server keeps for this caller; for any number of threads.

    Args:
        channel: To the server.
        server: Whose it is.
        patience_s: How long a call goes on trying.
    """

    def __init__(self, channel: grpc.Channel, server: ServerAddress, patience_s: float = PATIENCE_S) -> None:
        self._stub: Any = renders_pb2_grpc.RendersStub(channel)  # type: ignore[no-untyped-call]
        self._metadata, self._patience_s = server.metadata, patience_s

    def submit(self, options: RenderOptions, wanted: Wanted) -> tuple[KeptRender, bool]:
        """Have a video made, whoever leaves. A broken line makes no second one.

        Returns:
            The render, and whether it is new.

        Raises:
            ReelrayError: An option is wrong, a quota is reached, or the server is away for too long.
        """
        key = wanted.key or f"once-{secrets.token_hex(16)}"
        try:
            said = wire.SubmitRenderRequest(
                video=write_video(options, wanted.model),
                options={"idempotency_key": key, "priority": wanted.priority},
                webhook=wanted.webhook,
            )
        except ValueError:
            raise InputError(f"priority is {wanted.priority}; it must be -100 to 100") from None
        check_bytes(said.ByteSize())
        answer = self._ask(self._stub.Submit, said)
        return read_render(answer.render), answer.fresh

    def get(self, render_id: str) -> KeptRender:
        """How a render is.

        Raises:
            UnknownJobError: There is none of this id.
            ReelrayError: The server is away for too long.
        """
        return read_render(self._ask(self._stub.Get, wire.GetRenderRequest(id=render_id)))

    def list(self, state: JobState | None = None) -> Iterator[KeptRender]:
        """All renders, the newest first; pages are asked for as they are needed.

        Raises:
            ReelrayError: The server is away for too long.
        """
        wanted = wire.RENDER_STATE_UNSPECIFIED if state is None else FROM_STATES[state]
        token, more = "", True
        while more:
            said = wire.ListRendersRequest(state=wanted, page_size=PAGE, page_token=token)
            page = self._ask(self._stub.List, said)
            yield from map(read_render, page.renders)
            token, more = page.next_page_token, bool(page.next_page_token)

    def cancel(self, render_id: str) -> KeptRender:
        """End a render; harmless for one that has ended. Raises as `get` does."""
        return read_render(self._ask(self._stub.Cancel, wire.CancelRenderRequest(id=render_id)))

    def watch(self, render_id: str, *, after: int = 0) -> Iterator[KeptEvent]:
        """What happens to a render, up to its end; goes on behind the last event where the line breaks.

        Args:
            render_id: Which.
            after: Number of the last event seen.

        Raises:
            UnknownJobError: There is none of this id.
            ReelrayError: The server is away for too long.
        """
        patience = Patience(self._patience_s)
        while True:
            said = wire.WatchRenderRequest(id=render_id, after=after)
            try:
                for event in self._stream(self._stub.Watch, said):
                    patience.heard()
                    after = event.number
                    yield read_event(event, render_id)
            except ReelrayError as error:
                patience.wait(error)
            else:
                return

    def download(
        self, render_id: str, *, offset: int = 0, length: int | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """Bytes of a render's file, in order; goes on behind the last one where the line breaks.

        Args:
            render_id: Which.
            offset: Of the first.
            length: Most bytes; None takes all.
            follow: Wait for those that are not there yet.

        Raises:
            UnknownJobError: There is none of this id.
            RangeError: The file ends before `offset`.
            NeverError: It failed or was cancelled before that.
            ReelrayError: The server is away for too long.
        """
        if offset < 0 or (length is not None and length < 1):
            raise InputError(f"{length} bytes from {offset} on; offset is 0 or more, length 1 or more")
        at, end, patience = offset, None if length is None else offset + length, Patience(self._patience_s)
        while end is None or at < end:
            said = wire.DownloadRenderRequest(
                id=render_id, offset=at, length=0 if end is None else end - at, follow=follow
            )
            try:
                for chunk in self._stream(self._stub.Download, said):
                    if chunk.offset != at:
                        raise EngineError(f"the server sent byte {chunk.offset}; byte {at} was due")
                    patience.heard()
                    at += len(chunk.data)
                    yield chunk.data
            except ReelrayError as error:
                patience.wait(error)
            else:
                return

    def _ask(self, call: Callable[..., Answer], said: object) -> Answer:
        patience = Patience(self._patience_s)
        while True:
            try:
                return call(said, metadata=self._metadata, timeout=CALL_S)
            except grpc.RpcError as failed:
                patience.wait(error_of(failed))

    def _stream(self, call: Callable[..., Any], said: object) -> Iterator[Any]:
        with closing(_Call(call(said, metadata=self._metadata))) as messages:
            yield from messages


class _Call:
    """A call of the server's, which is cancelled when nobody listens any more."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as failed:
            raise error_of(failed) from None

    def close(self) -> None:
        self._call.cancel()


@contextmanager
def connect_renders(server: ServerAddress) -> Iterator[KeptRenders]:
    """The renders of a server, for the time of a block; raises as `open_channel` does."""
    with open_channel(server) as channel:
        yield KeptRenders(channel, server)
