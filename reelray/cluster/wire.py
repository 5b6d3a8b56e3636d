"""What both ends of the wire have to agree on."""

from reelray.proto.errors import InputError
from reelray.proto.events import Stage
from reelray.proto.v1 import video_spec_pb2 as wire

LARGEST_MESSAGE = 2 * 2**20
LARGEST_PICTURE = 1_500_000
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # a minute else, whatever the other one says
    ("grpc.http2.max_pings_without_data", 0),
)
"""A peer that says nothing for so long is asked, and given up if it does not answer."""
TO_WIRE = {
    Stage.LOAD: wire.StageProgress.LOAD,
    Stage.TEXT: wire.StageProgress.TEXT,
    Stage.DENOISE: wire.StageProgress.DENOISE,
    Stage.REMEMBER: wire.StageProgress.REMEMBER,
    Stage.DECODE: wire.StageProgress.DECODE,
    Stage.REGROUP: wire.StageProgress.REGROUP,
}
FROM_WIRE = {sent: stage for stage, sent in TO_WIRE.items()}
STAGES = {stage.value: sent for stage, sent in TO_WIRE.items()}


def check_token(token: str) -> None:
    """Refuse what cannot be said over the wire.

    Raises:
        InputError: It holds blanks, line ends or other than ASCII.
    """
    if not all("!" <= character <= "~" for character in token):
        raise InputError("the token holds blanks, line ends or letters beyond ASCII; take others")
