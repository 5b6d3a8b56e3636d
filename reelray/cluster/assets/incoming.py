"""Bytes that come over the network, for a thread that writes them down."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from reelray.cluster.assets.media import HEAD_BYTES, check_said, recognise
from reelray.proto.errors import CancelledError, TooLargeError, UploadError

if TYPE_CHECKING:
    from concurrent.futures import Future


class Incoming:
    """Iterate once, in a thread that is not the event loop's; what comes is checked on the way.

    The thread takes a piece when it has written the one before, so a slow disk holds the sender back.

    Args:
        pieces: Of the file, from the event loop that runs now.
        size_bytes: How many must come.
        sha256: Digest that they must have; empty takes any.
        media_type: What they are said to be; empty where nothing was said.
    """

    def __init__(self, pieces: AsyncIterator[bytes], size_bytes: int, sha256: str, media_type: str = "") -> None:
        self._pieces, self._size, self._sha256, self._said = pieces, size_bytes, sha256, media_type
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
        head, came, digest = b"", 0, hashlib.sha256()
        while piece := self._next():
            came += len(piece)
            if came > self._size:
                raise UploadError(f"more came than the {self._size} bytes that were announced")
            digest.update(piece)
            if self.media_type:
                yield piece
                continue
            head += piece
            if len(head) >= min(HEAD_BYTES, self._size):
                self.media_type = recognise(head[:HEAD_BYTES])
                check_said(self._said, self.media_type)
                yield head
        if came < self._size:
            raise UploadError(f"the upload was cut off: {came} of {self._size} bytes came")
        if self._sha256 not in {"", digest.hexdigest()}:
            raise UploadError(f"the bytes that came have SHA-256 {digest.hexdigest()}; {self._sha256} was announced")

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


async def within(pieces: AsyncIterator[bytes], largest_bytes: int) -> AsyncIterator[bytes]:
    """The same pieces, as long as they are not too many.

    Raises:
        TooLargeError: They are.
    """
    came = 0
    async for piece in pieces:
        came += len(piece)
        if came > largest_bytes:
            raise TooLargeError(f"more than {largest_bytes} bytes came; no more are taken")
        yield piece
