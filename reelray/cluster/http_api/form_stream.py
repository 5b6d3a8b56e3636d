"""A form that is too large to be held: read field by field, as it comes."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from reelray.cluster.http_api.bodies import LARGEST_HEAD, MOST_PARTS, Part, read_boundary, read_part
from reelray.proto.errors import CancelledError, InputError, UploadError

SILENT_S = 30.0
"""How long a sender may say nothing."""


class FormStream:
    """Call `next_field`, read its `data` to the end, and again.

    Args:
        request: Its body is `multipart/form-data`.

    Raises:
        InputError: It is said to be something else.
    """

    def __init__(self, request: Request) -> None:
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/form-data"):
            raise InputError("send the file in a form: multipart/form-data with the field file")
        self._mark = b"\r\n--" + read_boundary(content_type).encode("ascii")
        self._pieces = request.stream()
        self._held = bytearray(b"\r\n")
        self._fields = 0

    async def next_field(self) -> Part | None:
        """Name and kind of the next field, without its data; None after the last.

        Raises:
            InputError: What comes is no form.
            UploadError: It was cut off.
            CancelledError: Nothing comes any more.
        """
        if self._fields == 0:
            async for _ in self.data():
                raise InputError("the body is no multipart/form-data: something stands before its first field")
        self._fields += 1
        if self._fields > MOST_PARTS:
            raise InputError(f"the form has more than {MOST_PARTS} fields")
        if await self._starts_with(b"--"):
            return None
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > LARGEST_HEAD:
                raise InputError("a field of the multipart/form-data has no head, or too long a one")
            await self._more()
        head = bytes(self._held[: end + 4])
        del self._held[: end + 4]
        return read_part(head)

    async def data(self) -> AsyncIterator[bytes]:
        """The bytes of the field, up to its end."""
        while (end := self._held.find(self._mark)) < 0:
            whole = len(self._held) - len(self._mark) + 1
            if whole > 0:
                piece = bytes(self._held[:whole])
                del self._held[:whole]
                yield piece
            await self._more()
        piece = bytes(self._held[:end])
        del self._held[: end + len(self._mark)]
        if piece:
            yield piece

    async def _starts_with(self, text: bytes) -> bool:
        while len(self._held) < len(text):
            await self._more()
        return self._held.startswith(text)

    async def _more(self) -> None:
        try:
            async with asyncio.timeout(SILENT_S):
                piece = await anext(self._pieces, None)
        except TimeoutError:
            raise CancelledError(f"nothing came for {SILENT_S:g} s; the upload was ended") from None
        except ClientDisconnect:
            piece = None
        if piece is None:
            raise UploadError("the form was cut off")
        self._held += piece
