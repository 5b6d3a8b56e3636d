"""Bodies of requests: read up to a size and for so long, then taken apart."""

import asyncio
import re
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from reelray.proto.errors import InputError

LARGEST_BODY = 3_000_000
"""A picture of 1.5 MB as base64, and prompts."""
SLOWEST_BODY_S = 30.0
MOST_PARTS = 100
LARGEST_HEAD = 4096
LONGEST_TYPE = 1024
"""Characters of a `Content-Type`; taking longer ones apart takes the square of their length."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A field of a form.

    Args:
        name: What it is called.
        data: Its bytes.
        is_file: Whether it was sent as a file.
    """

    name: str
    data: bytes
    is_file: bool


async def read_body(request: Request) -> bytes:
    """All bytes of a request's body.

    Raises:
        HTTPException: It is too large, comes too slowly, or is not sent to its end.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced[:19]) > LARGEST_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_BODY:
                    raise _too_large()
    except TimeoutError:
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT, f"the body took longer than {SLOWEST_BODY_S:g} s", {"connection": "close"}
        ) from None
    except ClientDisconnect:  # nobody hears it; it is counted
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the body was not sent to its end") from None
    return bytes(body)


def read_form(content_type: str, body: bytes) -> list[Part]:
    """Take a `multipart/form-data` body apart.

    Raises:
        InputError: It is none.
    """
    boundary = read_boundary(content_type)
    first, *sections = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii"), MOST_PARTS + 1)
    if first or not sections or not sections[-1].startswith(b"--"):
        raise InputError(f"the body is no multipart/form-data of at most {MOST_PARTS} fields that ends as it should")
    return [read_part(section) for section in sections[:-1]]


def read_boundary(content_type: str) -> str:
    """What parts the fields of a form.

    Raises:
        InputError: The header names nothing.
    """
    boundary = _header("content-type", content_type[:LONGEST_TYPE]).get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise InputError("the body is said to be multipart/form-data, and its header names no boundary")
    return boundary


def read_part(section: bytes) -> Part:
    """Read a field of a form: its head, an empty line, its bytes.

    Raises:
        InputError: It is none.
    """
    head, gap, data = section.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not gap or len(head) > LARGEST_HEAD:
        raise InputError("a field of the multipart/form-data has no head, or too long a one")
    disposition = None
    for line in head.decode(errors="replace").split("\r\n"):
        title, _, value = line.partition(":")
        if title.strip().lower() == "content-disposition":
            disposition = _header("content-disposition", value.strip())
    name = None if disposition is None else disposition.get_param("name", header="content-disposition")
    if disposition is None or not isinstance(name, str) or not name:
        raise InputError("a field of the multipart/form-data has no name")
    is_file = disposition.get_param("filename", header="content-disposition") is not None
    return Part(name=name, data=data, is_file=is_file)


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message


def _too_large() -> HTTPException:
    # Closed, as what is left of the body would be read as the next request.
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LARGEST_BODY} bytes are taken", {"connection": "close"}
    )
