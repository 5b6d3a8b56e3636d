from reelray.proto.v1 import converse_pb2 as _converse_pb2
from reelray.proto.v1 import request_options_pb2 as _request_options_pb2
from reelray.proto.v1 import video_spec_pb2 as _video_spec_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateRequest(_message.Message):
    __slots__ = ("video", "media", "options")
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    video: _video_spec_pb2.VideoSpec
    media: _video_spec_pb2.Media
    options: _request_options_pb2.RequestOptions
    def __init__(self, video: _Optional[_Union[_video_spec_pb2.VideoSpec, _Mapping]] = ..., media: _Optional[_Union[_video_spec_pb2.Media, str]] = ..., options: _Optional[_Union[_request_options_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ("accepted", "progress", "media", "done", "queued")
    class Accepted(_message.Message):
        __slots__ = ("request_id", "plan")
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        PLAN_FIELD_NUMBER: _ClassVar[int]
        request_id: str
        plan: _video_spec_pb2.VideoPlan
        def __init__(self, request_id: _Optional[str] = ..., plan: _Optional[_Union[_video_spec_pb2.VideoPlan, _Mapping]] = ...) -> None: ...
    class MediaChunk(_message.Message):
        __slots__ = ("offset", "data")
        OFFSET_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        offset: int
        data: bytes
        def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    accepted: GenerateEvent.Accepted
    progress: _video_spec_pb2.StageProgress
    media: GenerateEvent.MediaChunk
    done: _video_spec_pb2.VideoSummary
    queued: _video_spec_pb2.Queued
    def __init__(self, accepted: _Optional[_Union[GenerateEvent.Accepted, _Mapping]] = ..., progress: _Optional[_Union[_video_spec_pb2.StageProgress, _Mapping]] = ..., media: _Optional[_Union[GenerateEvent.MediaChunk, _Mapping]] = ..., done: _Optional[_Union[_video_spec_pb2.VideoSummary, _Mapping]] = ..., queued: _Optional[_Union[_video_spec_pb2.Queued, _Mapping]] = ...) -> None: ...
