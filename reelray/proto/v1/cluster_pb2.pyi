from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("version", "engines")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    version: str
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    def __init__(self, version: _Optional[str] = ..., engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("model", "model_digest", "device", "dtype", "layout", "ranks", "requests", "ready", "waiting", "queue_seconds", "busy")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_digest: str
    device: str
    dtype: str
    layout: str
    ranks: int
    requests: int
    ready: bool
    waiting: int
    queue_seconds: float
    busy: float
    def __init__(self, model: _Optional[str] = ..., model_digest: _Optional[str] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., layout: _Optional[str] = ..., ranks: _Optional[int] = ..., requests: _Optional[int] = ..., ready: bool = ..., waiting: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., busy: _Optional[float] = ...) -> None: ...
