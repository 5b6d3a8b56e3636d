"""Lets calls in that carry the right token; health checks need none."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from reelray.cluster.gateway.callers import Callers

OPEN = ("/grpc.health.v1.Health/",)


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Refuses calls without `authorization: Bearer TOKEN`.

    Args:
        callers: Who may come in.
    """

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Pass a call on, or answer it with UNAUTHENTICATED."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN):
            return handler
        return handler if self._callers.knows(details.invocation_metadata) is not None else _refusing(handler)


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
