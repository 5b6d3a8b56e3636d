"""One error tree. Every error has a stable code, says whether trying again can help, and carries ids.

ReelrayError
├── InputError            what the caller asked for cannot be done            exit 2
│   ├── UnknownModelError     no preset and no folder of that name
│   ├── SizeError             width, height or frame count does not fit the model
│   ├── PromptError           empty or too long
│   ├── EndedError            a request that is not here, or has ended
│   ├── LateError             a prompt for what has begun, or for after the end
│   ├── SnapshotError         a snapshot is damaged, or of another model or version
│   ├── UnknownJobError       no job of this tenant has this id, or it is past its time
│   ├── UnknownSessionError   no session of this tenant has this id, or it was not taken up in time
│   ├── ConflictError         the key of an earlier job, with another wish
│   ├── GoneError             a job's files were kept as long as was asked
│   ├── UnknownAssetError     no asset of this tenant has this id, or it has expired
│   ├── UploadError           cut off, longer than announced, or other bytes
│   ├── MediaError            a file is none of the kinds that are taken, or damaged
│   ├── TooLargeError         more bytes than are taken
│   ├── ForbiddenUrlError     an address that this server was not told to trust
│   ├── FetchError            what lies at an address cannot be had
│   ├── RangeError            a place behind the end of a file
│   ├── NeverError            what was asked for will not be: the job ended without it
│   └── UnsupportedError      a well-formed wish that this model or build does not serve
├── CheckpointError       the folder of weights is not usable                 exit 3
│   ├── ManifestError         manifest.yaml: file, field, allowed values
│   └── WeightsError          missing shard, truncated file, wrong key or shape
├── OutputError           the result cannot be written                        exit 4
├── ArtifactError         files of jobs cannot be read or written now         exit 4   retryable
├── ResourceError         memory or device ran out                            exit 5   retryable
│   ├── QuotaError            a tenant's quota or rate is used up for now
│   └── DeadlineError         it cannot be done by then
├── EngineError           a rank or the engine was lost                       exit 6   retryable
│   └── RankLostError         a rank of a gang died or hangs; the gang can be rebuilt
├── CoordinatorError      nobody decides now who gets which GPUs               exit 6   retryable
├── StoreError            the store does not answer                           exit 7   retryable
│   └── StoreStartError       the embedded store cannot be started; not retryable
├── FencedError           somebody else holds it now: stop at once            exit 8
│   ├── LeaseLostError        of a job: it was given to another, cancelled, or has ended
│   └── EpochError            of a session: it was moved by another
└── CancelledError        somebody stopped the request                        exit 130
"""

from collections.abc import Mapping

RETRY_MS = 1000
"""When to try again after an error that may pass and does not say when."""


class ReelrayError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: One line: what was wrong, and what would be right.
        ids: Ids that help to find the request or engine, such as ``{"request": "r-1"}``.
    """

    code: str = "internal"
    retryable: bool = False
    exit_code: int = 1

    def __init__(self, message: str, *, ids: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.ids: dict[str, str] = dict(ids or {})

    @property
    def retry_after_ms(self) -> int | None:
        """When trying again can help, in milliseconds from now: `ids` may say it. None where it cannot."""
        if not self.retryable:
            return None
        said = self.ids.get("retry_after_ms", "")
        return int(said) if said.isdecimal() else RETRY_MS

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ids when the error crosses a process border."""
        return (_rebuild, (type(self), self.message, self.ids))


def _rebuild(kind: type[ReelrayError], message: str, ids: dict[str, str]) -> ReelrayError:
    return kind(message, ids=ids)


class InputError(ReelrayError):
    """What the caller asked for cannot be done."""

    code = "invalid_input"
    exit_code = 2


class UnknownModelError(InputError):
    """No preset and no checkpoint folder has this name."""

    code = "unknown_model"


class SizeError(InputError):
    """Width, height or frame count does not fit the model."""

    code = "invalid_size"


class PromptError(InputError):
    """The prompt is empty or too long."""

    code = "invalid_prompt"


class UnsupportedError(InputError):
    """A well-formed wish that this model or this build does not serve."""

    code = "unsupported"


class EndedError(InputError):
    """The request that was spoken to is not here, or has ended."""

    code = "request_ended"


class LateError(InputError):
    """A prompt is to hold where the video is made already, or does not go on to.

    Where another time would do, `ids` has the first latent frame of it as `latent_frame`.
    """

    code = "too_late"


class SnapshotError(InputError):
    """A snapshot cannot be taken up: it is damaged, or of another model or version."""

    code = "bad_snapshot"


class UnknownJobError(InputError):
    """No job of this tenant has this id, or it has ended and was kept as long as was asked."""

    code = "unknown_job"


class UnknownSessionError(InputError):
    """No session of this tenant has this id here: it has ended, or its client was away for too long."""

    code = "unknown_session"


class ConflictError(InputError):
    """The key belongs to an earlier job with another wish; `ids` has that job as `job`."""

    code = "conflict"


class GoneError(InputError):
    """A file of a job is not there any more; it was kept as long as was asked."""

    code = "gone"


class UnknownAssetError(InputError):
    """No asset of this tenant has this id, or it has expired."""

    code = "unknown_asset"


class UploadError(InputError):
    """What came is not what was announced: cut off, longer, or of another digest."""

    code = "bad_upload"


class MediaError(InputError):
    """A file is none of the kinds that are taken, not what was said, or damaged."""

    code = "wrong_media"


class TooLargeError(InputError):
    """More bytes than are taken."""

    code = "too_large"


class ForbiddenUrlError(InputError):
    """An address that this server was not told to trust."""

    code = "url_not_allowed"


class FetchError(InputError):
    """What lies at an address cannot be had: no answer in time, not found, or a wrong way to say it."""

    code = "fetch_failed"


class RangeError(InputError):
    """A place behind the end of a file that is complete."""

    code = "out_of_range"


class NeverError(InputError):
    """The rest of a file was asked for, and its job failed or was cancelled before it was made."""

    code = "never_made"


class CheckpointError(ReelrayError):
    """The folder of weights is not usable."""

    code = "bad_checkpoint"
    exit_code = 3


class ManifestError(CheckpointError):
    """`manifest.yaml` is not valid; the message names file, field and allowed values."""

    code = "bad_manifest"


class WeightsError(CheckpointError):
    """A weight file is missing, truncated, or holds a wrong key or shape."""

    code = "bad_weights"


class OutputError(ReelrayError):
    """The result cannot be written."""

    code = "output_failed"
    exit_code = 4


class ArtifactError(ReelrayError):
    """The place of jobs' files is full, or does not answer."""

    code = "artifact_failed"
    retryable = True
    exit_code = 4


class ResourceError(ReelrayError):
    """Memory or a device ran out."""

    code = "out_of_resources"
    retryable = True
    exit_code = 5


class QuotaError(ResourceError):
    """A tenant has used up its quota or its rate.

    `ids` has the quota as `quota` and, where time alone helps, when to try again as `retry_after_ms`.
    """

    code = "quota_exceeded"


class DeadlineError(ResourceError):
    """A deadline cannot be kept; `ids` has when it would be done as `predicted_finish` (ISO 8601)."""

    code = "deadline_unreachable"


class EngineError(ReelrayError):
    """A rank or the whole engine was lost."""

    code = "engine_lost"
    retryable = True
    exit_code = 6


class RankLostError(EngineError):
    """A rank of a gang died, or has stood still for too long; its gang can be rebuilt."""

    code = "rank_lost"


class CoordinatorError(ReelrayError):
    """No coordinator answers; what runs goes on."""

    code = "coordinator_lost"
    retryable = True
    exit_code = 6


class StoreError(ReelrayError):
    """The store of jobs, leases and sessions does not answer, or has no right to write."""

    code = "store_lost"
    retryable = True
    exit_code = 7


class StoreStartError(StoreError):
    """The embedded store cannot be started; the message says what would help."""

    code = "store_not_started"
    retryable = False


class FencedError(ReelrayError):
    """What was asked is only for the holder, and another holds it now; who gets this stops at once."""

    code = "fenced"
    exit_code = 8


class LeaseLostError(FencedError):
    """The lease of a job, or of leadership, is over: given to another, taken back, or the job has ended."""

    code = "lease_lost"


class EpochError(FencedError):
    """A session was moved by another since it was looked up; `ids` has its epoch now as `epoch`."""

    code = "stale_epoch"


class CancelledError(ReelrayError):
    """Somebody stopped the request."""

    code = "cancelled"
    exit_code = 130
