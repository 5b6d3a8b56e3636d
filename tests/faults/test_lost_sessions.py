"""Server, coordinator and engine are killed while somebody talks to a stream and somebody else waits for a place."""

import threading

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import reelray
from reelray.proto.errors import EngineError, ReelrayError
from tests.support.conversing import Talk, start_of
from tests.support.fault_house import House
from tests.support.gateway import connect
from tests.support.tiny_stream import write_tiny_stream
from tests.support.waiting import wait_until

WISH = {"frames": 125, "size": (48, 32), "seed": 3}


@pytest.fixture(scope="module")
def stream(tiny_t2v, tmp_path_factory):
    return write_tiny_stream(tiny_t2v, tmp_path_factory.mktemp("model") / "tiny-stream")


@pytest.fixture(scope="module")
def house(stream, tmp_path_factory):
    with House(tmp_path_factory.mktemp("sessions"), "--engine", "local", "--model", stream) as house:
        yield house


def watch_all(house):
    with reelray.Client(house.address) as client, client.converse("a red circle", **WISH) as session:
        frames = np.concatenate(list(session))
        house.to_charge += len(frames)
        return frames


@pytest.fixture(scope="module")
def wanted(house):
    return watch_all(house)


def begins_again(house, wanted):
    """Whoever was told to come back can have the same stream."""

    found, errors = [], []

    def look():
        try:
            found.append(watch_all(house))
        except ReelrayError as error:
            errors.append(error)
        return found

    wait_until(look)
    assert np.array_equal(found[0], wanted)
    assert all(error.retryable for error in errors), errors


def test_a_stream_whose_server_was_killed_ends_with_an_error_that_says_try_again(house, wanted):
    times = house.times("starting it again")
    with reelray.Client(house.address) as client, client.converse("a red circle", **WISH) as session:
        begin = next(session)
        with house.gate(tiny_stream=0):
            house.server().kill()
            house.to_charge += WISH["frames"]  # nobody is there to give it back
            with pytest.raises(EngineError, match="the server was lost") as raised:
                list(session)
        assert raised.value.retryable
        assert np.array_equal(begin, wanted[: len(begin)])
    house.wait_for("starting it again", times + 1)
    begins_again(house, wanted)


def test_a_call_over_grpc_hears_that_its_server_is_gone(house, wanted):
    times = house.times("starting it again")
    with connect(house.address) as channel:
        talk = Talk(channel, start_of(frames=125))
        talk.until("media")
        with house.gate(tiny_stream=0):
            house.server().kill()
            house.to_charge += 125
            with pytest.raises(grpc.RpcError) as raised:
                talk.rest()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    house.wait_for("starting it again", times + 1)
    begins_again(house, wanted)


def test_a_killed_coordinator_disturbs_nobody(house, wanted):
    with house.gate(tiny_stream=8), connect(house.address) as channel:
        first = Talk(channel, start_of(frames=125))
        first.until("accepted")
        frames = []
        waiting = threading.Thread(target=lambda: frames.append(watch_all(house)))
        waiting.start()
        other = Talk(channel, start_of(frames=125))
        other.until("queued")
        (coordinator,) = house.processes("reelray.cluster.coordinator")
        coordinator.kill()
        wait_until(lambda: [p for p in house.processes("reelray.cluster.coordinator") if p != coordinator])
        other.call.cancel()
        house.open_gates()
        assert len(first.rest().frames) == 125
        house.to_charge += 125  # and nothing for who left while it waited
        waiting.join(90)
    assert np.array_equal(frames[0], wanted)


@pytest.mark.slow
def test_a_killed_engine_ends_its_stream_with_a_hint_when_to_come_back(stream, tmp_path):
    with House(tmp_path, "--engine", "ray", "--model", stream) as house:
        server, wanted = house.server(), watch_all(house)
        with connect(house.address) as channel:
            talk = Talk(channel, start_of(frames=125, keep_s=30))
            talk.until("media")
            with house.gate(tiny_stream=0):
                house.processes("ray::EngineActor")[0].kill()
                with pytest.raises(grpc.RpcError) as raised:
                    talk.rest(receives=True)
                house.to_charge += len(talk.frames)  # the rest is given back
        details = rpc_status.from_call(raised.value).details
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)
        begins_again(house, wanted)
        assert house.server() == server
