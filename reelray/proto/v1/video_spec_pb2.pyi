from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decoder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODER_UNSPECIFIED: _ClassVar[Decoder]
    DECODER_FULL: _ClassVar[Decoder]
    DECODER_PREVIEW: _ClassVar[Decoder]

class Media(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEDIA_UNSPECIFIED: _ClassVar[Media]
    MEDIA_MP4: _ClassVar[Media]
    MEDIA_RGB24: _ClassVar[Media]
DECODER_UNSPECIFIED: Decoder
DECODER_FULL: Decoder
DECODER_PREVIEW: Decoder
MEDIA_UNSPECIFIED: Media
MEDIA_MP4: Media
MEDIA_RGB24: Media

class VideoSpec(_message.Message):
    __slots__ = ("model", "prompt", "negative_prompt", "frames", "seconds", "size", "seed", "steps", "guidance", "fps", "changes", "decoder", "conditions", "sparsity")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    negative_prompt: str
    frames: int
    seconds: float
    size: Size
    seed: int
    steps: int
    guidance: float
    fps: float
    changes: _containers.RepeatedCompositeFieldContainer[PromptChange]
    decoder: Decoder
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    sparsity: str
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., frames: _Optional[int] = ..., seconds: _Optional[float] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., seed: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., fps: _Optional[float] = ..., changes: _Optional[_Iterable[_Union[PromptChange, _Mapping]]] = ..., decoder: _Optional[_Union[Decoder, str]] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., sparsity: _Optional[str] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class PromptChange(_message.Message):
    __slots__ = ("seconds", "prompt", "cut")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    prompt: str
    cut: bool
    def __init__(self, seconds: _Optional[float] = ..., prompt: _Optional[str] = ..., cut: bool = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("kind", "inline", "asset_id", "url")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Condition.Kind]
        FIRST_FRAME: _ClassVar[Condition.Kind]
        LAST_FRAME: _ClassVar[Condition.Kind]
        REFERENCE_IMAGE: _ClassVar[Condition.Kind]
        VIDEO: _ClassVar[Condition.Kind]
        MASK: _ClassVar[Condition.Kind]
        AUDIO: _ClassVar[Condition.Kind]
        CONTROL: _ClassVar[Condition.Kind]
    KIND_UNSPECIFIED: Condition.Kind
    FIRST_FRAME: Condition.Kind
    LAST_FRAME: Condition.Kind
    REFERENCE_IMAGE: Condition.Kind
    VIDEO: Condition.Kind
    MASK: Condition.Kind
    AUDIO: Condition.Kind
    CONTROL: Condition.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ASSET_ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    kind: Condition.Kind
    inline: bytes
    asset_id: str
    url: str
    def __init__(self, kind: _Optional[_Union[Condition.Kind, str]] = ..., inline: _Optional[bytes] = ..., asset_id: _Optional[str] = ..., url: _Optional[str] = ...) -> None: ...

class VideoPlan(_message.Message):
    __slots__ = ("model", "model_digest", "prompt", "negative_prompt", "size", "frames", "fps", "seed", "steps", "guidance", "later_prompts", "decoder", "sparsity")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    LATER_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_digest: str
    prompt: str
    negative_prompt: str
    size: Size
    frames: int
    fps: Rational
    seed: int
    steps: int
    guidance: float
    later_prompts: _containers.RepeatedCompositeFieldContainer[LaterPrompt]
    decoder: Decoder
    sparsity: str
    def __init__(self, model: _Optional[str] = ..., model_digest: _Optional[str] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., frames: _Optional[int] = ..., fps: _Optional[_Union[Rational, _Mapping]] = ..., seed: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., later_prompts: _Optional[_Iterable[_Union[LaterPrompt, _Mapping]]] = ..., decoder: _Optional[_Union[Decoder, str]] = ..., sparsity: _Optional[str] = ...) -> None: ...

class Rational(_message.Message):
    __slots__ = ("numerator", "denominator")
    NUMERATOR_FIELD_NUMBER: _ClassVar[int]
    DENOMINATOR_FIELD_NUMBER: _ClassVar[int]
    numerator: int
    denominator: int
    def __init__(self, numerator: _Optional[int] = ..., denominator: _Optional[int] = ...) -> None: ...

class LaterPrompt(_message.Message):
    __slots__ = ("latent_frame", "prompt", "cut")
    LATENT_FRAME_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    latent_frame: int
    prompt: str
    cut: bool
    def __init__(self, latent_frame: _Optional[int] = ..., prompt: _Optional[str] = ..., cut: bool = ...) -> None: ...

class Queued(_message.Message):
    __slots__ = ("position", "predicted_start")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_START_FIELD_NUMBER: _ClassVar[int]
    position: int
    predicted_start: _timestamp_pb2.Timestamp
    def __init__(self, position: _Optional[int] = ..., predicted_start: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StageProgress(_message.Message):
    __slots__ = ("stage", "done", "total")
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STAGE_UNSPECIFIED: _ClassVar[StageProgress.Stage]
        TEXT: _ClassVar[StageProgress.Stage]
        DENOISE: _ClassVar[StageProgress.Stage]
        REMEMBER: _ClassVar[StageProgress.Stage]
        DECODE: _ClassVar[StageProgress.Stage]
        REGROUP: _ClassVar[StageProgress.Stage]
        LOAD: _ClassVar[StageProgress.Stage]
    STAGE_UNSPECIFIED: StageProgress.Stage
    TEXT: StageProgress.Stage
    DENOISE: StageProgress.Stage
    REMEMBER: StageProgress.Stage
    DECODE: StageProgress.Stage
    REGROUP: StageProgress.Stage
    LOAD: StageProgress.Stage
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    stage: StageProgress.Stage
    done: int
    total: int
    def __init__(self, stage: _Optional[_Union[StageProgress.Stage, str]] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class VideoSummary(_message.Message):
    __slots__ = ("frames", "forwards", "device", "dtype", "layout", "ranks", "stage_seconds", "peak_bytes", "decode_ranks", "weights", "encoder", "sparsity")
    class StageSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FORWARDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    STAGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODE_RANKS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    frames: int
    forwards: int
    device: str
    dtype: str
    layout: str
    ranks: int
    stage_seconds: _containers.ScalarMap[str, float]
    peak_bytes: int
    decode_ranks: int
    weights: str
    encoder: str
    sparsity: SparsityUse
    def __init__(self, frames: _Optional[int] = ..., forwards: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., layout: _Optional[str] = ..., ranks: _Optional[int] = ..., stage_seconds: _Optional[_Mapping[str, float]] = ..., peak_bytes: _Optional[int] = ..., decode_ranks: _Optional[int] = ..., weights: _Optional[str] = ..., encoder: _Optional[str] = ..., sparsity: _Optional[_Union[SparsityUse, _Mapping]] = ...) -> None: ...

class SparsityUse(_message.Message):
    __slots__ = ("calls", "dense", "density", "refusal")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    calls: int
    dense: int
    density: float
    refusal: str
    def __init__(self, calls: _Optional[int] = ..., dense: _Optional[int] = ..., density: _Optional[float] = ..., refusal: _Optional[str] = ...) -> None: ...
