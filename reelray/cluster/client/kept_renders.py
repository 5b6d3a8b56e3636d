"""Calls of `Renders`, tried again where the server or its store is away for a while."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of, open_channel
from reelray.cluster.client.kept_reading import Cursor, Downloading, Pages, Wanted, Watching, write_submission
from reelray.cluster.client.kept_render import KeptEvent, KeptRender, read_render
from reelray.cluster.client.notices import Notices, Tell, nobody
from reelray.cluster.client.patience import Patience
from reelray.cluster.render import RenderOptions
from reelray.cluster.store.job import JobState
from reelray.proto.errors import ReelrayError
from reelray.proto.v1 import renders_pb2 as wire
from reelray.proto.v1 import renders_pb2_grpc

CALL_S = 30.0
PATIENCE_S = 60.0
Answer = TypeVar("Answer")
Item = TypeVar("Item")


class KeptRenders:
    """The renders that a server keeps for this caller; for any number of threads.

    Args:
        channel: To the server.
        server: Whose it is.
        patience_s: How long a call goes on trying.
        tell: Hears that a line broke, and that it was mended.
    """

    def __init__(
        self, channel: grpc.Channel, server: ServerAddress, patience_s: float = PATIENCE_S, tell: Tell = nobody
    ) -> None:
        self._stub: Any = renders_pb2_grpc.RendersStub(channel)  # type: ignore[no-untyped-call]
        self._metadata, self._patience_s, self._tell = server.metadata, patience_s, tell

    def submit(self, options: RenderOptions, wanted: Wanted) -> tuple[KeptRender, bool]:
        """Have a video made, whoever leaves. A broken line makes no second one.

        Returns:
            The render, and whether it is new.

        Raises:
            ReelrayError: An option is wrong, a quota is reached, or the server is away for too long.
        """
        answer = self._ask(self._stub.Submit, write_submission(options, wanted))
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
        pages = Pages(state)
        while pages.more:
            yield from pages.take(self._ask(self._stub.List, pages.request))

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
        return self._read(self._stub.Watch, Watching(render_id, after))

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
        return self._read(self._stub.Download, Downloading(render_id, offset, length, follow=follow))

    def _ask(self, call: Callable[..., Answer], said: object) -> Answer:
        patience = self._patience()
        while True:
            try:
                answer = call(said, metadata=self._metadata, timeout=CALL_S)
            except grpc.RpcError as failed:
                patience.wait(error_of(failed))
            else:
                patience.heard()
                return answer

    def _patience(self) -> Patience:
        return Patience(self._patience_s, notices=Notices(self._tell))

    def _read(self, call: Callable[..., Any], cursor: Cursor[Any, Item]) -> Iterator[Item]:
        patience = self._patience()
        while not cursor.complete:
            try:
                with closing(_Call(call(cursor.request, metadata=self._metadata))) as messages:
                    for message in messages:
                        item = cursor.take(message)
                        patience.heard()
                        yield item
            except ReelrayError as error:
                patience.wait(error)
            else:
                return


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
def connect_renders(server: ServerAddress, tell: Tell = nobody) -> Iterator[KeptRenders]:
    """The renders of a server, for the time of a block; raises as `open_channel` does."""
    with open_channel(server) as channel:
        yield KeptRenders(channel, server, tell=tell)
