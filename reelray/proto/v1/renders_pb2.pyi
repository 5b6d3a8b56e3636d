from google.protobuf import timestamp_pb2 as _timestamp_pb2
from reelray.proto.v1 import request_options_pb2 as _request_options_pb2
from reelray.proto.v1 import video_spec_pb2 as _video_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RenderState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RENDER_STATE_UNSPECIFIED: _ClassVar[RenderState]
    RENDER_STATE_QUEUED: _ClassVar[RenderState]
    RENDER_STATE_RUNNING: _ClassVar[RenderState]
    RENDER_STATE_DONE: _ClassVar[RenderState]
    RENDER_STATE_FAILED: _ClassVar[RenderState]
    RENDER_STATE_CANCELLED: _ClassVar[RenderState]
RENDER_STATE_UNSPECIFIED: RenderState
RENDER_STATE_QUEUED: RenderState
RENDER_STATE_RUNNING: RenderState
RENDER_STATE_DONE: RenderState
RENDER_STATE_FAILED: RenderState
RENDER_STATE_CANCELLED: RenderState

class SubmitRenderRequest(_message.Message):
    __slots__ = ("video", "media", "options", "webhook")
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    video: _video_spec_pb2.VideoSpec
    media: _video_spec_pb2.Media
    options: _request_options_pb2.RequestOptions
    webhook: str
    def __init__(self, video: _Optional[_Union[_video_spec_pb2.VideoSpec, _Mapping]] = ..., media: _Optional[_Union[_video_spec_pb2.Media, str]] = ..., options: _Optional[_Union[_request_options_pb2.RequestOptions, _Mapping]] = ..., webhook: _Optional[str] = ...) -> None: ...

class SubmitRenderResponse(_message.Message):
    __slots__ = ("render", "fresh")
    RENDER_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    render: Render
    fresh: bool
    def __init__(self, render: _Optional[_Union[Render, _Mapping]] = ..., fresh: bool = ...) -> None: ...

class GetRenderRequest(_message.Message):
    __slots__ = ("id", "tenant")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class ListRendersRequest(_message.Message):
    __slots__ = ("tenant", "state", "page_size", "page_token")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    state: RenderState
    page_size: int
    page_token: str
    def __init__(self, tenant: _Optional[str] = ..., state: _Optional[_Union[RenderState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRendersResponse(_message.Message):
    __slots__ = ("renders", "next_page_token")
    RENDERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    renders: _containers.RepeatedCompositeFieldContainer[Render]
    next_page_token: str
    def __init__(self, renders: _Optional[_Iterable[_Union[Render, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelRenderRequest(_message.Message):
    __slots__ = ("id", "tenant")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class WatchRenderRequest(_message.Message):
    __slots__ = ("id", "tenant", "after")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    after: int
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class DownloadRenderRequest(_message.Message):
    __slots__ = ("id", "tenant", "offset", "length", "follow")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    offset: int
    length: int
    follow: bool
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., follow: bool = ...) -> None: ...

class Render(_message.Message):
    __slots__ = ("id", "tenant", "state", "plan", "media", "priority", "created", "started", "ended", "attempts", "events", "bytes", "summary", "error", "webhook", "remixed_from", "deadline")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    REMIXED_FROM_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    state: RenderState
    plan: _video_spec_pb2.VideoPlan
    media: _video_spec_pb2.Media
    priority: int
    created: _timestamp_pb2.Timestamp
    started: _timestamp_pb2.Timestamp
    ended: _timestamp_pb2.Timestamp
    attempts: int
    events: int
    bytes: int
    summary: _video_spec_pb2.VideoSummary
    error: str
    webhook: Webhook
    remixed_from: str
    deadline: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., state: _Optional[_Union[RenderState, str]] = ..., plan: _Optional[_Union[_video_spec_pb2.VideoPlan, _Mapping]] = ..., media: _Optional[_Union[_video_spec_pb2.Media, str]] = ..., priority: _Optional[int] = ..., created: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., started: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., ended: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., attempts: _Optional[int] = ..., events: _Optional[int] = ..., bytes: _Optional[int] = ..., summary: _Optional[_Union[_video_spec_pb2.VideoSummary, _Mapping]] = ..., error: _Optional[str] = ..., webhook: _Optional[_Union[Webhook, _Mapping]] = ..., remixed_from: _Optional[str] = ..., deadline: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Webhook(_message.Message):
    __slots__ = ("url", "state", "tries", "next", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Webhook.State]
        WAITING: _ClassVar[Webhook.State]
        SENDING: _ClassVar[Webhook.State]
        DELIVERED: _ClassVar[Webhook.State]
        GIVEN_UP: _ClassVar[Webhook.State]
    STATE_UNSPECIFIED: Webhook.State
    WAITING: Webhook.State
    SENDING: Webhook.State
    DELIVERED: Webhook.State
    GIVEN_UP: Webhook.State
    URL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    url: str
    state: Webhook.State
    tries: int
    next: _timestamp_pb2.Timestamp
    error: str
    def __init__(self, url: _Optional[str] = ..., state: _Optional[_Union[Webhook.State, str]] = ..., tries: _Optional[int] = ..., next: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class WatchRenderEvent(_message.Message):
    __slots__ = ("number", "at", "state", "committed", "progress", "skipped_to", "queued")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_TO_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    number: int
    at: _timestamp_pb2.Timestamp
    state: RenderState
    committed: int
    progress: _video_spec_pb2.StageProgress
    skipped_to: Render
    queued: _video_spec_pb2.Queued
    def __init__(self, number: _Optional[int] = ..., at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[RenderState, str]] = ..., committed: _Optional[int] = ..., progress: _Optional[_Union[_video_spec_pb2.StageProgress, _Mapping]] = ..., skipped_to: _Optional[_Union[Render, _Mapping]] = ..., queued: _Optional[_Union[_video_spec_pb2.Queued, _Mapping]] = ...) -> None: ...

class RenderChunk(_message.Message):
    __slots__ = ("offset", "data", "total_bytes")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    total_bytes: int
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...
