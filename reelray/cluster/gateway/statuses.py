"""Our errors as gRPC statuses, with details that a client can act on; nothing of the server's inside."""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from reelray.proto.errors import (
    ArtifactError,
    CancelledError,
    CheckpointError,
    ConflictError,
    CoordinatorError,
    EngineError,
    FencedError,
    FetchError,
    ForbiddenUrlError,
    GoneError,
    InputError,
    NeverError,
    QuotaError,
    RangeError,
    ReelrayError,
    ResourceError,
    StoreError,
    UnknownAssetError,
    UnknownJobError,
    UnknownModelError,
    UnknownSessionError,
    UnsupportedError,
)

DOMAIN = "reelray"
LONGEST_MESSAGE = 1000
LONGEST_ID = 200
"""Characters: of what does not fit into gRPC's trailers, code and kind would be lost too."""
CODES: tuple[tuple[type[ReelrayError], int], ...] = (
    (UnknownModelError, code_pb2.NOT_FOUND),
    (UnknownJobError, code_pb2.NOT_FOUND),
    (UnknownAssetError, code_pb2.NOT_FOUND),
    (ForbiddenUrlError, code_pb2.PERMISSION_DENIED),
    (FetchError, code_pb2.FAILED_PRECONDITION),
    (GoneError, code_pb2.NOT_FOUND),
    (UnknownSessionError, code_pb2.NOT_FOUND),
    (RangeError, code_pb2.OUT_OF_RANGE),
    (NeverError, code_pb2.FAILED_PRECONDITION),
    (ConflictError, code_pb2.ALREADY_EXISTS),
    (QuotaError, code_pb2.RESOURCE_EXHAUSTED),
    (UnsupportedError, code_pb2.UNIMPLEMENTED),
    (InputError, code_pb2.INVALID_ARGUMENT),
    (CheckpointError, code_pb2.FAILED_PRECONDITION),
    (ResourceError, code_pb2.RESOURCE_EXHAUSTED),
    (EngineError, code_pb2.UNAVAILABLE),
    (CoordinatorError, code_pb2.UNAVAILABLE),
    (StoreError, code_pb2.UNAVAILABLE),
    (ArtifactError, code_pb2.UNAVAILABLE),
    (FencedError, code_pb2.ABORTED),
    (CancelledError, code_pb2.CANCELLED),
)
"""The first that fits counts."""


def status_of(error: ReelrayError) -> grpc.Status:
    """The status of an error, with its code, its ids and, where trying again can help, when to."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    ids = {name: value[:LONGEST_ID] for name, value in error.ids.items()}
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=ids)
    details = [_packed(info)]
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return rpc_status.to_status(status_pb2.Status(code=code, message=error.message[:LONGEST_MESSAGE], details=details))


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
