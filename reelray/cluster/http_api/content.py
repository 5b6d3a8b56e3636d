"""The bytes of a finished video, or a range of them."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.read_ahead import read_ahead
from reelray.cluster.renders.growing_media import result_video
from reelray.cluster.store.job import Job
from reelray.proto.errors import NeverError

NOT_READY_S = 1
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Bytes `begin` up to `end` of a file."""

    begin: int
    end: int


async def answer_content(request: Request, archive: Archive, job: Job) -> Response:
    """The file of a video.

    Raises:
        NeverError: It failed or was cancelled.
        GoneError: It was kept as long as was promised.
        HTTPException: It is not there yet, or the range begins behind its end.
    """
    video = result_video(job)
    if video is None:
        raise _missing(job)
    etag = f'"{video.sha256}"'
    headers = {
        "accept-ranges": "bytes",
        "etag": etag,
        "content-disposition": f'attachment; filename="{job.ref.id}.mp4"',
    }
    span = _wanted(request, video.size_bytes, etag)
    status = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
    if span is None:
        span = Span(begin=0, end=video.size_bytes)
    else:
        headers["content-range"] = f"bytes {span.begin}-{span.end - 1}/{video.size_bytes}"
    headers["content-length"] = str(span.end - span.begin)
    if request.method == "HEAD":
        return Response(None, status, headers, "video/mp4")
    pieces = read_ahead(partial(archive.artifacts.read, video), span.begin, span.end)
    with in_plain_words():
        first = await anext(pieces, b"")  # what cannot be read is said before anything else
    return StreamingResponse(_pieces(first, pieces), status, headers, "video/mp4")


def read_range(header: str, size_bytes: int) -> Span | None:
    """The bytes that a `Range` header asks for; None for what may be answered with the whole file.

    Raises:
        HTTPException: No byte of it is in the file.
    """
    said = _RANGE.fullmatch(header.strip())
    if said is None or said.group(1, 2) == ("", ""):
        return None
    first, last = said.group(1, 2)
    if not first:
        span = Span(begin=max(0, size_bytes - int(last)), end=size_bytes)
    else:
        span = Span(begin=int(first), end=min(int(last) + 1, size_bytes) if last else size_bytes)
        if last and int(last) < int(first):
            return None
    if span.begin >= span.end:
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the file has {size_bytes} bytes",
            {"content-range": f"bytes */{size_bytes}"},
        )
    return span


def _wanted(request: Request, size_bytes: int, etag: str) -> Span | None:
    header = request.headers.get("range")
    if header is None or request.headers.get("if-range", etag) != etag:
        return None
    return read_range(header, size_bytes)


def _missing(job: Job) -> Exception:
    if job.state.ended:
        return NeverError(f"the video was never finished: {job.error}", ids=job.ref.ids)
    headers = {"retry-after": str(NOT_READY_S), "x-should-retry": "false"}
    return HTTPException(HTTPStatus.CONFLICT, "the video is not finished; ask for its status", headers)


async def _pieces(first: bytes, others: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    yield first
    with in_plain_words():
        async with aclosing(others):
            async for piece in others:
                yield piece
