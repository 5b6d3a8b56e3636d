from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Quality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUALITY_UNSPECIFIED: _ClassVar[Quality]
    QUALITY_EXACT: _ClassVar[Quality]
    QUALITY_BALANCED: _ClassVar[Quality]
    QUALITY_FAST: _ClassVar[Quality]
QUALITY_UNSPECIFIED: Quality
QUALITY_EXACT: Quality
QUALITY_BALANCED: Quality
QUALITY_FAST: Quality

class RequestOptions(_message.Message):
    __slots__ = ("idempotency_key", "request_id", "tenant", "priority", "deadline", "quality", "budget")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    request_id: str
    tenant: str
    priority: int
    deadline: _timestamp_pb2.Timestamp
    quality: Quality
    budget: Budget
    def __init__(self, idempotency_key: _Optional[str] = ..., request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., priority: _Optional[int] = ..., deadline: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., quality: _Optional[_Union[Quality, str]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("gpu_seconds", "error")
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    gpu_seconds: float
    error: float
    def __init__(self, gpu_seconds: _Optional[float] = ..., error: _Optional[float] = ...) -> None: ...
