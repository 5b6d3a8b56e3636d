"""Who may come in, and what a server says of itself."""

import subprocess

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import reelray
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import GatewayServer, Guard
from reelray.cluster.gateway.serving import ServeOptions, is_loopback, make_guard
from reelray.proto.errors import InputError, ResourceError
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, video_spec_pb2, videos_pb2, videos_pb2_grpc
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve

TOKEN = "a-token-of-length"


def describe(channel, **call):
    return cluster_pb2_grpc.ClusterStub(channel).Describe(cluster_pb2.DescribeRequest(), timeout=10, **call)


def test_describe_tells_models_and_how_busy_they_are():
    with serve(FakeEngine(frame_delay_s=0.2), FakeEngine()) as address, connect(address) as channel:
        call = videos_pb2_grpc.VideosStub(channel).Generate(
            videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x"))
        )
        next(call)
        told = describe(channel)
        assert told.version == reelray.__version__
        assert [(engine.model, engine.model_digest, engine.requests) for engine in told.engines] == [
            *(("fake", "0123abcd", 1), ("fake-1", "0123abcd", 0))
        ]
        list(call)
        assert [engine.requests for engine in describe(channel).engines] == [0, 0]


def test_health_and_reflection():
    with serve(FakeEngine()) as address, connect(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "reelray.v1.Videos", "reelray.v1.Cluster"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert {"reelray.v1.Videos", "reelray.v1.Cluster", "grpc.health.v1.Health"} <= set(services)


@pytest.mark.parametrize(
    ("said", "comes_in"),
    [(None, False), ("Bearer wrong", False), (TOKEN, False), (f"Bearer {TOKEN}", True)],
)
def test_a_token_is_wanted_for_everything_but_health(said, comes_in):
    metadata = () if said is None else (("authorization", said),)
    with serve(FakeEngine(), guard=Guard(callers=Callers({TOKEN: "default"}))) as address, connect(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
        request = videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x", frames=5))
        calls = [
            lambda: describe(channel, metadata=metadata),
            lambda: list(videos_pb2_grpc.VideosStub(channel).Generate(request, timeout=10, metadata=metadata)),
        ]
        for call in calls:
            if comes_in:
                assert call()
                continue
            with pytest.raises(grpc.RpcError) as raised:
                call()
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "--token" in raised.value.details()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of its own for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    order = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*order.split(" "), *names], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls(certificate):
    file, key = certificate
    guard = make_guard(ServeOptions(address="0.0.0.0:0", certificate=file, key=key))
    assert guard.credentials is not None
    with serve(FakeEngine(), guard=guard) as address:
        credentials = grpc.ssl_channel_credentials(file.read_bytes())
        with grpc.secure_channel(address, credentials) as channel:
            assert describe(channel).engines
        with connect(address) as channel, pytest.raises(grpc.RpcError):
            describe(channel)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"address": "0.0.0.0:50051"}, "can be reached from other machines"),
        ({"address": "[::]:50051"}, "can be reached from other machines"),
        ({"address": "example.org:50051"}, "can be reached from other machines"),
        ({"address": "127.0.0.1"}, "write HOST:PORT"),
        ({"address": "127.0.0.1:99999"}, "write HOST:PORT"),
        ({"token": "short"}, "5 characters"),
        ({"token": "a token of many words"}, "blanks"),
        ({"token": "a-token-of-length\n"}, "line ends"),
        ({"certificate": "cert.pem"}, "belong together"),
        ({"certificate": "/nowhere/cert.pem", "key": "/nowhere/key.pem"}, "cannot be read"),
    ],
)
def test_an_unsafe_or_unusable_way_to_serve_is_refused(options, text):
    from pathlib import Path

    paths = {name: Path(value) for name, value in options.items() if name in {"certificate", "key"}}
    with pytest.raises(InputError, match=text):
        make_guard(ServeOptions(**{**options, **paths}))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:50051", "[::1]:50051", "127.8.9.1:0"])
def test_loopback_needs_no_token(address):
    assert is_loopback(address)
    guard = make_guard(ServeOptions(address=address))
    assert (guard.callers.are_known, guard.credentials) == (False, None)


def test_a_token_opens_other_addresses():
    assert make_guard(ServeOptions(address="0.0.0.0:50051", token=TOKEN)).callers.are_known


def test_a_taken_address_is_one_clear_error():
    import asyncio

    from reelray.cluster.gateway.served_models import ServedModel, ServedModels
    from tests.support.fake_engine import fake_entry

    models = ServedModels([ServedModel(fake_entry(), FakeEngine)])

    async def start(address):
        await GatewayServer(models, address).start()

    with serve(FakeEngine()) as address, pytest.raises(ResourceError, match=f"cannot listen on {address}"):
        asyncio.run(start(address))
