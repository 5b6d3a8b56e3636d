"""What is told of a render's end, and the signature by which its reader knows who says so.

The headers are those of the Standard Webhooks specification: `webhook-id`, `webhook-timestamp` and `webhook-signature`,
an HMAC-SHA256 over the first two and the body.
"""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reelray.cluster.renders.growing_media import result_video
from reelray.cluster.store.job import Job, JobState
from reelray.proto.errors import InputError

PREFIX = "whsec_"
SHORTEST_KEY, LONGEST_KEY = 24, 64
KINDS = {JobState.DONE: "completed", JobState.FAILED: "failed", JobState.CANCELLED: "cancelled"}
LONGEST_ERROR = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookEvent:
    """A render's end in words; the same, byte by byte, each time that it is told.

    Args:
        id: Of the event.
        body: JSON.
    """

    id: str
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, job: Job) -> "WebhookEvent":
        """The event of a job that has ended."""
        assert job.state.ended, "nothing else is told"
        assert job.ended_ms is not None, "it has ended"
        video = result_video(job)
        ended = datetime.fromtimestamp(job.ended_ms / 1000, UTC)
        failed = {"code": job.state.value, "message": job.error[:LONGEST_ERROR]}
        told = {
            "id": f"evt_{job.ref.id}",
            "object": "event",
            "type": f"video.{KINDS[job.state]}",
            "created_at": job.ended_ms // 1000,
            "timestamp": ended.isoformat().replace("+00:00", "Z"),
            "data": {
                "id": job.ref.id,
                "tenant": job.ref.tenant,
                "bytes": None if video is None else video.size_bytes,
                "error": None if job.state is JobState.DONE else failed,
            },
        }
        return cls(id=f"evt_{job.ref.id}", body=json.dumps(told, separators=(",", ":")).encode())

    def headers(self, key: bytes, *, now_s: int) -> dict[str, str]:
        """Headers of one try.

        Args:
            key: Of the signature.
            now_s: Seconds since 1970.
        """
        signed = b".".join((self.id.encode(), str(now_s).encode(), self.body))
        signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return {
            "Content-Type": "application/json",
            "webhook-id": self.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": f"v1,{signature}",
        }


def read_key(secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        InputError: It is none; the message does not repeat it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise InputError(
            f"REELRAY_WEBHOOK_SECRET must be {PREFIX} and {SHORTEST_KEY} to {LONGEST_KEY} bytes in base64, such as "
            f'"{PREFIX}$(openssl rand -base64 32)"'
        )
    return key
