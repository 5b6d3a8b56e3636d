"""Whatever comes over the wire, a caller gets a precise status, and the server goes on."""

import random

import grpc
import pytest

from reelray.proto.v1 import renders_pb2
from tests.support.render_calls import submission, video

CALLS = {
    "Submit": submission(video_spec=video(frames=9, seed=3), idempotency_key="k", priority=3, tenant="ann"),
    "Get": renders_pb2.GetRenderRequest(id="a" * 32, tenant="ann"),
    "List": renders_pb2.ListRendersRequest(tenant="ann", page_size=3, page_token="17", state=2),
    "Cancel": renders_pb2.CancelRenderRequest(id="a" * 32, tenant="ann"),
    "Watch": renders_pb2.WatchRenderRequest(id="a" * 32, tenant="ann", after=7),
    "Download": renders_pb2.DownloadRenderRequest(id="a" * 32, tenant="ann", offset=5, length=9),
}
EXPECTED = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "ALREADY_EXISTS", "OUT_OF_RANGE"}


def mutated(draw, data):
    """A message with some of its bytes changed, left out, repeated, or all of them by chance."""
    data = bytearray(data if draw.random() < 0.8 else draw.randbytes(draw.randrange(64)))
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(data) + 1)
        change = draw.randrange(3)
        if change == 0:
            data[at : at + 1] = draw.randbytes(1)
        elif change == 1:
            del data[at : at + draw.randrange(1, 4)]
        else:
            data[at:at] = data[at : at + draw.randrange(1, 9)]
    return bytes(data)


def status(call, data):
    """Code and text of a refusal; None where it was answered."""
    try:
        answer = call(data, timeout=10)
        list(answer) if hasattr(answer, "__next__") else answer
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return None


def call_of(channel, service, name, *, streams):
    return (channel.unary_stream if streams else channel.unary_unary)(f"/reelray.v1.{service}/{name}")


@pytest.mark.parametrize("name", CALLS)
def test_mutated_messages(shelf_address, name):
    draw = random.Random(name)
    with grpc.insecure_channel(shelf_address) as channel:
        call = call_of(channel, "Renders", name, streams=name in {"Watch", "Download"})
        found = {status(call, mutated(draw, CALLS[name].SerializeToString())) for _ in range(150)} - {None}
        assert {code for code, _ in found} <= EXPECTED
        assert not any(word in text for _, text in found for word in ("Traceback", "Error parsing", "DecodeError"))
        assert status(call_of(channel, "Renders", "List", streams=False), b"") is None


def test_no_message_at_all(shelf_address):
    calls = [("Renders", name) for name in CALLS] + [("Videos", "Generate"), ("Cluster", "Describe")]
    with grpc.insecure_channel(shelf_address) as channel:
        for service, name in calls:
            call = call_of(channel, service, name, streams=name in {"Watch", "Download", "Generate"})
            code, text = status(call, b"\xff\xff\xff")
            assert (code, text.startswith("the request is no message of this call")) == ("INVALID_ARGUMENT", True)
