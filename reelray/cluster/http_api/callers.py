"""Whose call it is: the tokens of gRPC, and nobody whom a web page has sent."""

import ipaddress
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from reelray.cluster.gateway.callers import DEFAULT_TENANT, Callers


def tenant_of(callers: Callers, headers: Headers, *, on_loopback: bool) -> str:
    """The tenant of a call.

    Args:
        callers: Who may call.
        headers: Of the call.
        on_loopback: Whether only this machine can reach the server.

    Raises:
        HTTPException: It has no token of ours; or there are none, and a page in a browser sent it.
    """
    if callers.are_known:
        tenant = callers.knows([("authorization", headers.get("authorization", ""))])
        if tenant is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "this server wants a token: Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
        return tenant
    _refuse_pages(headers, on_loopback=on_loopback)
    return DEFAULT_TENANT


def _refuse_pages(headers: Headers, *, on_loopback: bool) -> None:
    """Any page may send its reader's browser here, also under a name of its own that leads to this machine."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if (origin is not None and not _is_of(origin, host)) or (on_loopback and not _is_here(host)):
        raise HTTPException(HTTPStatus.FORBIDDEN, "a server without tokens takes no calls from pages of other places")


def _is_of(origin: str, host: str) -> bool:
    with suppress(ValueError):
        return urlsplit(origin).netloc == host
    return False


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    return False
