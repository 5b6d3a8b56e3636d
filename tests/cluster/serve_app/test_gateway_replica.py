"""A gateway looks after engines that do not answer, before a caller finds out."""

import asyncio
import itertools
import threading
from dataclasses import replace

import httpx2
import pytest
import ray

import reelray
from reelray.cluster.assets import room
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.serve_app import gateway_replica
from reelray.cluster.serve_app.arguments import GatewayArguments
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.v1 import renders_pb2
from tests.support.archive import start_store
from tests.support.asset_calls import AssetCaller, holding_uploads, wav
from tests.support.fake_engine import DESCRIPTION, FakeEngine, fake_entry
from tests.support.gateway import connect
from tests.support.render_calls import Caller, refusal
from tests.support.waiting import wait_until
from tests.support.web import start_web


class Door:
    """Answers as it is told."""

    def __init__(self, answer, move=None):
        self.answer, self.moves, self.moved = answer, move, 0

    async def greet(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.sleep(60)
        return self.answer

    def bye(self):
        pass

    def move(self):
        self.moved += 1
        if isinstance(self.moves, Exception):
            raise self.moves
        return self.moves


class WatchedModel(ServedModel):
    def __init__(self):
        super().__init__(fake_entry(), FakeEngine)
        self.looked = threading.Event()

    def look_after(self):
        self.looked.set()


@pytest.mark.parametrize(
    "answer", [ray.exceptions.RayActorError(), ray.exceptions.ActorUnavailableError("x", None), None]
)
def test_who_does_not_answer_is_looked_after(answer, monkeypatch):
    monkeypatch.setattr(gateway_replica, "ANSWER_S", 0.05)
    model = WatchedModel()
    asyncio.run(gateway_replica.greet(Door(answer), model))
    assert model.looked.wait(10)


def test_who_answers_is_left_alone():
    model = WatchedModel()
    door = Door(answer=True)
    asyncio.run(gateway_replica.greet(door, model))
    assert not model.looked.is_set()
    assert door.moved == 0


@pytest.mark.parametrize("replacement", [replace(DESCRIPTION, digest="new"), TimeoutError(), RuntimeError("none")])
def test_who_is_about_to_go_is_left_for_a_replacement_if_there_is_one(replacement):
    model, door = WatchedModel(), Door(answer=False, move=replacement)
    asyncio.run(gateway_replica.greet(door, model))
    assert door.moved == 1
    assert not model.looked.is_set()
    assert model.description.digest == getattr(replacement, "digest", DESCRIPTION.digest)


async def with_replica(arguments, use):
    """Begin, use and end a gateway as Serve does it; `use` blocks and is given its address, and where it has HTTP."""
    replica = gateway_replica.GatewayReplica.__new__(gateway_replica.GatewayReplica)
    try:
        await replica.__init__(arguments, 0.0, [])
        http = [] if replica.http_port() is None else [f"http://127.0.0.1:{replica.http_port()}"]
        return await asyncio.to_thread(use, f"127.0.0.1:{replica.port()}", *http)
    finally:
        if hasattr(replica, "_server"):
            await replica.__del__()
        replica.__class__ = type("Ended", (), {})  # Python would call `__del__` once more, and nobody await it


@pytest.fixture
def no_cluster(monkeypatch):
    def find_models(_engines, _client):
        return [Door(answer=True)], ServedModels([ServedModel(fake_entry(), FakeEngine)])

    monkeypatch.setattr(gateway_replica, "find_models", find_models)
    monkeypatch.delenv("REELRAY_REDIS_URL", raising=False)


@pytest.mark.usefixtures("no_cluster")
def test_renders_are_kept_for_all_gateways(monkeypatch, tmp_path):
    arguments = GatewayArguments(address="127.0.0.1:0", files=str(tmp_path / "files"), keep_days=2)

    def make(address):
        with connect(address) as channel:
            render = Caller(channel).submit()
            assert Caller(channel).watch(render.id)[-1].state == renders_pb2.RENDER_STATE_DONE
            return render.id, Caller(channel).download(render.id)

    with start_store() as store:
        monkeypatch.setenv("REELRAY_REDIS_URL", store.url)
        render_id, data = asyncio.run(with_replica(arguments, make))
        assert data[4:8] == b"ftyp"

        def fetch(address):
            with connect(address) as channel:
                return Caller(channel).download(render_id)

        assert asyncio.run(with_replica(arguments, fetch)) == data


@pytest.mark.usefixtures("no_cluster")
def test_ends_are_told_where_that_is_allowed_and_can_be_signed(monkeypatch, tmp_path):
    with start_web() as web, start_store() as store:
        web.page("/hooks/end")
        monkeypatch.setenv("REELRAY_REDIS_URL", store.url)
        where = {"address": "127.0.0.1:0", "files": str(tmp_path / "files"), "allow_webhooks": (f"{web.url}/hooks",)}

        def make(address):
            with reelray.Client(address) as client:
                client.submit("a disc", webhook=f"{web.url}/hooks/end")
                wait_until(lambda: web.asked)

        with pytest.raises(InputError, match="REELRAY_WEBHOOK_SECRET"):
            asyncio.run(with_replica(GatewayArguments(**where), make))
        monkeypatch.setenv("REELRAY_WEBHOOK_SECRET", "whsec_" + "A" * 32)
        asyncio.run(with_replica(GatewayArguments(**where), make))
    assert web.asked == ["/hooks/end"]


@pytest.mark.usefixtures("no_cluster")
def test_without_files_there_are_no_renders_and_without_a_store_no_files(tmp_path):
    def ask(address):
        with reelray.Client(address) as client, pytest.raises(UnsupportedError, match="keeps no renders"):
            client.submit("a disc")

    asyncio.run(with_replica(GatewayArguments(address="127.0.0.1:0"), ask))
    with pytest.raises(InputError, match="REELRAY_REDIS_URL"):
        asyncio.run(with_replica(GatewayArguments(address="127.0.0.1:0", files=str(tmp_path)), ask))


@pytest.mark.usefixtures("no_cluster")
def test_quotas_and_limits_of_uploads_hold(monkeypatch, tmp_path):
    said = {"quotas": {"tenants": {"default": {"open_renders": 0}}}, "asset_mb": 0.001}
    arguments = GatewayArguments(address="127.0.0.1:0", files=str(tmp_path / "files"), http_port=0, **said)

    def ask(address, url):
        with connect(address) as channel:
            assert refusal(lambda: Caller(channel).submit())[3]["quota"] == "open jobs"
            assert refusal(lambda: AssetCaller(channel).upload(wav(2000)))[2] == "too_large"
            assert AssetCaller(channel).upload(wav(500)).size_bytes > 500
        assert httpx2.post(f"{url}/v1/videos", json={"prompt": "a disc"}).status_code == 429

    with start_store() as store:
        monkeypatch.setenv("REELRAY_REDIS_URL", store.url)
        asyncio.run(with_replica(arguments, ask))


@pytest.mark.usefixtures("no_cluster")
def test_uploads_over_grpc_and_http_are_counted_together(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "MOST_UPLOADS", 1)
    arguments = GatewayArguments(address="127.0.0.1:0", files=str(tmp_path / "files"), http_port=0)

    def ask(address, url):
        def upload(count):
            return httpx2.post(f"{url}/v1/assets", files={"file": ("x.wav", wav(count))}).status_code

        counts = itertools.count(5000)
        with connect(address) as channel:
            assert upload(next(counts)) == 201
            with holding_uploads(channel, 1):
                wait_until(lambda: upload(next(counts)) == 503)
            wait_until(lambda: upload(next(counts)) == 201)

    with start_store() as store:
        monkeypatch.setenv("REELRAY_REDIS_URL", store.url)
        asyncio.run(with_replica(arguments, ask))


@pytest.mark.usefixtures("no_cluster")
def test_openai_s_clients_find_the_same_renders_at_every_gateway(monkeypatch, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("ann a-token-of-ann-here\n")
    common = {"files": str(tmp_path / "files"), "tokens_file": tokens, "http_port": 0}
    arguments = GatewayArguments(address="127.0.0.1:0", **common)
    heads = {"authorization": "Bearer a-token-of-ann-here"}

    def make(_address, url):
        assert httpx2.get(f"{url}/v1/videos").status_code == 401
        return url, httpx2.post(f"{url}/v1/videos", headers=heads, json={"prompt": "a disc"}).json()["id"]

    def find(_address, url):
        return httpx2.get(f"{url}/v1/videos", headers=heads).json()["data"][0]["id"]

    with start_store() as store:
        monkeypatch.setenv("REELRAY_REDIS_URL", store.url)
        url, video_id = asyncio.run(with_replica(arguments, make))
        with pytest.raises(httpx2.ConnectError):  # it ended with its gateway
            httpx2.get(f"{url}/healthz")
        assert asyncio.run(with_replica(arguments, find)) == video_id
