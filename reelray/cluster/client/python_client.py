"""`reelray.Client`: videos from a server, as Python sees them."""

import weakref
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import grpc

from reelray.cluster.client.arguments import (
    DESCRIBE_S,
    FrameStack,
    LiveArguments,
    ServedEngine,
    VideoArguments,
    begin_dialogue,
    read_engines,
    read_live_arguments,
    read_waiting_arguments,
)
from reelray.cluster.client.connection import ServerAddress, error_of, open_channel
from reelray.cluster.client.kept_reading import Wanted
from reelray.cluster.client.kept_render import KeptEvent, KeptRender, read_state
from reelray.cluster.client.kept_renders import KeptRenders
from reelray.cluster.client.remote_session import RemoteSession
from reelray.cluster.client.remote_video import RemoteVideo
from reelray.cluster.client.requests import KEEP_S, write_request
from reelray.cluster.client.uploads import UploadedAsset, upload
from reelray.cluster.python_api import Rendered
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc
from reelray.proto.v1 import video_spec_pb2 as wire


class Client:
    """A connection to `reelray serve`; for any number of threads.

        with reelray.Client("gpu-7:50051", token=TOKEN) as client:
            clip = client.render("a cat on a beach", seed=7)

    Args:
        address: ``HOST`` or ``HOST:PORT``.
        token: What the server wants to hear; None where it wants nothing.
        certificate: PEM file by which the server is known; None speaks in the clear.

    Raises:
        EngineError: Nobody answers there.
        InputError: The certificate cannot be read.
    """

    def __init__(self, address: str, *, token: str | None = None, certificate: str | Path | None = None) -> None:
        file = None if certificate is None else Path(certificate).expanduser()
        self._server = ServerAddress(address=address, token=token, certificate=file)
        self._sessions: weakref.WeakSet[RemoteSession] = weakref.WeakSet()
        self._opened = open_channel(self._server)
        self._channel: grpc.Channel | None = self._opened.__enter__()

    def describe(self) -> list[ServedEngine]:
        """Models of the server, and how busy they are.

        Raises:
            ReelrayError: The server refused, or was lost.
        """
        stub = cluster_pb2_grpc.ClusterStub(self._open_channel())  # type: ignore[no-untyped-call]
        try:
            answer = stub.Describe(cluster_pb2.DescribeRequest(), metadata=self._server.metadata, timeout=DESCRIBE_S)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return read_engines(answer)

    def render(self, prompt: str, **arguments: Unpack[LiveArguments]) -> Rendered:
        """Have a video made and return its frames.

        Raises:
            ReelrayError: An option is wrong, or the server failed or was lost.
        """
        with closing(self._begin(prompt, arguments)) as video:
            stack = FrameStack(video.facts)
            for batch_FHWC in video:
                stack.add(batch_FHWC)
        return stack.rendered(video.summary)

    def render_stream(self, prompt: str, **arguments: Unpack[LiveArguments]) -> Iterator[FramesArray]:
        """Have a video made and yield its frames, RGB uint8 of shape H, W, 3, as they come.

        The server begins at once and refuses at once. Closing the iterator early stops it; whoever takes no frames
        holds it back.

        Raises:
            ReelrayError: An option is wrong, or the server failed or was lost.
        """
        return self._frames(self._begin(prompt, arguments))

    def converse(
        self,
        prompt: str,
        *,
        pace: float | None = None,
        keep_s: int = KEEP_S,
        **arguments: Unpack[LiveArguments],
    ) -> RemoteSession:
        """Begin a stream that is talked to while it is made; see `reelray.stream`.

            with client.converse("a cat sleeps", seconds=60) as session:
                for frames in session:  # uint8, (F, H, W, 3)
                    if session.position > 200:
                        session.say("the cat wakes up")

        Args:
            prompt: What it shows at first.
            pace: Frames per second at which it is played while it is made.
            keep_s: Seconds, 1 to 300, for which the server keeps the session when the line breaks; for as long it is
                taken up again.
            **arguments: As for `render`. Without `frames` the length is rounded up to whole chunks.

        Raises:
            ReelrayError: An option is wrong, the server has no room, or was lost.
        """
        dialogue, on_progress = begin_dialogue(prompt, arguments, pace=pace, keep_s=keep_s)
        return RemoteSession(
            self._open_channel(),
            self._server,
            dialogue,
            on_progress=on_progress,
            patience_s=float(keep_s),
            beside=self._sessions,
        )

    def submit(
        self,
        prompt: str,
        *,
        key: str | None = None,
        priority: int = 0,
        webhook: str | None = None,
        deadline: datetime | str | None = None,
        **arguments: Unpack[VideoArguments],
    ) -> KeptRender:
        """Have a video made by the server, whether or not anybody waits; it is kept until it is fetched.

        Args:
            prompt: What it shows.
            key: Any text: the same key and wish give the same render, however often this is called.
            priority: -100 to 100; higher ones are made first.
            webhook: Address that the server tells of its end, where it was told to trust it.
            deadline: When it should be complete; what cannot be is refused at once, with the time when it would be.
            arguments: As for `render`, without `on_progress`.

        Raises:
            ReelrayError: An option is wrong, a quota is reached, or the server was lost.
        """
        wish, model = read_waiting_arguments(prompt, arguments)
        wanted = Wanted(model=model, key=key, priority=priority, webhook=webhook, deadline=deadline)
        return self._renders().submit(wish, wanted)[0]

    def upload(self, file: str | Path, *, keep_s: int = 0) -> UploadedAsset:
        """Have the server keep a file; name it in a video as ``image="asset:" + id``. See `client.uploads.upload`."""
        return upload(self._open_channel(), self._server, Path(file), keep_s=keep_s)

    def get(self, render_id: str) -> KeptRender:
        """How a render is; see `KeptRenders`."""
        return self._renders().get(render_id)

    def list(self, state: str | None = None) -> Iterator[KeptRender]:
        """All renders, or those in a state such as ``running``, the newest first.

        Raises:
            InputError: There is no such state.
        """
        return self._renders().list(read_state(state))

    def cancel(self, render_id: str) -> KeptRender:
        """End a render that has not ended; see `KeptRenders`."""
        return self._renders().cancel(render_id)

    def watch(self, render_id: str, *, after: int = 0) -> Iterator[KeptEvent]:
        """What happens to a render, up to its end, behind the event `after`; see `KeptRenders`."""
        return self._renders().watch(render_id, after=after)

    def download(
        self, render_id: str, *, offset: int = 0, length: int | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """Bytes of a render's file, also while it grows; see `KeptRenders`."""
        return self._renders().download(render_id, offset=offset, length=length, follow=follow)

    def close(self) -> None:
        """End the connection and what runs over it; harmless when called twice."""
        for session in [*self._sessions]:
            session.close()
        if self._channel is not None:
            self._channel = None
            self._opened.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, prompt: str, arguments: LiveArguments) -> RemoteVideo:
        wish, how, on_progress = read_live_arguments(prompt, arguments)
        request = write_request(wish, how.model, wire.MEDIA_RGB24, how.deadline)
        return RemoteVideo(self._open_channel(), self._server, request, on_progress)

    def _renders(self) -> KeptRenders:
        return KeptRenders(self._open_channel(), self._server)

    def _open_channel(self) -> grpc.Channel:
        if self._channel is None:
            raise InputError("the client is closed; make another one")
        return self._channel

    @staticmethod
    def _frames(video: RemoteVideo) -> Iterator[FramesArray]:
        with closing(video):
            for batch_FHWC in video:
                yield from batch_FHWC.copy()
