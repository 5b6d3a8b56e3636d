from reelray.proto.v1 import request_options_pb2 as _request_options_pb2
from reelray.proto.v1 import video_spec_pb2 as _video_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConverseRequest(_message.Message):
    __slots__ = ("start", "go_on", "command", "received", "leave")
    class Start(_message.Message):
        __slots__ = ("video", "media", "options", "pace_fps", "settled", "keep_s")
        VIDEO_FIELD_NUMBER: _ClassVar[int]
        MEDIA_FIELD_NUMBER: _ClassVar[int]
        OPTIONS_FIELD_NUMBER: _ClassVar[int]
        PACE_FPS_FIELD_NUMBER: _ClassVar[int]
        SETTLED_FIELD_NUMBER: _ClassVar[int]
        KEEP_S_FIELD_NUMBER: _ClassVar[int]
        video: _video_spec_pb2.VideoSpec
        media: _video_spec_pb2.Media
        options: _request_options_pb2.RequestOptions
        pace_fps: float
        settled: bool
        keep_s: int
        def __init__(self, video: _Optional[_Union[_video_spec_pb2.VideoSpec, _Mapping]] = ..., media: _Optional[_Union[_video_spec_pb2.Media, str]] = ..., options: _Optional[_Union[_request_options_pb2.RequestOptions, _Mapping]] = ..., pace_fps: _Optional[float] = ..., settled: bool = ..., keep_s: _Optional[int] = ...) -> None: ...
    class Continue(_message.Message):
        __slots__ = ("session_id", "after", "tenant")
        SESSION_ID_FIELD_NUMBER: _ClassVar[int]
        AFTER_FIELD_NUMBER: _ClassVar[int]
        TENANT_FIELD_NUMBER: _ClassVar[int]
        session_id: str
        after: int
        tenant: str
        def __init__(self, session_id: _Optional[str] = ..., after: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...
    class Command(_message.Message):
        __slots__ = ("number", "say", "extend", "pause", "resume", "seek", "fork", "pace", "stop")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        SAY_FIELD_NUMBER: _ClassVar[int]
        EXTEND_FIELD_NUMBER: _ClassVar[int]
        PAUSE_FIELD_NUMBER: _ClassVar[int]
        RESUME_FIELD_NUMBER: _ClassVar[int]
        SEEK_FIELD_NUMBER: _ClassVar[int]
        FORK_FIELD_NUMBER: _ClassVar[int]
        PACE_FIELD_NUMBER: _ClassVar[int]
        STOP_FIELD_NUMBER: _ClassVar[int]
        number: int
        say: ConverseRequest.Say
        extend: ConverseRequest.Extend
        pause: ConverseRequest.Pause
        resume: ConverseRequest.Resume
        seek: ConverseRequest.Seek
        fork: ConverseRequest.Fork
        pace: ConverseRequest.Pace
        stop: ConverseRequest.Stop
        def __init__(self, number: _Optional[int] = ..., say: _Optional[_Union[ConverseRequest.Say, _Mapping]] = ..., extend: _Optional[_Union[ConverseRequest.Extend, _Mapping]] = ..., pause: _Optional[_Union[ConverseRequest.Pause, _Mapping]] = ..., resume: _Optional[_Union[ConverseRequest.Resume, _Mapping]] = ..., seek: _Optional[_Union[ConverseRequest.Seek, _Mapping]] = ..., fork: _Optional[_Union[ConverseRequest.Fork, _Mapping]] = ..., pace: _Optional[_Union[ConverseRequest.Pace, _Mapping]] = ..., stop: _Optional[_Union[ConverseRequest.Stop, _Mapping]] = ...) -> None: ...
    class Say(_message.Message):
        __slots__ = ("prompt", "seconds", "cut")
        PROMPT_FIELD_NUMBER: _ClassVar[int]
        SECONDS_FIELD_NUMBER: _ClassVar[int]
        CUT_FIELD_NUMBER: _ClassVar[int]
        prompt: str
        seconds: float
        cut: bool
        def __init__(self, prompt: _Optional[str] = ..., seconds: _Optional[float] = ..., cut: bool = ...) -> None: ...
    class Extend(_message.Message):
        __slots__ = ("seconds",)
        SECONDS_FIELD_NUMBER: _ClassVar[int]
        seconds: float
        def __init__(self, seconds: _Optional[float] = ...) -> None: ...
    class Pause(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Resume(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Seek(_message.Message):
        __slots__ = ("seconds",)
        SECONDS_FIELD_NUMBER: _ClassVar[int]
        seconds: float
        def __init__(self, seconds: _Optional[float] = ...) -> None: ...
    class Fork(_message.Message):
        __slots__ = ("prompt",)
        PROMPT_FIELD_NUMBER: _ClassVar[int]
        prompt: str
        def __init__(self, prompt: _Optional[str] = ...) -> None: ...
    class Pace(_message.Message):
        __slots__ = ("fps",)
        FPS_FIELD_NUMBER: _ClassVar[int]
        fps: float
        def __init__(self, fps: _Optional[float] = ...) -> None: ...
    class Stop(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Leave(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    START_FIELD_NUMBER: _ClassVar[int]
    GO_ON_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    start: ConverseRequest.Start
    go_on: ConverseRequest.Continue
    command: ConverseRequest.Command
    received: int
    leave: ConverseRequest.Leave
    def __init__(self, start: _Optional[_Union[ConverseRequest.Start, _Mapping]] = ..., go_on: _Optional[_Union[ConverseRequest.Continue, _Mapping]] = ..., command: _Optional[_Union[ConverseRequest.Command, _Mapping]] = ..., received: _Optional[int] = ..., leave: _Optional[_Union[ConverseRequest.Leave, _Mapping]] = ...) -> None: ...

class ConverseEvent(_message.Message):
    __slots__ = ("number", "accepted", "progress", "media", "answer", "done", "queued")
    class Accepted(_message.Message):
        __slots__ = ("session_id", "request_id", "plan", "first_frame", "commands", "paused")
        SESSION_ID_FIELD_NUMBER: _ClassVar[int]
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        PLAN_FIELD_NUMBER: _ClassVar[int]
        FIRST_FRAME_FIELD_NUMBER: _ClassVar[int]
        COMMANDS_FIELD_NUMBER: _ClassVar[int]
        PAUSED_FIELD_NUMBER: _ClassVar[int]
        session_id: str
        request_id: str
        plan: _video_spec_pb2.VideoPlan
        first_frame: int
        commands: int
        paused: bool
        def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[str] = ..., plan: _Optional[_Union[_video_spec_pb2.VideoPlan, _Mapping]] = ..., first_frame: _Optional[int] = ..., commands: _Optional[int] = ..., paused: bool = ...) -> None: ...
    class MediaChunk(_message.Message):
        __slots__ = ("offset", "data", "frame")
        OFFSET_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        FRAME_FIELD_NUMBER: _ClassVar[int]
        offset: int
        data: bytes
        frame: int
        def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., frame: _Optional[int] = ...) -> None: ...
    class Answer(_message.Message):
        __slots__ = ("number", "frame", "frames", "paused", "fork", "refusal")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        FRAME_FIELD_NUMBER: _ClassVar[int]
        FRAMES_FIELD_NUMBER: _ClassVar[int]
        PAUSED_FIELD_NUMBER: _ClassVar[int]
        FORK_FIELD_NUMBER: _ClassVar[int]
        REFUSAL_FIELD_NUMBER: _ClassVar[int]
        number: int
        frame: int
        frames: int
        paused: bool
        fork: str
        refusal: ConverseEvent.Refusal
        def __init__(self, number: _Optional[int] = ..., frame: _Optional[int] = ..., frames: _Optional[int] = ..., paused: bool = ..., fork: _Optional[str] = ..., refusal: _Optional[_Union[ConverseEvent.Refusal, _Mapping]] = ...) -> None: ...
    class Refusal(_message.Message):
        __slots__ = ("reason", "message", "metadata", "retry_after_ms")
        class MetadataEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        REASON_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        METADATA_FIELD_NUMBER: _ClassVar[int]
        RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
        reason: str
        message: str
        metadata: _containers.ScalarMap[str, str]
        retry_after_ms: int
        def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...
    class Done(_message.Message):
        __slots__ = ("summary", "plan")
        SUMMARY_FIELD_NUMBER: _ClassVar[int]
        PLAN_FIELD_NUMBER: _ClassVar[int]
        summary: _video_spec_pb2.VideoSummary
        plan: _video_spec_pb2.VideoPlan
        def __init__(self, summary: _Optional[_Union[_video_spec_pb2.VideoSummary, _Mapping]] = ..., plan: _Optional[_Union[_video_spec_pb2.VideoPlan, _Mapping]] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    number: int
    accepted: ConverseEvent.Accepted
    progress: _video_spec_pb2.StageProgress
    media: ConverseEvent.MediaChunk
    answer: ConverseEvent.Answer
    done: ConverseEvent.Done
    queued: _video_spec_pb2.Queued
    def __init__(self, number: _Optional[int] = ..., accepted: _Optional[_Union[ConverseEvent.Accepted, _Mapping]] = ..., progress: _Optional[_Union[_video_spec_pb2.StageProgress, _Mapping]] = ..., media: _Optional[_Union[ConverseEvent.MediaChunk, _Mapping]] = ..., answer: _Optional[_Union[ConverseEvent.Answer, _Mapping]] = ..., done: _Optional[_Union[ConverseEvent.Done, _Mapping]] = ..., queued: _Optional[_Union[_video_spec_pb2.Queued, _Mapping]] = ...) -> None: ...
