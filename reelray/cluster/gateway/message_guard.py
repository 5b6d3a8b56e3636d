"""Answers bytes that are no message with a precise status; gRPC would tell what Python said of them."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from reelray.cluster.gateway.boundary import Context
from reelray.cluster.gateway.statuses import status_of
from reelray.proto.errors import InputError

OURS = "/reelray."
UNREADABLE = object()


class MessageGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Looks at the requests of our services; a call that takes many messages finds `UNREADABLE` among them."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Pass a call on, with its request read or refused."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(OURS):
            return handler
        if handler.request_streaming:
            return handler._replace(request_deserializer=_reading(handler.request_deserializer))
        name = "unary_stream" if handler.response_streaming else "unary_unary"
        answer = _refusing_unreadable(getattr(handler, name))
        return handler._replace(request_deserializer=_reading(handler.request_deserializer), **{name: answer})


def _reading(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def try_to_read(data: bytes) -> object:
        try:
            return read(data)
        except DecodeError:
            return UNREADABLE

    return try_to_read


def _refusing_unreadable(answer: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def checked(request: object, context: Context) -> Any:
        if request is UNREADABLE:
            error = InputError("the request is no message of this call; was it sent by another version?")
            await context.abort_with_status(status_of(error))
        return await answer(request, context)

    return checked
