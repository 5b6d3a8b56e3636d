"""Under Ray, processes of the head node and the engine's leader are lost at half of a render that is followed."""

import signal
import threading

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, video_spec_pb2, videos_pb2, videos_pb2_grpc
from tests.support.commands import is_there
from tests.support.fault_house import Following, House, check_each_unit_once
from tests.support.gateway import connect
from tests.support.waiting import wait_until

CLIP = {"frames": 9, "size": (32, 32), "steps": 24, "seed": 5}
VICTIMS = {
    "control store killed": ("gcs_server", signal.SIGKILL),
    "leader killed": ("ray::EngineActor", signal.SIGKILL),
    "leader frozen": ("ray::EngineActor", signal.SIGSTOP),
}


class Live:
    """A video that its client waits for; without an end of its own."""

    def __init__(self, house):
        self.kinds, self.error = [], None
        self._thread = threading.Thread(target=self._take, args=(house.address,), daemon=True)
        self._thread.start()
        wait_until(lambda: "progress" in self.kinds)

    def _take(self, address):
        spec = video_spec_pb2.VideoSpec(prompt="x", frames=9, size={"width": 32, "height": 32}, steps=1000)
        with connect(address) as channel:
            try:
                for event in videos_pb2_grpc.VideosStub(channel).Generate(videos_pb2.GenerateRequest(video=spec)):
                    self.kinds.append(event.WhichOneof("event"))
            except grpc.RpcError as error:
                self.error = error

    def end(self):
        """How it ended: its code, and whether a retry is hinted at."""
        self._thread.join(30)
        assert self.error is not None
        details = rpc_status.from_call(self.error).details
        return self.error.code(), any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)


@pytest.fixture(scope="module")
def house(tiny_t2v, tmp_path_factory):
    with House(tmp_path_factory.mktemp("ray"), "--engine", "ray", "--model", tiny_t2v) as house:
        yield house


def is_ready(house):
    with connect(house.address) as channel:
        return cluster_pb2_grpc.ClusterStub(channel).Describe(cluster_pb2.DescribeRequest()).engines[0].ready


@pytest.fixture(scope="module")
def wanted(house):
    return Following(house, "tiny-t2v", **CLIP).finish()


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_server_stays_and_the_render_goes_on(house, wanted, victim):
    name, how = VICTIMS[victim]
    wait_until(lambda: is_ready(house))
    server = house.server()
    with house.gate(tiny_t2v=18):
        render = Following(house, "tiny-t2v", **CLIP).wait_at_gate()
        (found,) = house.processes(name)
        found.send_signal(how)
    assert render.finish() == wanted
    check_each_unit_once(render)
    tries = render.states.count("running")
    assert tries == 2 or (how is signal.SIGSTOP and tries == 3)  # begun once more before it is known to be frozen
    assert house.server() == server
    wait_until(lambda: not is_there(found))


def test_a_live_video_ends_with_a_hint_when_to_come_back(house):
    wait_until(lambda: is_ready(house))
    live, server = Live(house), house.server()
    house.processes("raylet/raylet")[0].kill()
    assert live.end() == (grpc.StatusCode.UNAVAILABLE, True)
    wait_until(lambda: is_ready(house))
    assert house.server() == server


@pytest.mark.slow
def test_a_ray_that_engines_share_is_started_again_with_the_server(tiny_t2v, wanted, tmp_path):
    (tmp_path / "serve.yaml").write_text(f"models: [{{model: {tiny_t2v}, count: 2, engine: ray}}]")
    with House(tmp_path, "--config", "serve.yaml") as house:
        live = Live(house)
        with house.gate(tiny_t2v=18):
            render = Following(house, "tiny-t2v", **CLIP).wait_at_gate()
            server, raylet = house.server(), *house.processes("raylet/raylet")
            assert len(house.processes("ray::EngineActor")) == 2
            assert len(house.who_does("denoise")) == 2  # the two have one engine each
            raylet.kill()
        assert live.end() == (grpc.StatusCode.UNAVAILABLE, True)
        assert render.finish() == wanted
        check_each_unit_once(render)
        assert not is_there(server)
        assert house.times("starting it again") == 1
