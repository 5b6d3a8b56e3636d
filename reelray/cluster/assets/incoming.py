"""Bytes that come over the network, for a thread that writes them down."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reelray.cluster.assets.media import HEAD_BYTES, check_said, recognise
from reelray.proto.errors import CancelledError, UploadError

if TYPE_CHECKING:
    from concurrent.futures import Future


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What must come.

    Args:
        size_bytes: How many bytes.
        is_exact: Whether there must be so many, and not only at most.
        sha256: Digest that they must have; empty takes any.
        media_type: What they are said to be; empty where nothing was said.
    """

    size_bytes: int
    is_exact: bool = True
    sha256: str = ""
    media_type: str = ""


class Incoming:
    """Iterate once, in a thread that is not the event loop's; what comes is checked on the way.

    The thread takes a piece when it has written the one before, so a slow disk holds the sender back.

    Args:
        pieces: Of the file, from the event loop that runs now.
        expected: What they must be.
    """

    def __init__(self, pieces: AsyncIterator[bytes], expected: Expected) -> None:
        self._pieces, self._expected = pieces, expected
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: Future[bytes] | None = None
        self._left = False
        self.media_type = ""

    def leave(self) -> None:
        """End the iteration from another thread; harmless at any time."""
        with self._lock:
            self._left = True
            if self._waiting is not None:
                self._waiting.cancel()

    def __iter__(self) -> Iterator[bytes]:
        """Yield what comes.

        Raises:
            UploadError: Fewer or more bytes than were announced, or another digest.
            MediaError: It is none of the files that are kept, or not what was said.
            CancelledError: Somebody left.
        """
        head, came, digest, expected = b"", 0, hashlib.sha256(), self._expected
        while piece := self._next():
            came += len(piece)
            if came > expected.size_bytes:
                raise UploadError(f"more came than the {expected.size_bytes} bytes that were announced")
            digest.update(piece)
            if self.media_type:
                yield piece
                continue
            head += piece
            if len(head) >= HEAD_BYTES:
                self._recognise(head)
                yield head
        if not self.media_type:
            self._recognise(head)
            yield head
        if expected.is_exact and came < expected.size_bytes:
            raise UploadError(f"the upload was cut off: {came} of {expected.size_bytes} bytes came")
        if expected.sha256 not in {"", digest.hexdigest()}:
            raise UploadError(f"the bytes that came have SHA-256 {digest.hexdigest()}; {expected.sha256} was announced")

    def _recognise(self, head: bytes) -> None:
        self.media_type = recognise(head[:HEAD_BYTES])
        check_said(self._expected.media_type, self.media_type)

    def _next(self) -> bytes:
        """The next piece; nothing at the end."""
        with self._lock:
            if self._left:
                raise CancelledError("the upload was left")
            self._waiting = asyncio.run_coroutine_threadsafe(self._take(), self._loop)
        return self._waiting.result()

    async def _take(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""
