"""Lets calls in that carry the right token; health checks need none."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

OPEN = ("/grpc.health.v1.Health/",)
SCHEME = "Bearer "


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Refuses calls without `authorization: Bearer TOKEN`.

    Args:
        token: What callers must know.
    """

    def __init__(self, token: str) -> None:
        self._wanted = f"{SCHEME}{token}".encode()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Pass a call on, or answer it with UNAUTHENTICATED."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN):
            return handler
        given = dict(details.invocation_metadata).get("authorization", "")
        given = given if isinstance(given, bytes) else given.encode()
        return handler if hmac.compare_digest(given, self._wanted) else _refusing(handler)


def _refusing(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """A handler of the same shape that refuses."""

    async def refuse(_request: object, context: grpc.aio.ServicerContext) -> Any:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED, "this server wants a token: authorization: Bearer TOKEN (--token)"
        )

    async def refuse_stream(_request: object, context: grpc.aio.ServicerContext) -> Any:
        await refuse(_request, context)
        yield

    if handler.response_streaming:
        maker = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return maker(refuse_stream)
    maker = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return maker(refuse)
