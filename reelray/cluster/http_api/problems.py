"""What goes wrong as OpenAI's clients read it; nothing of the server's inside."""

import math
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from reelray.proto.errors import (
    ArtifactError,
    CancelledError,
    ConflictError,
    CoordinatorError,
    DeadlineError,
    EngineError,
    FencedError,
    FetchError,
    ForbiddenUrlError,
    GoneError,
    InputError,
    MediaError,
    NeverError,
    QuotaError,
    RangeError,
    ReelrayError,
    ResourceError,
    StoreError,
    TooLargeError,
    UnknownAssetError,
    UnknownJobError,
    UnknownModelError,
)

LONGEST_MESSAGE = 1000
INTERNAL = "an unexpected error; the server's log says more"
STATUSES: tuple[tuple[type[ReelrayError], HTTPStatus], ...] = (
    (UnknownModelError, HTTPStatus.NOT_FOUND),
    (UnknownJobError, HTTPStatus.NOT_FOUND),
    (UnknownAssetError, HTTPStatus.NOT_FOUND),
    (MediaError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (ForbiddenUrlError, HTTPStatus.FORBIDDEN),
    (FetchError, HTTPStatus.FAILED_DEPENDENCY),
    (GoneError, HTTPStatus.GONE),
    (NeverError, HTTPStatus.GONE),
    (RangeError, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    (ConflictError, HTTPStatus.CONFLICT),
    (QuotaError, HTTPStatus.TOO_MANY_REQUESTS),
    (InputError, HTTPStatus.BAD_REQUEST),
    (DeadlineError, HTTPStatus.TOO_MANY_REQUESTS),
    (ResourceError, HTTPStatus.SERVICE_UNAVAILABLE),
    (CoordinatorError, HTTPStatus.SERVICE_UNAVAILABLE),
    (EngineError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE),
    (ArtifactError, HTTPStatus.SERVICE_UNAVAILABLE),
    (FencedError, HTTPStatus.CONFLICT),
    (CancelledError, HTTPStatus.REQUEST_TIMEOUT),
)
"""The first that fits counts."""
TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


async def answer_error(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a call that raised an error of ours."""
    assert isinstance(error, ReelrayError)
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers, wait_ms = {"x-should-retry": "true" if error.retryable else "false"}, error.retry_after_ms
    if wait_ms is not None:
        headers |= {"retry-after": str(math.ceil(wait_ms / 1000)), "retry-after-ms": str(wait_ms)}
    return problem(status, error.code, error.message, headers)


async def answer_refusal(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a call that HTTP itself refuses, such as one to nowhere."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    said = {"x-should-retry": "false", **(error.headers or {})}
    return problem(status, status.name.lower(), error.detail, said)


async def answer_unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """The answer to a call that failed for no reason that a caller could understand."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", INTERNAL, {"x-should-retry": "false"})


def problem(status: HTTPStatus, code: str, message: str, headers: dict[str, str]) -> JSONResponse:
    """An error in OpenAI's form."""
    other = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    told_message = message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()  # JSON has halves of letters
    told = {"message": told_message, "type": TYPES.get(status, other), "param": None, "code": code}
    return JSONResponse({"error": told}, status, headers)
