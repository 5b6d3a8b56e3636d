"""Our errors as gRPC statuses, with details that a client can act on; nothing of the server's inside."""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from reelray.proto.errors import (
    CancelledError,
    CheckpointError,
    ConflictError,
    EngineError,
    FencedError,
    InputError,
    QuotaError,
    ReelrayError,
    ResourceError,
    StoreError,
    UnknownJobError,
    UnknownModelError,
    UnsupportedError,
)

DOMAIN = "reelray"
RETRY_MS = 1000
CODES: tuple[tuple[type[ReelrayError], int], ...] = (
    (UnknownModelError, code_pb2.NOT_FOUND),
    (UnknownJobError, code_pb2.NOT_FOUND),
    (ConflictError, code_pb2.ALREADY_EXISTS),
    (QuotaError, code_pb2.RESOURCE_EXHAUSTED),
    (UnsupportedError, code_pb2.UNIMPLEMENTED),
    (InputError, code_pb2.INVALID_ARGUMENT),
    (CheckpointError, code_pb2.FAILED_PRECONDITION),
    (ResourceError, code_pb2.RESOURCE_EXHAUSTED),
    (EngineError, code_pb2.UNAVAILABLE),
    (StoreError, code_pb2.UNAVAILABLE),
    (FencedError, code_pb2.ABORTED),
    (CancelledError, code_pb2.CANCELLED),
)
"""The first that fits counts."""


def status_of(error: ReelrayError) -> grpc.Status:
    """The status of an error, with its code, its ids and, where trying again can help, when to."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=error.ids)
    details = [_packed(info)]
    if error.retryable:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.ids.get("retry_after_ms", RETRY_MS)))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return rpc_status.to_status(status_pb2.Status(code=code, message=error.message, details=details))


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
